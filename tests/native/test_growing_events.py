"""Events of an input that is shown step by step: the same lists as of the whole sequence at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_backend.ops import cpu
from sparse_backend.ops.growing_events import GrowingEvents

from .native_layer import _cpu, dtype_code, events_of


def grown(steps: list[Tensor], threads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    first = steps[0]
    growing = _cpu.GrowingEvents(*first.shape, dtype_code(first.dtype), threads)
    count = 0
    for t, step in enumerate(steps):
        count += int((step != 0).sum())
        assert growing.add(t, step.data_ptr(), step.stride(0), threads) == count
    return cpu.lists(growing.finish(len(steps), threads), len(steps) * first.shape[0], first.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 65), (70, 1, 9), (33, 7, 200), (5, 300, 64)])
@pytest.mark.parametrize("density", [0.0, 0.03, 1.0])
def test_the_same_lists_as_of_the_whole(
    dtype: torch.dtype, shape: tuple[int, int, int], density: float
) -> None:
    generator = torch.Generator().manual_seed(shape[1])
    x = (torch.rand(shape, generator=generator) < density).to(dtype)
    layouts = x, x.transpose(0, 1).contiguous().transpose(0, 1), torch.cat([x, x], 2)[..., : shape[2]]
    for view in layouts:
        for threads in (1, 2, 5):
            ptr, idx, val = grown(list(view), threads)
            wanted = events_of(x)
            assert torch.equal(ptr, wanted[0]) and torch.equal(idx, wanted[1])
            assert not val.numel()


@pytest.mark.parametrize("position", [(0, 0, 0), (4, 40, 100), (11, 69, 129)])
def test_a_value_that_is_not_one(position: tuple[int, int, int]) -> None:
    x = (torch.rand(12, 70, 130, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    x[position] = -0.5
    for actual, wanted in zip(grown(list(x)), events_of(x), strict=True):
        assert torch.equal(actual, wanted)


def test_steps_are_not_looked_at_again() -> None:
    x = (torch.rand(9, 40, 50, generator=torch.Generator().manual_seed(2)) < 0.2).float()
    frame = torch.empty(40, 50)
    growing = _cpu.GrowingEvents(40, 50, _cpu.FLOAT32, 2)
    for t, step in enumerate(x):
        frame.copy_(step)
        growing.add(t, frame.data_ptr(), frame.stride(0))
        frame.fill_(7.0)
    ptr, idx, _ = cpu.lists(growing.finish(9), 9 * 40, torch.float32)
    assert torch.equal(ptr, events_of(x)[0]) and torch.equal(idx, events_of(x)[1])


def test_bad_arguments() -> None:
    for bad in ((0, 3, _cpu.FLOAT32, 1), (3, 0, _cpu.FLOAT32, 1), (3, 3, _cpu.FLOAT32, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            _cpu.GrowingEvents(*bad)
    with pytest.raises(ValueError, match="must be FLOAT32 or FLOAT64"):
        _cpu.GrowingEvents(3, 3, _cpu.UINT8, 1)
    growing = _cpu.GrowingEvents(3, 3, _cpu.FLOAT32, 1)
    x = torch.ones(3, 3)
    with pytest.raises(ValueError, match="must not be null"):
        growing.add(0, 0, 3)
    for t in (-1, 1):
        with pytest.raises(ValueError, match=f"t={t} must be at least 0 and less than 1"):
            growing.add(t, x.data_ptr(), 3)
    with pytest.raises(ValueError, match="t=0 must be at least 0 and less than 0"):
        growing.write_step(0, x.data_ptr())
    growing.add(0, x.data_ptr(), 3)
    for steps in (0, 2):
        with pytest.raises(ValueError, match=f"steps={steps} must be 1 to 1"):
            growing.finish(steps)
    growing.finish(1)
    calls = (
        lambda: growing.add(1, x.data_ptr(), 3),
        lambda: growing.write_step(0, x.data_ptr()),
        lambda: growing.finish(1),
    )
    for call in calls:
        with pytest.raises(ValueError, match="they have been taken"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", ["ones", "other"])
def test_steps_are_forgotten_and_shown_again(dtype: torch.dtype, values: str) -> None:
    generator = torch.Generator().manual_seed(5)
    x = (torch.rand(9, 70, 50, generator=generator) < 0.2).to(dtype)
    if values == "other":
        x[4] *= 0.5
    growing = _cpu.GrowingEvents(70, 50, dtype_code(dtype), 2)
    out = torch.full((70, 50), 7.0, dtype=dtype)
    for t in (0, 1, 2, 3, 3, 4, 5, 6, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8):
        growing.add(t, x[t].data_ptr(), 50, 2)
        for earlier in {0, t // 2, t}:
            growing.write_step(earlier, out.data_ptr())
            assert torch.equal(out, x[earlier])
    lists = cpu.lists(growing.finish(7), 7 * 70, dtype)
    for actual, wanted in zip(lists[:2], events_of(x[:7])[:2], strict=True):
        assert torch.equal(actual, wanted)
    if values == "other":
        assert torch.equal(lists[2], events_of(x[:7])[2])


def test_which_steps_suit() -> None:
    step = torch.zeros(128, 256)
    assert (
        GrowingEvents.suits(step) and GrowingEvents.suits(step.double()) and GrowingEvents.suits(step[:, 1:])
    )
    others = (step[:9], step.half(), step.t(), step[:, ::2], step.view(2, 64, 256), step.to("meta"))
    assert not any(map(GrowingEvents.suits, others))


def test_as_many_threads_as_torch_has_at_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked process has to set one, or the first parallel region waits for ever."""
    events, seen = GrowingEvents(torch.zeros(128, 256)), []

    class Native:
        def add(self, t: int, x: int, stride: int, threads: int) -> int:
            seen.append(threads)
            return 0

    events._growing = Native()
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert events.add(torch.zeros(128, 256))
    assert seen == [1, 3]
