"""Which batch elements the check leaves out because rounding decides a surrogate derivative."""

from __future__ import annotations

import pytest
import torch

from benchmarks import jumps
from benchmarks.check import compare
from benchmarks.models import HALF_WIDTH, accelerated, build
from benchmarks.network import Net
from benchmarks.rows import Row
from sparse_backend import surrogates

ONE_LAYER = Row((2, 3), 4, 4)
TRAINED = {
    "spikes": Row((200, 64, 64, 5), 40, 16, 0.05, 0.03),
    "direct": Row((64, 30, 10), 12, 8, coding="direct", loss="membrane"),
    "rate": Row((256, 10), 8, 8, coding="rate", channels=(3, 4)),
}
EDGE = torch.tensor(1 + HALF_WIDTH)


def net_with_weight(value: torch.Tensor) -> Net:
    """One layer whose first input drives neuron 0 to `value`, and whose second drives all well inside."""
    net = Net(ONE_LAYER, surrogates.fast_sigmoid(25.0).windowed(HALF_WIDTH))
    with torch.no_grad():
        net.feeds[0].bias.zero_()
        net.feeds[0].weight.copy_(torch.tensor([[0.0, 0.96], [0.0, 0.97], [0.0, 0.98]]))
        net.feeds[0].weight[0, 0] = value
    return net


def input_at_the_edge() -> torch.Tensor:
    """The second input spikes in every element, the first in element 2 alone."""
    x = torch.zeros(4, 4, 2)
    x[0, :, 1] = 1
    x[0, 2] = torch.tensor([1.0, 0.0])
    return x


def spikes_of(net: Net, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return net(x, record_all=True)[0]


@pytest.mark.parametrize("edge", [1 + HALF_WIDTH, 1 - HALF_WIDTH])
def test_an_entry_at_an_edge_is_found(edge: float) -> None:
    net, x = net_with_weight(torch.tensor(edge)), input_at_the_edge()
    assert jumps.undecided_elements(net, x, spikes_of(net, x)).tolist() == [False, False, True, False]


def test_entries_off_the_edge_are_decided() -> None:
    for value in (EDGE - 1e-6, EDGE + 1e-6, torch.tensor(1.0005)):
        net, x = net_with_weight(value), input_at_the_edge()
        assert not jumps.undecided_elements(net, x, spikes_of(net, x)).any()


def test_without_a_jump_nothing_is_undecided() -> None:
    net, x = net_with_weight(EDGE), input_at_the_edge()
    for lif in net.lifs:
        lif.spike_grad = surrogates.fast_sigmoid(25.0)
    assert not jumps.undecided_elements(net, x, spikes_of(net, x)).any()


def test_two_roundings_of_one_network_agree() -> None:
    """The last bit of a weight makes an entry active in one and not in the other."""
    below = torch.nextafter(EDGE, torch.tensor(0.0))
    stock, other = net_with_weight(below), net_with_weight(EDGE)
    agreement = compare(stock, other, input_at_the_edge(), torch.arange(4) % 3)
    assert (agreement.diverged, agreement.undecided, agreement.batch) == (0, 1, 4)
    assert agreement.gradient < 1e-6 and agreement.holds(exact=True)


def test_nothing_is_left_out_where_gradients_agree() -> None:
    stock, other = net_with_weight(EDGE), net_with_weight(EDGE)
    agreement = compare(stock, other, input_at_the_edge(), torch.arange(4) % 3)
    assert agreement.undecided == 0 and agreement.holds(exact=True)


@pytest.mark.parametrize("name", TRAINED)
def test_float32_is_off_by_about_the_estimate(name: str) -> None:
    """Near the threshold, stock's membrane potentials are as far from float64's as counts as rounding."""
    models = build(TRAINED[name], "window")
    stock, x = models.stock, models.x
    found: list[list[torch.Tensor]] = [[] for _ in stock.lifs]
    for membranes, lif in zip(found, stock.lifs, strict=True):
        lif.register_forward_hook(lambda module, args, out, to=membranes: to.append(out[1]))
    spikes = spikes_of(stock, x)
    net = jumps.double_precision(stock)
    constant = stock.row.coding == "direct"
    sources = (x.expand(stock.row.steps, *x.shape) if constant else x, *spikes)
    largest = torch.zeros((), dtype=torch.float64)
    for layer, membranes in enumerate(found):
        steps = jumps.exact_steps(net.feeds[layer], net.lifs[layer], sources[layer], constant and layer == 0)
        with torch.no_grad():
            for membrane, (_, exact, rounding) in zip(membranes, steps, strict=True):
                off = (membrane - exact).abs() / rounding
                largest = torch.maximum(largest, (off * ((exact - 1).abs() < 0.2)).max())
    assert 1 < largest < 3


@pytest.mark.parametrize("name", TRAINED)
def test_leaving_them_out_hides_no_wrong_gradient(name: str) -> None:
    """A gradient that is off by a thousandth is still refused, and so is another window."""
    models = build(TRAINED[name], "window")
    assert compare(models.reference, models.fast, models.x, models.labels).holds(exact=True)
    wider, _ = accelerated(build(TRAINED[name], "window").stock, "window", 1.1 * HALF_WIDTH)
    assert not compare(models.reference, wider, models.x, models.labels).holds(exact=True)
    next(models.fast.parameters()).register_hook(lambda gradient: gradient * 1.001)
    assert not compare(models.reference, models.fast, models.x, models.labels).holds(exact=True)
