"""The native module as the operators see it, with its calls counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["CountedNative"]


class CountedNative:
    """calls: how often each function was called.  left_out: functions that are counted and do nothing."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self.calls: Counter[str] = Counter()
        self.left_out: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._native, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*args: Any, **keywords: Any) -> Any:
            self.calls[name] += 1
            return None if name in self.left_out else found(*args, **keywords)

        return call
