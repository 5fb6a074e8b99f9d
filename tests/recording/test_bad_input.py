"""Wrong input raises upstream's exception at the call that caused it, and nothing recorded before is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_backend import recording
from sparse_backend.errors import RecordedStepError

from .conftest import BATCH, HIDDEN, INPUTS, STEPS, Net, Twins, record, start, step

BAD: dict[str, Callable[[], Any]] = {
    "wrong in_features": lambda: torch.zeros(BATCH, INPUTS + 1),
    "wrong dtype": lambda: torch.zeros(BATCH, INPUTS, dtype=torch.float64),
    "integers": lambda: torch.zeros(BATCH, INPUTS, dtype=torch.int64),
    "no tensor": lambda: [[0.0] * INPUTS] * BATCH,
    "none": lambda: None,
    "scalar": lambda: torch.zeros(()),
    "another device": lambda: torch.zeros(BATCH, INPUTS, device="meta"),
    "another batch": lambda: torch.zeros(BATCH + 1, INPUTS),
}


def outcome(function: Callable[[], Any]) -> tuple[type[BaseException], str] | None:
    try:
        function()
    except Exception as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize("when", [0, 4])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_input_raises_as_in_stock_and_loses_nothing(net: Twins, x: Tensor, bad: str, when: int) -> None:
    results = []
    for model in (net.stock, net.fast):
        mem1, mem2 = start(model)
        out = []
        for t in range(when):
            _, mem1, _, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        raised = outcome(lambda model=model, mem1=mem1: model.lif1(model.fc1(BAD[bad]()), mem1)[0] + 0)
        for t in range(when, STEPS):
            _, mem1, _, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        loss = torch.stack(out).pow(2).sum()
        loss.backward()
        results.append((raised, loss.detach(), [p.grad for p in model.parameters()]))
    (expected, loss, gradients), (raised, value, found) = results
    assert raised == expected
    torch.testing.assert_close(value, loss, rtol=1e-4, atol=1e-5)
    for gradient, reference in zip(found, gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(INPUTS,), (1, INPUTS), (2, 3, INPUTS), (0, INPUTS)])
def test_unusual_but_valid_shapes(net: Twins, shape: tuple[int, ...]) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for frame in x:
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            out += [spk2, mem2]
        return out

    net.check(loop, (torch.rand(6, *shape) < 0.4).float(), backward=0 not in shape)


def test_a_wrong_state_raises_as_in_stock(net: Twins, x: Tensor) -> None:
    bad = [torch.zeros(BATCH, HIDDEN + 1), torch.zeros(BATCH, HIDDEN, dtype=torch.float64), "mem"]
    for state in bad:
        results = [
            outcome(lambda m=m, s=state: [t + 0 for t in m.lif1(m.fc1(x[0]), s)])  # type: ignore[misc]
            for m in (net.stock, net.fast)
        ]
        assert results[0] == results[1]


@pytest.mark.parametrize("other", [torch.zeros(0), torch.zeros(BATCH, HIDDEN + 1), None])
def test_stacking_unequal_steps_raises_as_in_stock(net: Twins, x: Tensor, other: Tensor | None) -> None:
    results = []
    for model in (net.stock, net.fast):
        mem1 = start(model)[0]
        spikes: list[Any] = [other]
        for frame in x:
            spk, mem1 = model.lif1(model.fc1(frame), mem1)
            spikes.append(spk)
        results.append(outcome(lambda spikes=spikes: torch.stack(spikes)))  # type: ignore[misc]
    assert results[0] == results[1] and results[0] is not None


def test_no_time_steps_at_all(net: Twins) -> None:
    for model in (net.stock, net.fast):
        with pytest.raises(RuntimeError, match="non-empty"):
            model(torch.zeros(0, BATCH, INPUTS))


def test_a_failure_while_executing_is_chained_into_every_read(
    net: Twins, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_backend.recording import execute

    kept = record(net.fast, x)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError("no memory for this sequence")

    with monkeypatch.context() as patched:
        patched.setattr(execute, "run_layer", broken)
        with pytest.raises(RecordedStepError, match="no memory"):
            kept.spk2[0].sum()
    for value in (kept.mem1[3], kept.mem2[-1], kept.spk1[2]):
        with pytest.raises(RecordedStepError, match="no memory") as caught:
            value + 1
        assert isinstance(caught.value.__cause__, MemoryError)
    # The next loop is not affected.
    recording.flush()
    spikes, _ = net.fast(x)
    assert torch.equal(spikes, net.stock(x)[0])
