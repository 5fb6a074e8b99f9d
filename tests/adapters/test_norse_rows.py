"""Norse modules read as data and run as sequences give what the unmodified modules give."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("norse")

import norse.torch as norse
import torch
from norse.torch.functional.threshold import threshold
from torch import Tensor, nn

from sparse_backend.adapters import Claim, Stock
from sparse_backend.adapters.norse import (
    AcceleratedLI,
    AcceleratedLICell,
    AcceleratedLIF,
    AcceleratedLIFBoxCell,
    AcceleratedLIFCell,
    adapter,
)
from sparse_backend.adapters.norse.surrogates import recognise
from sparse_backend.neurons import Surrogate
from sparse_backend.ops.sequence import GradientRule, run_layer

T, B, N = 20, 3, 6
DOUBLE = torch.float64
METHODS = ("super", "triangle", "tanh", "circ", "heavi_erfc")


def leaf(low: float, high: float, shape: tuple[int, ...] = ()) -> nn.Parameter:
    return nn.Parameter(low + (high - low) * torch.rand(shape, dtype=DOUBLE))


def compare(module: nn.Module, layer: Any, leaves: list[Tensor]) -> None:
    """A loop over the unmodified cell against one sequence: outputs, final states and every gradient."""
    torch.manual_seed(5)
    current = (torch.randn(T, B, N, dtype=DOUBLE) * 0.7 + 0.2).requires_grad_()
    first = layer.state_type(
        *(torch.rand(B, N, dtype=DOUBLE).requires_grad_() for _ in layer.state_type._fields)
    )
    outputs, state = [], first
    for step in current:
        out, state = module(step, state)
        outputs.append(out)
    neuron = layer.neuron(module, torch.empty((), dtype=DOUBLE), torch.Size([N]))
    assert neuron is not None
    ours = run_layer(
        *(current, None, neuron, tuple(first)),
        steps=T,
        rule=GradientRule("exact"),
        want_spikes=neuron.spec.fires,
        want_membrane=not neuron.spec.fires,
    )
    sequence = ours.dense_spikes if neuron.spec.fires else ours.membrane
    assert sequence is not None
    stock = torch.stack(outputs)
    if neuron.spec.fires:
        assert 0.02 < stock.mean() < 0.8
        assert torch.equal(stock, sequence)
    weights = [torch.randn_like(stock), *(torch.randn_like(value) for value in state)]
    wanted = [*leaves, current, *first]
    pairs = [(stock, sequence), *zip(state, ours.state, strict=True)]
    losses = [sum((pair[side] * w).sum() for pair, w in zip(pairs, weights, strict=True)) for side in (0, 1)]
    found = [torch.autograd.grad(loss, wanted, allow_unused=True) for loss in losses]
    for a, b in (*pairs, *zip(*found, strict=True)):
        if a is None or b is None:
            assert all(value is None or not value.any() for value in (a, b))
            continue
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(), (N,)], ids=["scalar", "per neuron"])
def test_lif(method: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    leaves = [
        leaf(100, 300, shape),
        leaf(100, 300, shape),
        leaf(-0.1, 0.1),
        leaf(0.3, 0.6, shape),
        leaf(-0.2, 0.2),
    ]
    module = norse.LIFCell(norse.LIFParameters(*leaves, method=method, alpha=torch.tensor(2.0)))
    compare(module, AcceleratedLIFCell.layer, leaves)


@pytest.mark.parametrize("reset", [norse.reset_value, norse.reset_subtract])
@pytest.mark.parametrize("shape", [(), (N,)], ids=["scalar", "per neuron"])
def test_lif_box(reset: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    leaves = [leaf(100, 300, shape), leaf(-0.1, 0.1), leaf(0.3, 0.6, shape), leaf(-0.2, 0.2)]
    p = norse.LIFBoxParameters(*leaves, method="tanh", alpha=torch.tensor(2.0), reset_method=reset)
    compare(norse.LIFBoxCell(p), AcceleratedLIFBoxCell.layer, leaves)


@pytest.mark.parametrize("shape", [(), (N,)], ids=["scalar", "per neuron"])
def test_li(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    leaves = [leaf(100, 300, shape), leaf(100, 300, shape), leaf(-0.1, 0.1, shape)]
    compare(norse.LICell(norse.LIParameters(*leaves)), AcceleratedLICell.layer, leaves)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 100.0])
@pytest.mark.parametrize("method", METHODS)
def test_methods_are_read_from_the_installed_version(method: str, alpha: float) -> None:
    surrogate = recognise(method, alpha)
    assert isinstance(surrogate, Surrogate)
    x = torch.linspace(-2, 2, 401, dtype=DOUBLE, requires_grad=True)
    spikes = threshold(x, method, torch.tensor(alpha, dtype=DOUBLE))
    (expected,) = torch.autograd.grad(spikes.sum(), x)
    torch.testing.assert_close(surrogate.derivative(x.detach()), expected, rtol=1e-9, atol=1e-12)


def test_a_changed_formula_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_backend.adapters.norse import surrogates as ours

    def other(method: str, alpha: float) -> Tensor:
        return 3 / (1 + torch.tensor(ours._POINTS, dtype=DOUBLE).abs())

    monkeypatch.setattr(ours, "_upstream_derivative", other)
    recognise.cache_clear()
    try:
        assert "another derivative" in str(recognise("super", 7.0))
    finally:
        recognise.cache_clear()


def test_which_modules_are_claimed() -> None:
    claimed = {
        norse.LIFCell(): AcceleratedLIFCell,
        norse.LIF(): AcceleratedLIF,
        norse.LIFBoxCell(): AcceleratedLIFBoxCell,
        norse.LICell(): AcceleratedLICell,
        norse.LI(): AcceleratedLI,
    }
    for module, accelerated in claimed.items():
        decision = adapter.examine(module)
        assert isinstance(decision, Claim) and decision.accelerated is accelerated


def test_options_that_stay_stock_say_why() -> None:
    class Mine(norse.LIF):
        pass

    def odd(z: Tensor, v: Tensor, reset: Tensor, th: Tensor) -> Tensor:
        return v

    cases = [
        (norse.LIF(record_states=True), "record_states"),
        (norse.LIFCell(norse.LIFParameters(method="adjoint")), "adjoint"),
        (norse.LIF(norse.LIFParameters(method="heaviside")), "passes no gradient"),
        (norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=odd)), "odd"),
        (norse.LIFCell(norse.LIFParameters(alpha=torch.ones(3))), "alpha"),
        (norse.LIFRecurrent(3, 4), "recurrent"),
        (norse.LSNNCell(), "LSNNCell"),
        (norse.LIFEx(), "LIFEx"),
        (norse.LILinearCell(3, 4), "LILinearCell"),
        (Mine(), "Mine is a subclass of LIF"),
    ]
    for module, expected in cases:
        decision = adapter.examine(module)
        assert isinstance(decision, Stock), module
        assert expected in decision.reason, decision.reason
    assert adapter.examine(nn.Linear(2, 2)) is None
