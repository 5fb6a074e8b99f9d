"""A sequence as one tensor per step, with one gradient for all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["split_steps"]


class _Split(torch.autograd.Function):
    """Steps that share the memory of the sequence but are no views of it.

    `unbind` forbids writing to its outputs, and `select` per step makes a full-size gradient for each. The
    steps here do not overlap, so a user may write to any of them as to a tensor of its own.
    """

    @staticmethod
    def forward(ctx: Any, sequence: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.like = (sequence.shape, sequence.dtype, sequence.device)
        storage, start = sequence.untyped_storage(), sequence.storage_offset()
        spacing, *strides = sequence.stride()
        shape = sequence.shape[1:]
        return tuple(
            sequence.new_empty(0).set_(storage, start + t * spacing, shape, tuple(strides))
            for t in range(sequence.shape[0])
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor:
        shape, dtype, device = ctx.like
        total = torch.zeros(shape, dtype=dtype, device=device)
        for step, gradient in enumerate(gradients):
            if gradient is not None:
                total[step] = gradient
        return total


def split_steps(sequence: Tensor) -> tuple[Tensor, ...]:
    """The steps of `[T, ...]`, which must own its memory alone (copy-on-write counts)."""
    if sequence.stride(0) == 0:
        sequence = sequence.contiguous()
    steps: tuple[Tensor, ...] = _Split.apply(sequence)
    return steps
