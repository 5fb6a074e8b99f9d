"""Events: the non-zero entries of a `[T, B, N]` tensor as compressed rows, batch-major.

Row b*T + t holds the entries of batch element b at time step t: `ptr` int64 `[B*T + 1]`, `idx` int32 `[E]`
ascending within a row, `val` `[E]` or empty when every value is one. Batch-major, because one thread owns a
batch element.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["compress", "expand", "from_mask", "from_sparse", "gather", "rows"]


def from_mask(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(ptr, idx) of the true entries of a `[T, B, N]` mask."""
    steps, batch, width = mask.shape
    flat = mask.transpose(0, 1).reshape(batch * steps, width)
    where = flat.nonzero()
    counts = torch.bincount(where[:, 0], minlength=batch * steps)
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return ptr, where[:, 1].to(torch.int32)


def compress(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(ptr, idx, val) of a dense `[T, B, N]` tensor."""
    mask = x != 0
    ptr, idx = from_mask(mask)
    values = x.transpose(0, 1)[mask.transpose(0, 1)]
    return ptr, idx, values if bool((values != 1).any()) else values.new_empty(0)


def from_sparse(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(ptr, idx, val) of a sparse COO `[T, B, N]` tensor."""
    steps, batch, _ = x.shape
    ordered = x.detach().transpose(0, 1).coalesce()
    element, step, idx = ordered.indices()
    counts = torch.bincount(element * steps + step, minlength=batch * steps)
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    values = ordered.values()
    return ptr, idx.to(torch.int32), values if bool((values != 1).any()) else values.new_empty(0)


def rows(ptr: Tensor) -> Tensor:
    """The row of each event, int64 `[E]`."""
    return torch.repeat_interleave(torch.arange(ptr.numel() - 1, device=ptr.device), ptr.diff())


def expand(ptr: Tensor, idx: Tensor, val: Tensor, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """The dense `[T, B, N]` tensor of the events; an empty `val` stands for ones. A view of batch-major
    memory."""
    steps, batch, width = shape
    dense = torch.zeros(batch * steps, width, dtype=dtype, device=idx.device)
    dense[rows(ptr), idx.long()] = (
        val.to(dtype) if val.numel() else torch.ones((), dtype=dtype, device=idx.device)
    )
    return dense.view(batch, steps, width).transpose(0, 1)


def gather(dense: Tensor, ptr: Tensor, idx: Tensor) -> Tensor:
    """The entries of a `[T, B, N]` tensor at the events, `[E]`."""
    row = rows(ptr)
    steps = dense.shape[0]
    return dense[row % steps, row // steps, idx.long()]
