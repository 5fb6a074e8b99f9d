"""Convolution driven by events: a sequence of spikes, or of sparse real inputs, convolved and max-pooled.

Each event adds its taps' rows of the kernel to the output, so the cost follows the number of spikes; the
gradient of the input is computed where the layer below is active. Native CPU kernels only
(src_cuda/cpu/convolution_row.hpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import backend, cost, memory
from .native_call import Call, dtype_code, module, transposed_weight
from .schema import to_dense
from .sequence import PackedSpikes

__all__ = ["LARGEST_WINDOW", "Geometry", "convolve", "pays", "plane_size"]

Pair = tuple[int, int]

LARGEST_WINDOW = 255
"""Entries of a pooling window: which one won is kept in a byte."""


@dataclass(frozen=True)
class Geometry:
    """A two-dimensional convolution, and the max pooling behind it (pool None: none).

    inputs: (channels, height, width).  outputs: of the whole, (channels, height, width).
    """

    inputs: tuple[int, int, int]
    outputs: tuple[int, int, int]
    stride: Pair
    padding: Pair
    dilation: Pair
    pool: Pair | None = None
    pool_stride: Pair = (1, 1)


def plane_size(
    size: Pair, window: Pair, stride: Pair, padding: Pair = (0, 0), dilation: Pair = (1, 1)
) -> Pair:
    """Height and width of what a window, moved over a plane, leaves."""
    sizes = zip(size, window, stride, padding, dilation, strict=True)
    height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    return height, width


def pays(density: float, weight: Tensor, geometry: Geometry) -> bool:
    """Whether going by the events is cheaper than the dense convolution. density: of the input, in [0, 1]."""
    pooled = geometry.pool is not None
    return cost.convolution_by_events(density, weight.shape[0], weight[0].numel(), pooled)


def convolve(spikes: PackedSpikes, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """`[T, B, channels, height, width]` of the outputs; differentiable by the spikes' carrier, weight, bias.

    spikes: of width channels * height * width of the inputs.  weight: `[C, C_in, K_h, K_w]`, its dtype
    (float32 or float64) is that of the result.
    """
    lists = (spikes.ptr, spikes.idx, spikes.val, spikes.aptr, spikes.aidx)
    shape = (spikes.steps, spikes.batch, spikes.width)
    out: Tensor = _Convolution.apply(spikes.carrier, weight, bias, lists, shape, geometry)
    return out


def _describe(
    lists: tuple[Tensor | None, ...],
    shape: tuple[int, int, int],
    weight: Tensor,
    bias: Tensor | None,
    g: Geometry,
) -> Call:
    native = module()
    channels = weight.shape[0]
    call = Call(
        dtype=dtype_code(weight.dtype),
        steps=shape[0],
        batch=shape[1],
        threads=torch.get_num_threads(),
        channels=channels,
        kernel_height=weight.shape[2],
        kernel_width=weight.shape[3],
        **dict(zip(("in_channels", "in_height", "in_width"), g.inputs, strict=True)),
        **dict(zip(("stride_y", "stride_x"), g.stride, strict=True)),
        **dict(zip(("padding_y", "padding_x"), g.padding, strict=True)),
        **dict(zip(("dilation_y", "dilation_x"), g.dilation, strict=True)),
    )
    if g.pool is not None:
        call.fields |= dict(zip(("pool_height", "pool_width"), g.pool, strict=True))
        call.fields |= dict(zip(("pool_stride_y", "pool_stride_x"), g.pool_stride, strict=True))
    ptr, idx, val = lists[:3]
    call.read("in_ptr", ptr)
    call.read("in_idx", idx)
    call.read("in_val", val, weight.dtype)
    call.read("weight_t", transposed_weight(weight.flatten(1), weight.dtype))
    padded = weight.new_zeros(native.padded_width(channels))
    if bias is not None:
        padded[:channels] = bias
    call.read("bias", padded)
    return call


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        carrier: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lists: tuple[Tensor | None, ...],
        shape: tuple[int, int, int],
        geometry: Geometry,
    ) -> Tensor:
        steps, batch, _ = shape
        call = _describe(lists, shape, weight, bias, geometry)
        out = memory.empty((steps, batch, *geometry.outputs), weight.dtype)
        winner = weight.new_empty(0, dtype=torch.uint8)
        if geometry.pool is not None:
            channels, height, width = geometry.outputs
            winner = winner.new_empty((batch * steps, height * width, module().padded_width(channels)))
            call.write("winner", winner)
        module().convolve(module().convolution(**call.fields), out.data_ptr(), out.stride(0), out.stride(1))
        ctx.save_for_backward(carrier, weight, bias, winner, *lists)
        ctx.shape, ctx.geometry = shape, geometry
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        carrier, weight, bias, winner, *lists = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return _twice_differentiable(ctx, gradients[0], wanted)
        geometry, (steps, batch, width) = ctx.geometry, ctx.shape
        call = _describe(tuple(lists), ctx.shape, weight, bias, geometry)
        if geometry.pool is not None:
            call.write("winner", winner)
        g = Call()
        g.read_strided("g", gradients[0].resolve_neg().reshape(steps, batch, -1), weight.dtype)
        channels, padded = weight.shape[0], module().padded_width(weight.shape[0])
        d_weight_t = weight.new_empty((weight[0].numel(), padded))
        d_bias, d_carrier = weight.new_empty(padded), None
        if wanted[1]:
            g.write("d_weight_t", d_weight_t)
        if wanted[2]:
            g.write("d_bias", d_bias)
        dense, aptr, aidx = None, lists[3], lists[4]
        if wanted[0]:
            if _by_entries(aidx, ctx.shape):
                d_carrier = weight.new_empty(aidx.numel())
                g.read("low_ptr", aptr)
                g.read("low_idx", aidx)
                g.write("d_low", d_carrier)
            else:
                channels_last = weight.permute(0, 2, 3, 1)
                g.read("kernel", functional.pad(channels_last, (0, -weight.shape[1] % 4)).contiguous())
                dense = memory.empty((batch, steps, width), weight.dtype)
                g.write("d_input", dense)
        module().convolve_backward(
            module().convolution(**call.fields), module().convolution_gradients(**g.fields)
        )
        if dense is not None:
            d_carrier = dense.transpose(0, 1)
            if aptr is not None:
                d_carrier = backend.gather(d_carrier, aptr, aidx)
        return (
            None if d_carrier is None else d_carrier.to(carrier.dtype),
            d_weight_t[:, :channels].t().reshape(weight.shape) if wanted[1] else None,
            d_bias[:channels].clone() if wanted[2] else None,
            *(None, None, None),
        )


def _by_entries(aidx: Tensor | None, shape: tuple[int, int, int]) -> bool:
    """Whether the input's gradient is cheaper at its active entries than everywhere."""
    if aidx is None:
        return False
    steps, batch, width = shape
    return cost.convolution_gradient_by_entries(aidx.numel() / (steps * batch * width))


def _twice_differentiable(ctx: Any, gradient: Tensor, wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """The same gradients when the caller set create_graph=True: through torch's dense operations."""
    *differentiable, _, ptr, idx, val, aptr, aidx = ctx.saved_tensors
    # Aliases, where the derivatives stop: one input may descend from another.
    carrier, weight, bias = (
        value.view_as(value) if want else value for value, want in zip(differentiable, wanted, strict=True)
    )
    lists = (ptr, idx, val, aptr, aidx)
    g, (steps, batch, width) = ctx.geometry, ctx.shape
    x = to_dense(carrier, *lists, steps, batch, width).to(weight.dtype)
    rows = x.reshape(steps * batch, *g.inputs)
    out = functional.conv2d(rows, weight, bias, g.stride, g.padding, g.dilation)
    if g.pool is not None:
        out = functional.max_pool2d(out, g.pool, g.pool_stride)
    inputs = [value for value, want in zip((carrier, weight, bias), wanted, strict=True) if want]
    found = iter(
        torch.autograd.grad(out, inputs, gradient.reshape(out.shape), create_graph=True, allow_unused=True)
    )
    return (*(next(found) if want else None for want in wanted), None, None, None)
