"""Large tensors whose pages cost less than torch's.

Fresh pages cost as much as the arithmetic on a `[T, B, N]` tensor. Temporaries come from the native module's
pool, which keeps its pages between calls. A pooled tensor is an ordinary tensor; its memory goes back to the
pool when the last tensor that shares it dies. What a user may keep or share is torch's own memory, in huge
pages where it is large.

Torch's own tensors of some megabytes, gradients and the temporaries of an optimizer, meet fresh pages too
where glibc gives its heap's end back to the system whenever some megabytes of it are free: between two steps
of a small network, of which nothing is left in the heap. It is told to keep more.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from typing import Any

import torch
from torch import Tensor

from . import backend

__all__ = ["adopt", "describe", "drop", "empty", "keep_freed", "lasting"]

_POOLED_FROM = 1 << 20
"""Bytes; what is smaller, torch's allocator keeps itself."""
_HUGE_FROM = 1 << 22
"""Bytes; a tensor begins anywhere, so that a smaller one may hold no whole huge page."""

_MAPPED_FROM, _KEPT = 1 << 25, 1 << 28
"""Bytes: what glibc takes from the system block by block (its own upper bound), and what its heap's end may
hold unused."""
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised, contiguous CPU tensor."""
    count = math.prod(shape)
    native = backend.native() if count * dtype.itemsize >= _POOLED_FROM else None
    if native is None:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return adopt(native.Block(count * dtype.itemsize), shape, dtype)


def adopt(block: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose memory is the beginning of a native block."""
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype, device="cpu")
    tensor = torch.frombuffer(block, dtype=dtype, count=count)
    return tensor if len(shape) == 1 else tensor.view(shape)


def lasting(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised, contiguous CPU tensor of torch's own memory."""
    out = torch.empty(shape, dtype=dtype, device="cpu")
    native = backend.native() if out.nbytes >= _HUGE_FROM else None
    if native is not None:
        native.prefer_huge_pages(out.data_ptr(), out.nbytes)
    return out


def _users_settings() -> str | None:
    """The variable by which the user has set glibc's allocator, or None."""
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return "GLIBC_TUNABLES"
    return next((name for name in _OWN_SETTINGS if name in os.environ), None)


@functools.cache
def keep_freed() -> bool:
    """Let glibc keep up to 256 MiB of freed memory, once per process; returns whether it does.

    Not where the user has set its allocator by a variable of glibc's, nor with another C library.
    """
    native = backend.native()
    if native is None or _users_settings() is not None:
        return False
    kept: bool = native.keep_freed_memory(_MAPPED_FROM, _KEPT)
    return kept


def describe() -> str:
    """What is kept of freed memory, in words."""
    variable = _users_settings()
    if variable is not None:
        return f"as {variable} has it"
    if keep_freed():
        return f"glibc keeps up to {_KEPT >> 20} MiB once a kernel has run; MALLOC_TRIM_THRESHOLD_ overrules"
    return "left as it is: no native kernels, or not glibc's"


def drop() -> None:
    """Give what the pool keeps back to the system."""
    native = sys.modules.get("sparse_backend._cpu")
    if native is not None:
        native.drop_pooled_memory()
