"""Large tensors whose pages cost less than torch's.

Fresh pages cost as much as the arithmetic on a `[T, B, N]` tensor. Temporaries come from the native module's
pool, which keeps its pages between calls. A pooled tensor is an ordinary tensor; its memory goes back to the
pool when the last tensor that shares it dies. What a user may keep or share is torch's own memory, in huge
pages where it is large.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from . import backend

__all__ = ["drop", "empty", "lasting"]

_POOLED_FROM = 1 << 20
"""Bytes; what is smaller, torch's allocator keeps itself."""
_HUGE_FROM = 1 << 22
"""Bytes; a tensor begins anywhere, so that a smaller one may hold no whole huge page."""


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised, contiguous CPU tensor."""
    count = math.prod(shape)
    native = backend.native() if count * dtype.itemsize >= _POOLED_FROM else None
    if native is None:
        return torch.empty(shape, dtype=dtype)
    block = native.Block(count * dtype.itemsize)
    return torch.frombuffer(block, dtype=dtype, count=count).view(shape)


def lasting(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised, contiguous CPU tensor of torch's own memory."""
    out = torch.empty(shape, dtype=dtype)
    native = backend.native() if out.nbytes >= _HUGE_FROM else None
    if native is not None:
        native.prefer_huge_pages(out.data_ptr(), out.nbytes)
    return out


def drop() -> None:
    """Give what the pool keeps back to the system."""
    native = sys.modules.get("sparse_backend._cpu")
    if native is not None:
        native.drop_pooled_memory()
