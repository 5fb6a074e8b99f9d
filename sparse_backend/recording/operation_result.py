"""The results of a recorded operation, computed in stretches of time when somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .operations import Call, over_time
from .results import Result

__all__ = ["OperationResult"]

STRETCH_BYTES = 1 << 22
"""Of the largest tensor in a stretch: it is written by one operation and read by the next, out of a cache."""


class OperationResult(Result):
    """A call at each of `steps` steps.

    arguments: per tensor of the call, what is the same at every step, or (result, slot).  entries: of a
    step's result.  shared: whether more than one stream reads it.
    """

    def __init__(
        self,
        steps: int,
        call: Call,
        arguments: Sequence[Tensor | tuple[Result, int]],
        step_bytes: int,
        shared: bool,
    ) -> None:
        super().__init__(steps)
        self._call, self._arguments, self._shared = call, arguments, shared
        self._sequence: Tensor | None = None
        self._constant: Tensor | None = None
        chained = [a[0].step_bytes for a in arguments if isinstance(a, tuple)]
        self.step_bytes = max(step_bytes, *chained) if chained else step_bytes

    def constant(self) -> Tensor | None:
        if self._constant is None:
            values = [a if isinstance(a, Tensor) else a[0].constant() for a in self._arguments]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                self._constant = self._call(known)
        return self._constant

    def sequence(self, slot: int) -> Tensor:
        if self._sequence is None:
            constant = self.constant()
            if constant is not None:
                self._sequence = constant.expand(self.steps, *constant.shape)
            else:
                length = max(1, min(self.steps, STRETCH_BYTES // self.step_bytes))
                self._sequence = _joined(list(self._compute(length)))
        return self._sequence

    def stretches(self, slot: int, steps: int, length: int) -> Iterator[Tensor]:
        if self._sequence is not None or self._shared or self.constant() is not None or steps != self.steps:
            yield from super().stretches(slot, steps, length)
        else:
            yield from self._compute(length)

    def rows(self) -> list[Tensor]:
        """The result of each step, from a call of its own."""
        return [
            self._call([a if isinstance(a, Tensor) else a[0].step(a[1], index) for a in self._arguments])
            for index in range(self.steps)
        ]

    def _compute(self, length: int) -> Iterator[Tensor]:
        constants = [a if isinstance(a, Tensor) else a[0].constant() for a in self._arguments]
        varies = [value is None for value in constants]
        running = [
            argument[0].stretches(argument[1], self.steps, length)
            for argument, value in zip(self._arguments, constants, strict=True)
            if value is None and not isinstance(argument, Tensor)
        ]
        for pieces in zip(*running, strict=True):
            moving = iter(pieces)
            tensors = [next(moving) if value is None else value for value in constants]
            yield over_time(self._call, tensors, varies)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
