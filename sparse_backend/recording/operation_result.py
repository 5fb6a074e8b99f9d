"""The results of a recorded operation, computed in stretches of time when somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .event_convolution import convolved
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
        self.call, self.arguments, self.shared = call, arguments, shared
        self._sequence: Tensor | None = None
        self._constant: Tensor | None = None
        self._asked = False
        chained = [a[0].step_bytes for a in arguments if isinstance(a, tuple)]
        self.step_bytes = max(step_bytes, *chained) if chained else step_bytes

    def constant(self) -> Tensor | None:
        if self._constant is None:
            values = [a if isinstance(a, Tensor) else a[0].constant() for a in self.arguments]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                self._constant = self.call(known)
        return self._constant

    def sequence(self, slot: int) -> Tensor:
        if self._sequence is None:
            constant = self.constant()
            if constant is not None:
                self._sequence = constant.expand(self.steps, *constant.shape)
            elif not self._by_events():
                length = max(1, min(self.steps, STRETCH_BYTES // self.step_bytes))
                self._sequence = _joined(list(self._compute(length)))
        assert self._sequence is not None
        return self._sequence

    def _by_events(self) -> bool:
        """Whether the sequence has been computed from events."""
        if not self._asked:
            self._asked, self._sequence = True, convolved(self)
        return self._sequence is not None

    def stretches(self, slot: int, steps: int, length: int) -> Iterator[Tensor]:
        whole = self._sequence is not None or self.shared or steps != self.steps
        if whole or self.constant() is not None or self._by_events():
            yield from super().stretches(slot, steps, length)
        else:
            yield from self._compute(length)

    def rows(self) -> list[Tensor]:
        """The result of each step, from a call of its own."""
        return [
            self.call([a if isinstance(a, Tensor) else a[0].step(a[1], index) for a in self.arguments])
            for index in range(self.steps)
        ]

    def _compute(self, length: int) -> Iterator[Tensor]:
        constants = [a if isinstance(a, Tensor) else a[0].constant() for a in self.arguments]
        varies = [value is None for value in constants]
        running = [
            argument[0].stretches(argument[1], self.steps, length)
            for argument, value in zip(self.arguments, constants, strict=True)
            if value is None and not isinstance(argument, Tensor)
        ]
        for pieces in zip(*running, strict=True):
            moving = iter(pieces)
            tensors = [next(moving) if value is None else value for value in constants]
            yield over_time(self.call, tensors, varies)


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
