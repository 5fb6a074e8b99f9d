"""Gradient modes on whole models: the window is the cut surrogate, samples follow budget and seed."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("snntorch")

import snntorch as snn
import torch
from torch import Tensor, nn

import sparse_backend
from sparse_backend import Surrogate, surrogates

X = (torch.rand(20, 6, 10, generator=torch.Generator().manual_seed(0)) < 0.4).double()


class Net(nn.Module):
    """Two hidden layers and a readout; in float64, so that only the mode makes a difference."""

    def __init__(self, surrogate: Surrogate, threshold: float = 1.0, **options: object) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fcs = nn.ModuleList([nn.Linear(10, 12), nn.Linear(12, 12), nn.Linear(12, 3)])
        options = {"threshold": threshold, "spike_grad": surrogate} | options
        self.lifs = nn.ModuleList(snn.Leaky(0.9, **options) for _ in self.fcs)
        self.double()
        with torch.no_grad():
            for fc in self.fcs:
                fc.weight.mul_(2.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mems = [lif.reset_mem() for lif in self.lifs]
        spikes, out = [], []
        for step in x:
            for k, (fc, lif) in enumerate(zip(self.fcs, self.lifs, strict=True)):
                step, mems[k] = lif(fc(step), mems[k])
            spikes.append(step)
            out.append(mems[-1])
        return torch.stack(spikes), torch.stack(out)


def gradients(net: nn.Module) -> list[Tensor]:
    spikes, membranes = net(X)
    weights = torch.linspace(-1, 1, membranes.numel(), dtype=torch.float64).view(membranes.shape)
    loss = (membranes * weights).mean() * 10 + spikes.mean()
    return list(torch.autograd.grad(loss, list(net.parameters())))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / a.norm())


OPTIONS = [{}, {"reset_mechanism": "zero"}, {"reset_delay": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("surrogate", [surrogates.atan(), surrogates.fast_sigmoid(10.0)], ids=str)
def test_the_window_is_stock_with_the_cut_surrogate(surrogate: Surrogate, options: dict[str, object]) -> None:
    threshold = 1.25
    stock = gradients(Net(surrogate.windowed(0.2 * threshold), threshold, **options))
    whole = gradients(Net(surrogate, threshold, **options))
    net = Net(surrogate, threshold, **options)
    sparse_backend.accelerate(net, gradient="window")
    for a, b in zip(stock, gradients(net), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-13)
    assert relative(stock[0], whole[0]) > 0.02  # else the window would show nothing


def test_a_support_within_the_budget_is_exact() -> None:
    narrow = surrogates.triangle(1.0).windowed(0.02)
    stock = gradients(Net(narrow))
    net = Net(narrow)
    report = sparse_backend.accelerate(net)
    for a, b in zip(stock, gradients(net), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-13)
    assert "as it is" in report["lifs.0"].gradient


def test_the_first_batch_already_meets_the_budget() -> None:
    net = Net(surrogates.atan())
    sparse_backend.accelerate(net, budget=0.1)
    gradients(net)
    for layer in sparse_backend.stats(net):
        assert layer.calls == 1
        assert layer.active_fraction == pytest.approx(0.1, rel=0.8)


def test_the_same_seed_gives_the_same_gradients_whatever_torch_draws() -> None:
    nets = [Net(surrogates.atan()) for _ in range(3)]
    for net, seed in zip(nets, (5, 5, 6), strict=True):
        sparse_backend.accelerate(net, seed=seed)
    for _ in range(3):
        found = []
        for net in nets:
            torch.rand(3)
            found.append(gradients(net))
        assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
        assert not torch.equal(found[0][0], found[2][0])


def test_torchs_generator_is_not_touched() -> None:
    net = Net(surrogates.atan())
    sparse_backend.accelerate(net)
    before = torch.get_rng_state()
    gradients(net)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_number_of_threads_does_not_matter() -> None:
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            net = Net(surrogates.fast_sigmoid(5.0))
            sparse_backend.accelerate(net, seed=1)
            gradients(net)
            found.append(gradients(net))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-15)


def test_each_call_is_another_draw() -> None:
    net = Net(surrogates.atan())
    sparse_backend.accelerate(net)
    gradients(net)
    first, second = gradients(net), gradients(net)
    assert not torch.equal(first[0], second[0])


def test_a_copy_draws_as_its_original_would_have() -> None:
    net = Net(surrogates.atan())
    sparse_backend.accelerate(net)
    with torch.no_grad():
        net(X)
    for lif in net.lifs:
        lif.reset_mem()
    twin = copy.deepcopy(net)
    for a, b in zip(gradients(net), gradients(twin), strict=True):
        assert torch.equal(a, b)
