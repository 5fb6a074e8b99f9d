"""Deferred tensors are handed out again, and never while anybody could tell."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_backend import recording
from sparse_backend.recording import deferred

from .conftest import STEPS, Net, Twins, start, step


@pytest.fixture
def died(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per deferred tensor that is gone for good."""
    deaths: list[int] = []
    monkeypatch.setattr(deferred.Deferred, "__del__", lambda self: deaths.append(1), raising=False)
    return deaths


def test_a_loop_makes_few_of_them(net: Twins, x: Tensor, died: list[int]) -> None:
    mem1, mem2 = start(net.fast)
    for frame in x:
        _, mem1, _, mem2 = step(net.fast, frame, mem1, mem2)
    slots = 2 + 2 * 2
    assert len(died) <= slots
    recording.flush()
    del mem1, mem2, _
    net.fast.lif1.reset_mem()
    net.fast.lif2.reset_mem()
    assert 2 * slots <= len(died) <= 3 * slots


def test_those_that_are_held_are_not_used_again(net: Twins, x: Tensor) -> None:
    mem1, mem2 = start(net.fast)
    kept: list[Tensor] = []
    for frame in x:
        values = step(net.fast, frame, mem1, mem2)
        _, mem1, _, mem2 = values
        kept.extend(values)
    assert len({id(value) for value in kept}) == 4 * STEPS


@pytest.mark.parametrize("holder", ["attribute", "detached alias", "view", "detach_"])
def test_what_happened_to_one_stays_with_it(net: Twins, x: Tensor, holder: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        kept: list[Any] = []
        for t in range(STEPS):
            spk1, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            assert not hasattr(spk1, "note") and spk2.requires_grad
            if holder == "attribute":
                spk1.note = t  # type: ignore[attr-defined]
            elif holder == "detached alias":
                kept.append(mem1.detach())
            elif holder == "view":
                kept.append(spk1.view(-1))
            elif t == 3:
                spk2.detach_()
            del spk1
        return [*kept, mem1, spk2, mem2]

    net.check(loop, x)


def test_a_weak_reference_never_leads_to_another_step(net: Twins, x: Tensor) -> None:
    expected = net.stock(x)[0]
    mem1, mem2 = start(net.fast)
    references = []
    for frame in x:
        _, mem1, spk2, mem2 = step(net.fast, frame, mem1, mem2)
        references.append(weakref.ref(spk2))
    reached = [reference() for reference in references]
    assert reached[-1] is spk2
    for value, reference in zip(reached, expected, strict=True):
        assert value is None or torch.equal(value, reference)


def test_a_membrane_of_the_step_before_is_known_to_be_held(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        for frame in x:
            before = mem1
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
        return [before, mem1, mem2]

    net.check(loop, x)


def test_wrappers_of_an_abandoned_step(net: Twins, x: Tensor) -> None:
    """An unfinished step moves to the next segment together with what was handed out for it."""

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t, frame in enumerate(x):
            spk1, mem1 = model.lif1(model.fc1(frame), mem1)
            if t % 3 == 1:
                mem2 = torch.zeros_like(mem2)
            spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out += [mem1, mem2] if t % 2 else [spk1, spk2]
        return out

    net.check(loop, torch.cat([x, x]))
