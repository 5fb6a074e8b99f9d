"""The deferred tensors that one slot of a stream hands out.

To make one takes 1.5 us, and a step of Linear and neuron has three. A loop lets go of each after a step or
two, so those that nobody else holds any more are handed out again. For Python that is what it sees anyway:
the next object at the address of one that is gone.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING

from torch import Tensor

from .deferred import Blank, Deferred, make

if TYPE_CHECKING:
    from .stream import Stream

__all__ = ["CONCLUSIVE", "Wrappers"]

_counted = getattr(sys, "getrefcount", lambda _: 1)
_weakly = weakref.getweakrefcount


class Wrappers:
    """The two latest deferred tensors of a slot, and weak references to older ones of a state.

    older, newer: of the steps before the last one.  escaped: found in use when their turn came again; of
    outputs nobody asks.
    """

    __slots__ = ("blank", "escaped", "newer", "older", "slot")

    def __init__(self, blank: Blank, slot: int) -> None:
        self.blank, self.slot = blank, slot
        self.older: Deferred | None = None
        self.newer: Deferred | None = None
        self.escaped: list[weakref.ref[Deferred]] = []

    def take(self, source: Stream, step: int) -> Deferred:
        """The deferred tensor of the next step."""
        if (
            _counted(self.older) == _ALONE
            and not _weakly(self.older)
            and len(self.older.__dict__) == _FRESH
            and _counted(self.older.__dict__) == _ALONE
        ):
            deferred: Deferred = self.older  # type: ignore[assignment]
            deferred._step = step
        else:
            if self.older is not None and self.slot:
                self.escaped.append(weakref.ref(self.older))
            deferred = make(self.blank, source, step, self.slot)
        self.older = self.newer
        self.newer = deferred
        return deferred

    def earlier_held(self) -> bool:
        """Whether Python still holds one of a step before the last."""
        return (self.older is not None and self._held_older()) or any(
            reference() is not None for reference in self.escaped
        )

    def last_held(self) -> Deferred | None:
        """That of the last step, if Python still holds it."""
        return self.newer if _counted(self.newer) > _ALONE else None

    def before_last(self) -> weakref.ref[Deferred] | None:
        """That of the step before the last, if Python still holds it."""
        return weakref.ref(self.older) if self.older is not None and self._held_older() else None

    def hand_over(self, other: Wrappers, source: Stream) -> None:
        """Give the last one, as its first, to a stream in another segment."""
        last = other.newer = self.newer
        self.newer, self.older = self.older, None
        if last is not None:
            last._source, last._step = source, 0

    def _held_older(self) -> bool:
        return _counted(self.older) > _ALONE


def _references_of_one_that_is_free() -> int:
    # Counted rather than written down: what the question itself adds differs between versions of Python.
    sample = Wrappers(Blank(Tensor(), []), 0)
    sample.older = object()  # type: ignore[assignment]
    return int(_counted(sample.older))


CONCLUSIVE = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()
_ALONE = _references_of_one_that_is_free() if CONCLUSIVE else 0
"""Where counts say nothing, none is used again, and all are taken for held."""
_FRESH = 3
"""Attributes of a deferred tensor to which nothing has happened."""
