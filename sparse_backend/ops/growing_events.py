"""Events of an input that is given one step at a time, from memory that may be another's a moment later."""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch_private import read_pointer
from . import backend, cost, cpu, native_call

__all__ = ["GrowingEvents"]

_DTYPES = (torch.float32, torch.float64)
_FEWEST_ENTRIES = 1 << 14
"""Of a step: a smaller one is copied in less time than a call of the kernels takes."""
_MOST_DENSE = 0.25
"""An event takes twice the memory of an entry; from here on a dense copy is no larger a burden."""


class GrowingEvents:
    """The events of a sequence of steps `[B, N_in]`, float32 or float64 on the CPU, which are not kept."""

    def __init__(self, first: Tensor) -> None:
        self._shape, self._dtype = first.shape, first.dtype
        self.steps = 0
        self._lists: tuple[Tensor, Tensor, Tensor] | None = None
        self._growing = native_call.module().GrowingEvents(
            *(*first.shape, native_call.dtype_code(first.dtype), torch.get_num_threads())
        )

    @staticmethod
    def suits(step: Tensor) -> bool:
        """Whether a step is of the kind that can be added, and large enough to be worth it."""
        return (
            step.dim() == 2
            and step.numel() >= _FEWEST_ENTRIES
            and step.dtype in _DTYPES
            and step.device.type == "cpu"
            and (step.shape[1] == 1 or step.stride(1) == 1)
            and backend.native() is not None
        )

    def add(self, step: Tensor) -> bool:
        """Read one more step, for which `suits` holds; False if there are so many events that a dense copy is
        the better way to keep the sequence."""
        count: int = self._growing.add(read_pointer(step), step.stride(0))
        self.steps += 1
        return count <= min(_MOST_DENSE, cost.feed_limit()) * self.steps * step.numel()

    def lists(self) -> tuple[Tensor, Tensor, Tensor]:
        """(ptr, idx, val) of all steps (see events.py); none can be added any more."""
        if self._lists is None:
            batch, _ = self._shape
            self._lists = cpu.lists(self._growing.finish(), self.steps * batch, self._dtype)
        return self._lists

    def dense(self) -> Tensor:
        """The steps `[T, B, N_in]`, with zeros where they had negative zeros."""
        return cpu.to_dense(*self.lists(), (self.steps, *self._shape), self._dtype)
