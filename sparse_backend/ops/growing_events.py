"""Events of an input that is given one step at a time, from memory that may be another's a moment later."""

from __future__ import annotations

import threading

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
    """The events of a sequence of steps `[B, N_in]`, float32 or float64 on the CPU, which are not kept.

    steps: how many there are; fewer may be set, and those after them are forgotten.  lock: for readers.
    """

    def __init__(self, first: Tensor) -> None:
        self.steps = 0
        self._shape, self._dtype = first.shape, first.dtype
        self.lock = threading.RLock()
        self._lists: tuple[Tensor, Tensor, Tensor] | None = None
        self._growing = native_call.module().GrowingEvents(
            *(*first.shape, native_call.dtype_code(first.dtype)), threads=torch.get_num_threads()
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
        """Read the next step, for which `suits` holds. False, and the step does not count, if there are so
        many events that the sequence is better kept as a dense copy, or if `lists` has been called.

        An interrupted call may be repeated.
        """
        if self._lists is not None:
            return False
        threads = torch.get_num_threads()
        count: int = self._growing.add(self.steps, read_pointer(step), step.stride(0), threads)
        fits = count <= min(_MOST_DENSE, cost.feed_limit()) * (self.steps + 1) * step.numel()
        self.steps += fits
        return fits

    def drop_last(self) -> Tensor:
        """Take the last step off, and return it."""
        step = torch.empty(self._shape, dtype=self._dtype, device="cpu")
        self._growing.write_step(self.steps - 1, step.data_ptr())
        self.steps -= 1
        return step

    def lists(self, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """(ptr, idx, val) of the first steps (see events.py), as many at every call; none can be added any
        more."""
        with self.lock:
            if self._lists is None:
                found = self._growing.finish(steps, torch.get_num_threads())
                self._lists = cpu.lists(found, steps * self._shape[0], self._dtype)
                self.steps = steps
            assert self.steps == steps
            return self._lists

    def dense(self) -> Tensor:
        """The steps `[T, B, N_in]`, with zeros where they had negative zeros."""
        batch, width = self._shape
        return cpu.to_dense(*self.lists(self.steps), (self.steps, batch, width), self._dtype)
