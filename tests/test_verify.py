"""verify: it finds real differences, tells borderline flips apart, and leaves no trace."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("snntorch")

import snntorch as snn
import torch
from torch import Tensor, nn

import sparse_backend
from sparse_backend import ArgumentError, ArgumentTypeError, surrogates
from sparse_backend.accelerate import is_accelerated
from sparse_backend.recording import is_deferred


class Net(nn.Module):
    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 8), snn.Leaky(0.9, spike_grad=surrogates.fast_sigmoid(5.0))
        self.fc2, self.lif2 = nn.Linear(8, 3), snn.Leaky(0.9, spike_grad=surrogates.fast_sigmoid(5.0))
        self.norm = nn.BatchNorm1d(6)
        self.noise = noise

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes, membranes = [], []
        for step in x:
            step = self.norm(step) + self.noise * torch.randn_like(step)
            spk1, mem1 = self.lif1(self.fc1(step), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return {"spikes": torch.stack(spikes), "membranes": torch.stack(membranes)}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(12, 4, 6, generator=torch.Generator().manual_seed(1))


def test_exact_agrees_in_every_output_and_gradient(net: Net, x: Tensor) -> None:
    result = sparse_backend.verify(net, x.requires_grad_())
    assert len(result.outputs) == 2
    assert set(result.gradients) == {name for name, _ in net.named_parameters()} | {"input[0]"}
    assert (result.diverged, result.batch) == (0, 4)
    assert 0 < result.worst < 1e-4
    assert "2 of 2 neuron layers" in str(result) and "fc1.weight" in str(result)
    assert result.as_dict()["worst"] == result.worst


def test_float64_agrees_to_rounding(net: Net, x: Tensor) -> None:
    assert 0 < sparse_backend.verify(net.double(), x.double()).worst < 1e-11


def test_a_gradient_that_is_cut_off_is_seen(net: Net, x: Tensor) -> None:
    result = sparse_backend.verify(net, x, gradient="window", backward_threshold=0.05)
    assert all(value.absolute < 1e-5 for value in result.outputs)
    assert result.gradients["fc1.weight"].relative > 0.1
    assert (
        sparse_backend.verify(net, x, gradient="sampled", budget=0.02).gradients["fc1.weight"].relative > 0.05
    )


def test_a_wrong_gradient_is_seen(net: Net, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_backend.adapters.snntorch import leaky

    monkeypatch.setattr(leaky, "recognise", lambda spike_grad: surrogates.fast_sigmoid(6.0))
    assert sparse_backend.verify(net, x).gradients["fc1.weight"].relative > 1e-2


def snapshot(net: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in (*net.parameters(), *net.buffers())]


@pytest.mark.parametrize("accelerated", [False, True])
def test_nothing_is_left_behind(net: Net, x: Tensor, accelerated: bool) -> None:
    net.noise = 0.1
    report = sparse_backend.accelerate(net, budget=0.1) if accelerated else None
    net(x)["membranes"].sum().backward()
    grads = {name: (p.grad, p.grad.clone()) for name, p in net.named_parameters() if p.grad is not None}
    before, kinds = snapshot(net), [type(module) for module in net.modules()]
    level = report["lif1"].gradient if report else None
    mem = net.lif1.mem
    hooks = [len(module._forward_hooks) for module in net.modules()]
    torch.manual_seed(3)
    random.seed(3)
    drawn = torch.get_rng_state(), random.getstate()
    sparse_backend.verify(net, x, gradient="exact")
    assert torch.equal(torch.get_rng_state(), drawn[0]) and random.getstate() == drawn[1]
    assert [type(module) for module in net.modules()] == kinds
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    assert net.lif1.mem is mem
    for a, b in zip(before, snapshot(net), strict=True):
        assert torch.equal(a, b)
    for name, p in net.named_parameters():
        if name in grads:
            assert p.grad is grads[name][0] and torch.equal(p.grad, grads[name][1])
    if report:
        assert report["lif1"].gradient == level
        assert is_accelerated(net.lif1)


def test_the_same_random_numbers_are_drawn_in_both_runs(net: Net, x: Tensor) -> None:
    net.noise = 1.0
    assert sparse_backend.verify(net, x).worst < 1e-4


def test_the_model_is_put_back_after_an_exception(net: Net, x: Tensor) -> None:
    kinds, before = [type(module) for module in net.modules()], snapshot(net)

    def fail(model: nn.Module, x: Tensor) -> None:
        model(x)
        if is_accelerated(net.lif1):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sparse_backend.verify(net, x, forward=fail)
    assert [type(module) for module in net.modules()] == kinds
    for a, b in zip(before, snapshot(net), strict=True):
        assert torch.equal(a, b)


def test_a_loop_outside_the_model_and_a_loss() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), snn.Leaky(0.9, init_hidden=True, output=True))

    def loop(model: nn.Module, x: Tensor, *, scale: float) -> list[Any]:
        return [model(step * scale)[1] for step in x]

    seen = []

    def loss(outputs: list[Tensor]) -> Tensor:
        seen.append([is_deferred(value) for value in outputs])
        return torch.stack(outputs).square().mean()

    data = {"x": torch.rand(9, 3, 6), "scale": 2.0}
    result = sparse_backend.verify(net, data, loss, forward=loop)
    assert set(result.gradients) == {"0.weight", "0.bias"} and 0 < result.worst < 1e-4
    assert not any(seen[0]) and all(seen[1])


def test_borderline_flips_are_counted_and_left_out(
    net: Net, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = sparse_backend.verify(net, x)
    upstream = snn.Leaky.forward

    def flipped(self: snn.Leaky, input_: Tensor, mem: Tensor | None = None) -> Any:
        if self is net.lif2:
            nudge = torch.zeros_like(input_)
            nudge[1] = 5.0  # batch element 1 spikes where it would not
            input_ = input_ + nudge
        return upstream(self, input_, mem)

    monkeypatch.setattr(snn.Leaky, "forward", flipped)
    result = sparse_backend.verify(net, x)
    assert (result.diverged, result.batch, result.masked) == (1, 4, True)
    assert result.worst < 1e-4 and clean.diverged == 0
    assert "flipped in 1 of 4" in str(result)
    unmasked = sparse_backend.verify(net, x, lambda out: out["membranes"].square().mean())
    assert (unmasked.diverged, unmasked.masked) == (1, False)
    assert unmasked.gradients["fc2.weight"].relative > 1e-2


def test_the_kill_switch_is_named(net: Net, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_BACKEND_DISABLE", "1")
    result = sparse_backend.verify(net, x)
    assert result.worst == 0 and "SPARSE_BACKEND_DISABLE" in str(result)


def test_bad_arguments(net: Net, x: Tensor) -> None:
    with pytest.raises(ArgumentTypeError, match="must be a torch"):
        sparse_backend.verify("net", x)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="loss_fn returned"):
        sparse_backend.verify(net, x, lambda out: out["spikes"])
    with pytest.raises(ArgumentError, match="gradient='none'"):
        sparse_backend.verify(net, x, gradient="none")
