"""Calls on accelerated Norse modules: states, outputs and exceptions are upstream's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("norse")

import norse.torch as norse
import torch
from torch import Tensor, nn

import sparse_backend
from sparse_backend import ArgumentError
from sparse_backend.accelerate import is_accelerated


def inputs(steps: int = 10, batch: int = 3, width: int = 5) -> Tensor:
    return (torch.rand(steps, batch, width, generator=torch.Generator().manual_seed(2)) < 0.4).float() * 30


def by_steps(model: nn.Module, x: Tensor) -> Any:
    state, outputs = None, []
    for step in x:
        out, state = model(step, state)
        outputs.append(out)
    return torch.stack(outputs), state


def at_once(model: nn.Module, x: Tensor) -> Any:
    return model(x)


def flat(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for part in tree for leaf in flat(part)] if isinstance(tree, (tuple, list)) else []


def shape_of(tree: Any) -> Any:
    """The nesting, with the types of NamedTuples."""
    if isinstance(tree, (tuple, list)):
        return type(tree), [shape_of(part) for part in tree]
    return isinstance(tree, Tensor)


def cells() -> norse.SequentialState:
    return norse.SequentialState(
        nn.Linear(5, 6), norse.LIFCell(), nn.Linear(6, 6), norse.LIFBoxCell(), nn.Linear(6, 2), norse.LICell()
    )


def modules() -> norse.SequentialState:
    return norse.SequentialState(nn.Linear(5, 6), norse.LIF(), nn.Linear(6, 2), norse.LI())


def compare(make: Callable[[], nn.Module], run: Callable[[nn.Module, Tensor], Any]) -> None:
    torch.manual_seed(0)
    stock = make()
    ours = copy.deepcopy(stock)
    report = sparse_backend.accelerate(ours, gradient="exact")
    assert not report.stock and report.accelerated
    results = []
    for model in (stock, ours):
        x = inputs().requires_grad_()
        outcome = run(model, x)
        leaves = [x, *model.parameters()]
        loss = sum((value * torch.linspace(-1, 2, value.shape[-1])).sum() for value in flat(outcome))
        assert isinstance(loss, Tensor)
        results.append((outcome, torch.autograd.grad(loss, leaves)))
    (a, a_grads), (b, b_grads) = results
    assert shape_of(a) == shape_of(b)
    assert any(value.gt(0).any() for value in flat(a))
    for one, other in zip([*flat(a), *a_grads], [*flat(b), *b_grads], strict=True):
        assert one.requires_grad == other.requires_grad and one.dtype == other.dtype
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_cells_in_a_loop() -> None:
    compare(cells, by_steps)


def test_time_modules() -> None:
    compare(modules, at_once)


def test_time_modules_with_a_state_from_before() -> None:
    def run(model: nn.Module, x: Tensor) -> Any:
        _, state = model(x[:4])
        return model(x[4:], state)

    compare(modules, run)


def test_states_are_upstreams_named_tuples() -> None:
    model = norse.LIFCell()
    sparse_backend.accelerate(model)
    _, state = model(inputs()[0])
    assert type(state) is norse.LIFFeedForwardState
    moved = state._replace(v=state.v * 0.5)
    out, _ = model(inputs()[1], moved)
    fresh = norse.LIFCell()
    _, expected = fresh(inputs()[0])
    assert torch.equal(out, fresh(inputs()[1], expected._replace(v=expected.v * 0.5))[0])


def test_learnable_members_of_the_parameter_tuple_get_gradients() -> None:
    torch.manual_seed(0)

    def leaf(value: float) -> nn.Parameter:
        return nn.Parameter(torch.tensor(value))

    def make() -> tuple[nn.Module, list[nn.Parameter]]:
        leaves = [leaf(200.0), leaf(100.0), leaf(0.05), leaf(0.7), leaf(-0.1)]
        p = norse.LIFParameters(*leaves, method="tanh", alpha=torch.tensor(3.0))
        return norse.LIFCell(p), leaves

    found = []
    for accelerate in (False, True):
        model, leaves = make()
        if accelerate:
            sparse_backend.accelerate(model, gradient="exact")
        spikes, state = by_steps(model, inputs() * 0.1)
        assert spikes.mean() > 0.02
        found.append(torch.autograd.grad(spikes.sum() + state.v.sum() + state.i.sum(), leaves))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_float64_input_is_promoted_as_upstream_does() -> None:
    for make, run in ((norse.LIF, at_once), (norse.LIFCell, by_steps), (norse.LICell, by_steps)):
        stock, ours = make(), make()
        sparse_backend.accelerate(ours)
        a, b = (flat(run(model, inputs().double())) for model in (stock, ours))
        for one, other in zip(a, b, strict=True):
            assert one.dtype == other.dtype == torch.float64
            torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


def test_sparse_input_and_record_states_run_upstream() -> None:
    model = norse.LIFCell()
    sparse_backend.accelerate(model)
    out, _ = model(inputs()[0].to_sparse())
    assert out.is_sparse
    recording = norse.LIF(record_states=True)
    report = sparse_backend.accelerate(recording)
    assert not is_accelerated(recording) and "record_states" in report[""].reason


@pytest.mark.parametrize("bad", ["x", torch.zeros(3), torch.zeros(3, 4)], ids=["text", "rank", "features"])
def test_upstreams_exceptions_are_raised_at_the_call(bad: Any) -> None:
    errors = []
    for accelerate in (False, True):
        model = cells()
        if accelerate:
            sparse_backend.accelerate(model)
        _, state = model(inputs()[0])
        with pytest.raises(Exception) as caught:
            model(bad, state)
        errors.append(caught.value)
    assert type(errors[0]) is type(errors[1]) and str(errors[0]) == str(errors[1])


def test_a_sequence_without_steps_raises_upstreams_exception() -> None:
    stock, ours = norse.LIF(), norse.LIF()
    sparse_backend.accelerate(ours)
    errors = []
    for model in (stock, ours):
        with pytest.raises(RuntimeError) as caught:
            model(torch.zeros(0, 3, 4))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_a_threshold_must_be_finite_but_may_be_negative() -> None:
    bio = norse.LIFCell(norse.LIFParameters(v_leak=torch.tensor(-65.0), v_th=torch.tensor(-50.0)))
    sparse_backend.accelerate(bio)
    bio(inputs()[0])
    broken = norse.LIFCell(norse.LIFParameters(v_th=torch.tensor(float("nan"))))
    sparse_backend.accelerate(broken)
    with pytest.raises(ArgumentError, match="threshold=nan"):
        broken(inputs()[0])
