"""Which batch elements the check leaves out because rounding decides a maximum."""

from __future__ import annotations

import torch

from benchmarks.check import compare
from benchmarks.models import build
from benchmarks.network import Net
from benchmarks.pooling import undecided_elements
from benchmarks.rows import Row

ROW = Row((64, 3), 2, 4, coding="rate", channels=(1,))


def net_with_taps(*taps: float) -> Net:
    """A network whose convolution has these taps first, and else zeros."""
    net = Net(ROW)
    with torch.no_grad():
        for parameter in net.feeds[0][0].parameters():
            parameter.zero_()
        net.feeds[0][0].weight.view(-1)[: len(taps)] = torch.tensor(taps)
    return net


def input_with_one_spike() -> torch.Tensor:
    """Zeros, but for a spike in element 2, which neighbouring windows see through either tap."""
    x = torch.zeros(2, 4, 1, 8, 8)
    x[1, 2, 0, 3, 3] = 1
    return x


def test_entries_that_rounding_could_swap_are_found() -> None:
    nearly = net_with_taps(0.5, 0.5 + 6e-8)
    assert undecided_elements(nearly, input_with_one_spike(), []).tolist() == [False, False, True, False]


def test_clear_maxima_and_equal_entries_are_decided() -> None:
    for net in (net_with_taps(0.5, 0.25), net_with_taps(0.5, 0.5)):
        assert not undecided_elements(net, input_with_one_spike(), []).any()


def test_leaving_them_out_hides_no_wrong_gradient() -> None:
    """A convolution's gradient that is off by a thousandth is still refused."""
    row = Row((256, 10), 5, 8, coding="rate", channels=(3, 4))
    models = build(row, "exact")
    assert compare(models.reference, models.fast, models.x, models.labels).holds(exact=True)
    models.fast.feeds[0][0].weight.register_hook(lambda gradient: gradient * 1.001)
    assert not compare(models.reference, models.fast, models.x, models.labels).holds(exact=True)
