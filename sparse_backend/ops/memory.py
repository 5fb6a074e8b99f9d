"""Large temporaries from the native module's pool, whose pages are kept between calls.

Fresh pages cost as much as the arithmetic on a `[T, B, N]` temporary. A pooled tensor is an ordinary tensor;
its memory goes back to the pool when the last tensor that shares it dies.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from . import backend

__all__ = ["drop", "empty"]

_POOLED_FROM = 1 << 20
"""Bytes; what is smaller, torch's allocator keeps itself."""


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised, contiguous CPU tensor."""
    count = math.prod(shape)
    native = backend.native() if count * dtype.itemsize >= _POOLED_FROM else None
    if native is None:
        return torch.empty(shape, dtype=dtype)
    block = native.Block(count * dtype.itemsize)
    return torch.frombuffer(block, dtype=dtype, count=count).view(shape)


def drop() -> None:
    """Give what the pool keeps back to the system."""
    native = sys.modules.get("sparse_backend._cpu")
    if native is not None:
        native.drop_pooled_memory()
