"""Exceptions raised by sparse_backend. Each one names the argument, its value and the rule that it breaks."""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "DeferredEscapeError",
    "RecordedStepError",
    "SparseBackendError",
    "UnsupportedLayerError",
]


class SparseBackendError(Exception):
    """Base class of every exception that this package raises on its own account."""


class ArgumentError(SparseBackendError, ValueError):
    """An argument has a value that the operation cannot take."""


class ArgumentTypeError(SparseBackendError, TypeError):
    """An argument has a type or dtype that the operation cannot take."""


class UnsupportedLayerError(SparseBackendError, NotImplementedError):
    """A layer would stay stock although `strict=True` asked for none to."""


class DeferredEscapeError(SparseBackendError, RuntimeError):
    """A recorded tensor reached code below autograd, where its gradient would be lost silently."""


class RecordedStepError(SparseBackendError, RuntimeError):
    """A recorded sequence failed when it was executed; the cause is chained."""
