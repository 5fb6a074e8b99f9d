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
    for step in steps:
        count += int((step != 0).sum())
        assert growing.add(step.data_ptr(), step.stride(0)) == count
    return cpu.lists(growing.finish(), len(steps) * first.shape[0], first.dtype)


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
    for step in x:
        frame.copy_(step)
        growing.add(frame.data_ptr(), frame.stride(0))
        frame.fill_(7.0)
    ptr, idx, _ = cpu.lists(growing.finish(), 9 * 40, torch.float32)
    assert torch.equal(ptr, events_of(x)[0]) and torch.equal(idx, events_of(x)[1])


def test_bad_arguments() -> None:
    for bad in ((0, 3, _cpu.FLOAT32, 1), (3, 0, _cpu.FLOAT32, 1), (3, 3, _cpu.FLOAT32, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            _cpu.GrowingEvents(*bad)
    with pytest.raises(ValueError, match="must be FLOAT32 or FLOAT64"):
        _cpu.GrowingEvents(3, 3, _cpu.UINT8, 1)
    growing = _cpu.GrowingEvents(3, 3, _cpu.FLOAT32, 1)
    with pytest.raises(ValueError, match="must not be null"):
        growing.add(0, 3)
    with pytest.raises(ValueError, match="there is no step"):
        growing.finish()
    x = torch.ones(3, 3)
    growing.add(x.data_ptr(), 3)
    growing.finish()
    with pytest.raises(ValueError, match="they have been taken"):
        growing.finish()


def test_which_steps_suit() -> None:
    step = torch.zeros(128, 256)
    assert (
        GrowingEvents.suits(step) and GrowingEvents.suits(step.double()) and GrowingEvents.suits(step[:, 1:])
    )
    others = (step[:9], step.half(), step.t(), step[:, ::2], step.view(2, 64, 256), step.to("meta"))
    assert not any(map(GrowingEvents.suits, others))
