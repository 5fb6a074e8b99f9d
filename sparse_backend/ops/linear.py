"""`linear`: torch's product W x + b, by the kernels where theirs is quicker and the same to the last bit.

A current that differs from stock's in its last bit flips a spike now and then, at every step where it flows
at every step. BLAS libraries cut the sum over the inputs into blocks, each a chain of fused multiply-adds,
and add these up in order: torch's MKL takes 192 inputs in float32 on AMD processors, where it reaches half
the speed of the kernels. How a size is cut is found by trial; whether and when it was tried changes no bit.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.nn import functional

from ..torch_private import modes_matter, read_pointer
from . import backend, cost, memory

__all__ = ["linear"]

_BLOCKS = (192, 384, 256, 320, 336, 448, 512, 768)
"""Numbers of inputs to a block that are tried, before one block of all."""
_TRIED_AT = 3
"""The use of a size at which it is tried: a trial takes as long as some ten products."""
_MOST_TRIALS = 64
_MOST_BYTES = 1 << 26
"""Of weights: a trial needs as many again."""

_PLAIN = (Tensor, torch.nn.Parameter)

_Size = tuple[int, int, int, bool, int]
"""Rows, inputs and width, whether there is a bias, and the number of threads."""
_uses: dict[_Size, int] = {}
_blocks: dict[_Size, int | None] = {}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear(x, weight, bias)` of x `[B, N_in]`.

    By the kernels only where no gradient is recorded.
    """
    block = _block(x, weight, bias)
    return functional.linear(x, weight, bias) if block is None else _by_kernels(x, weight, bias, block)


def _block(x: Tensor, weight: Tensor, bias: Tensor | None) -> int | None:
    """How torch cuts this product, if the kernels can make it in less time; None otherwise."""
    tensors = [x, weight] if bias is None else [x, weight, bias]
    (rows, inputs), width = x.shape, weight.shape[0]
    if (
        not cost.product_by_kernels(rows, inputs, width)
        or not all([type(t) in _PLAIN and t.dtype is torch.float32 and t.is_contiguous() for t in tensors])
        or any([t.device.type != "cpu" or t.is_neg() for t in tensors])
        or (torch.is_grad_enabled() and any([t.requires_grad for t in tensors]))
        or weight.nbytes > _MOST_BYTES
        or not _in_float32()
        or backend.native() is None
        or modes_matter()
        or torch.compiler.is_compiling()
    ):
        return None
    size = (rows, inputs, width, bias is not None, torch.get_num_threads())
    if size not in _blocks and len(_blocks) < _MOST_TRIALS:
        if size not in _uses and len(_uses) >= _MOST_TRIALS:
            _uses.clear()
        _uses[size] = _uses.get(size, 0) + 1
        if _uses[size] >= _TRIED_AT:
            _blocks[size] = None
            with contextlib.suppress(MemoryError, RuntimeError):  # the latter where torch finds no memory
                _blocks[size] = _try_blocks(rows, inputs, width, bias is not None)
    return _blocks.get(size)


def _in_float32() -> bool:
    """Whether torch is to multiply float32 as such, and not in bfloat16 or TF32."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by both of torch's interfaces
        return False
    newer = getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", "ieee")
    return precision == "highest" and newer in ("none", "ieee")


def _try_blocks(rows: int, inputs: int, width: int, biased: bool) -> int | None:
    """The block with which the kernels' product of random numbers is torch's in every bit."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

    x, weight, bias = numbers(rows, inputs), numbers(width, inputs), numbers(width) if biased else None
    expected = functional.linear(x, weight, bias)
    for block in (*[block for block in _BLOCKS if block < inputs], inputs):
        if torch.equal(_by_kernels(x, weight, bias, block), expected):
            return block
    return None


def _by_kernels(x: Tensor, weight: Tensor, bias: Tensor | None, block: int) -> Tensor:
    from .native_call import dtype_code, module

    (rows, inputs), width = x.shape, weight.shape[0]
    out = memory.lasting((rows, width), x.dtype)
    module().linear(
        *(read_pointer(x), inputs, rows, read_pointer(weight), inputs, width),
        *(0 if bias is None else read_pointer(bias), out.data_ptr(), block),
        *(dtype_code(x.dtype), torch.get_num_threads()),
    )
    return out
