"""Convolutions in a recording that are cheaper by the events of their input, with the max pooling behind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..ops import backend
from ..ops.convolution import LARGEST_WINDOW, Geometry, Pair, convolve, pays, plane_size
from ..ops.sequence import PackedSpikes
from .operations import Operand
from .results import InputsResult, Result

if TYPE_CHECKING:
    from .operation_result import OperationResult
    from .operations import Call

__all__ = ["convolved"]

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2}
_POOLS = {functional.max_pool1d: 1, functional.max_pool2d: 2}


def convolved(result: OperationResult) -> Tensor | None:
    """The sequence of a convolution, or of a max pooling of one, from events; None where torch does it."""
    convolution, pool = result, None
    if result.call.function in _POOLS:
        inner = result.arguments[0]
        if isinstance(inner, Tensor) or getattr(inner[0], "shared", True):
            return None
        convolution, pool = cast("OperationResult", inner[0]), result.call
    if convolution.call.function not in _CONVOLUTIONS or backend.native() is None:
        return None
    source, *parameters = convolution.arguments
    if isinstance(source, Tensor) or not all(isinstance(value, Tensor) for value in parameters):
        return None
    weight, *rest = cast("list[Tensor]", parameters)
    bias = rest[0] if rest else None
    geometry = _geometry(convolution.call, pool)
    if geometry is None or weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return None
    spikes = _events(source, convolution.steps, geometry, weight)
    if spikes is None:
        return None
    if weight.dim() == 4:
        return convolve(spikes, weight, bias, geometry)
    return convolve(spikes, weight.unsqueeze(2), bias, geometry).squeeze(3)


def _geometry(call: Call, pool: Call | None) -> Geometry | None:
    """None for what has no kernel: groups, padding by name, padded or dilated pools, single samples."""
    dimensions = _CONVOLUTIONS[call.function]
    shape, weight = call.shapes[:2]
    bias = Operand(2) if len(call.shapes) == 3 else None
    tensors = (call.argument(0, "input"), call.argument(1, "weight"), call.argument(2, "bias"))
    if len(shape) != dimensions + 2 or tensors != (Operand(0), Operand(1), bias):
        return None
    stride = _pair(call.argument(3, "stride", 1), 1, dimensions)
    padding = _pair(call.argument(4, "padding", 0), 0, dimensions)
    dilation = _pair(call.argument(5, "dilation", 1), 1, dimensions)
    if stride is None or padding is None or dilation is None or call.argument(6, "groups", 1) != 1:
        return None
    height, width, kernel_height, kernel_width = (
        *(1,) * (2 - dimensions),
        *shape[2:],
        *(1,) * (2 - dimensions),
        *weight[2:],
    )
    plane = plane_size((height, width), (kernel_height, kernel_width), stride, padding, dilation)
    inputs, options = (shape[1], height, width), (stride, padding, dilation)
    if pool is None:
        return Geometry(inputs, (weight[0], *plane), *options)
    window = _window(pool, dimensions)
    if window is None:
        return None
    rows, columns = plane_size(plane, window[0], window[1])
    return Geometry(inputs, (weight[0], rows, columns), *options, *window)


def _window(pool: Call, dimensions: int) -> tuple[Pair, Pair] | None:
    """Size and stride of a pooling window without padding, dilation and incomplete windows."""
    size = pool.argument(1, "kernel_size")
    window = _pair(size, 1, dimensions)
    stride = _pair(pool.argument(2, "stride") or size, 1, dimensions)
    plain = (
        _POOLS[pool.function] == dimensions
        and _pair(pool.argument(3, "padding", 0), 0, dimensions) == (0, 0)
        and _pair(pool.argument(4, "dilation", 1), 1, dimensions) == (1, 1)
        and not pool.argument(5, "ceil_mode", False)
    )
    if not plain or window is None or stride is None or math.prod(window) > LARGEST_WINDOW:
        return None
    return window, stride


def _pair(value: Any, neutral: int, dimensions: int) -> Pair | None:
    """One number per axis of a plane; a sequence is a plane of height one."""
    if type(value) is int:
        value = (value,) * dimensions
    if not isinstance(value, tuple) or not all(type(entry) is int for entry in value):
        return None
    if len(value) == 1:
        value = value * dimensions
    found = (neutral,) * (2 - len(value)) + value
    return found if len(found) == 2 else None


def _events(
    source: tuple[Result, int], steps: int, geometry: Geometry, weight: Tensor
) -> PackedSpikes | None:
    """What feeds the convolution as events, if that is cheaper."""
    result, slot = source
    width = math.prod(geometry.inputs)
    packed = result.packed(slot)
    if packed is None and isinstance(result, InputsResult):
        packed = _compressed(result.sequence(slot)[:steps], weight)
    if packed is None or (packed.steps, packed.width) != (steps, width):
        return None
    entries = packed.steps * packed.batch * packed.width
    return packed if pays(packed.idx.numel() / entries, weight, geometry) else None


def _compressed(x: Tensor, weight: Tensor) -> PackedSpikes | None:
    if x.requires_grad or x.dtype is not weight.dtype:
        return None
    found = backend.compress(x.flatten(2))
    if found is None:
        return None
    steps, batch, width = x.flatten(2).shape
    return PackedSpikes(weight.new_empty(0), *found, None, None, steps, batch, width, x.dtype)
