"""Why recorded loops were executed before their end, with the line of the user's code that asked for it."""

from __future__ import annotations

import functools
import linecache
import os
import sys
import threading
from collections import Counter
from types import FrameType

__all__ = ["flush_reasons", "forget", "note"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARIES = ("torch", "snntorch", "norse")

_lock = threading.Lock()
_counts: Counter[tuple[str, str]] = Counter()


def note(reason: str, steps: int) -> None:
    """Count one execution of a segment of `steps` steps."""
    line = user_line()
    with _lock:
        _counts[(reason if steps != 1 else f"{reason} after a single step", line)] += 1


def flush_reasons() -> Counter[tuple[str, str]]:
    """(reason, "file.py:42: the line") -> how often recorded steps were executed there, since `forget`."""
    with _lock:
        return Counter(_counts)


def forget() -> None:
    with _lock:
        _counts.clear()


def user_line() -> str:
    """The innermost line that belongs to none of the libraries involved, as "file.py:42: source"."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_library(frame):
        frame = frame.f_back
    if frame is None:
        return "<unknown>"
    path, number = frame.f_code.co_filename, frame.f_lineno
    return f"{os.path.basename(path)}:{number}: {linecache.getline(path, number).strip()}"


def _is_library(frame: FrameType) -> bool:
    return _belongs_to_one(frame.f_globals.get("__name__", ""), frame.f_code.co_filename)


@functools.lru_cache(maxsize=1024)
def _belongs_to_one(module: str, path: str) -> bool:
    package = module.partition(".")[0]
    return package in _LIBRARIES or package == __name__.partition(".")[0] or path.startswith(_OURS)
