"""Recording pauses where it does not pay: when a value is read at every step, upstream's own code is faster.

To begin and to execute a segment costs what stock needs for about four steps of a small network. A loop that
proves to be shorter than that, time and again, is left to upstream's code, and tried again ever more rarely.

Kept per thread, apart for loops with and without gradients: an evaluation that reads every step does not
slow down the training that follows.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

__all__ = ["note", "paused", "pausing", "reset_backoff"]

_PATIENCE = 3
"""Segments in a row that did not pay before the first pause."""
_PAUSES = (8, *(2**power + 1 for power in range(4, 13)))
"""Calls per pause, up to 4097: then a try costs less than a percent. Mostly odd, so that recording does not
resume at the same place of a step every time."""
_WORTHWHILE = 4
"""A segment of so many steps ends the sequence of pauses."""
_LITTLE = 5e6
"""Multiply-adds per feed below which a shorter one does not pay either; a single step never does."""


@dataclass
class _Loop:
    short: int = 0
    level: int = 0
    remaining: int = 0


class _Loops(threading.local):
    def __init__(self) -> None:
        self.known: dict[bool, _Loop] = {}
        self.epoch = 0


_loops = _Loops()
_epoch = 0


def reset_backoff() -> None:
    """Forget all pauses, in every thread."""
    global _epoch
    _epoch += 1


def note(grad: bool, steps: int, work: float) -> None:
    """A segment was executed after `steps` steps.

    work: multiply-adds in its feeds, divided by their number.
    """
    known = _known()
    if steps >= _WORTHWHILE:
        known.pop(grad, None)
        return
    loop = known.setdefault(grad, _Loop())
    loop.short = loop.short + 1 if steps == 1 or work < _LITTLE else 0
    if loop.short >= _PATIENCE:
        loop.remaining = _PAUSES[min(loop.level, len(_PAUSES) - 1)]
        loop.level += 1
        # After a pause a single further short segment begins the next one.
        loop.short = _PATIENCE - 1


def paused(grad: bool) -> bool:
    """Whether a segment may not begin now; each question counts as a call."""
    loop = _known().get(grad)
    if loop is None or not loop.remaining:
        return False
    loop.remaining -= 1
    return True


def pausing(grad: bool) -> bool:
    """Whether a pause is due or under way."""
    loop = _known().get(grad)
    return loop is not None and loop.remaining > 0


def _known() -> dict[bool, _Loop]:
    if _loops.epoch != _epoch:
        _loops.known.clear()
        _loops.epoch = _epoch
    return _loops.known
