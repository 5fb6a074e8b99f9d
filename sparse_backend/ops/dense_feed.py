"""I = W x + b of an input that is not driven by events: torch's product, and for a constant input the one of
linear.py and its own dW.

A constant current is one product of `[B, N_in]`. Forward it is torch's to the last bit, as membranes are; dW
may come from the kernels' product, which reaches the processor's peak where torch's does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_private import modes_matter, read_pointer
from . import backend, cost, memory
from .linear import linear

__all__ = ["dense_feed"]

_DTYPES = (torch.float32, torch.float64)


def dense_feed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear(x, weight, bias)`, differentiable twice.

    x: `[B, N_in]` or `[T, B, N_in]`.
    """
    if x.dim() == 2 and not torch.is_grad_enabled():
        return linear(x, weight, bias)
    if x.dim() == 2 and _by_kernels(x, weight):
        current: Tensor = _ConstantFeed.apply(x, weight, bias)
        return current
    return functional.linear(x, weight, bias)


def _by_kernels(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels' product may be quicker."""
    return (
        weight.requires_grad
        and x.dtype is weight.dtype
        and x.dtype in _DTYPES
        and x.device.type == weight.device.type == "cpu"
        and backend.native() is not None
        and cost.product_by_kernels(x.shape[0], x.shape[1], weight.shape[0])
        and not modes_matter()
        and not torch.compiler.is_compiling()
    )


class _ConstantFeed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        product = _torch_product if torch.is_grad_enabled() else _product  # the kernels have no derivative
        return (
            grad @ weight if wants_x else None,
            product(grad, x) if wants_weight else None,
            grad.sum(0) if wants_bias else None,
        )


def _torch_product(grad: Tensor, x: Tensor) -> Tensor:
    return grad.t() @ x


def _product(grad: Tensor, x: Tensor) -> Tensor:
    """The transpose of grad `[B, N]` times x `[B, N_in]`, contiguous."""
    from .native_call import dtype_code, module, transposed_weight

    native, (inner, rows), columns = module(), grad.shape, x.shape[1]
    left, right = transposed_weight(grad.resolve_neg(), grad.dtype), x.resolve_neg().contiguous()
    out = memory.lasting((rows, native.padded_width(columns)), grad.dtype)
    native.multiply(
        *(read_pointer(left), left.shape[1], rows, read_pointer(right), inner, columns, out.data_ptr()),
        *(dtype_code(grad.dtype), torch.get_num_threads()),
    )
    return out if out.shape[1] == columns else out[:, :columns].contiguous()
