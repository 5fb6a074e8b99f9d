"""A layer in the terms of the native CPU module: addresses, strides and enumeration codes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..neurons import decode
from ..torch_private import read_pointer
from . import backend, cost, memory
from .contract import Layer

__all__ = [
    "Call",
    "by_events",
    "dense_input",
    "describe",
    "dtype_code",
    "layer_call",
    "module",
    "transposed_weight",
]


@functools.cache
def module() -> Any:
    """The native module; only called where `backend` has found it."""
    memory.keep_freed()
    return backend.native()


@functools.cache
def dtype_code(dtype: torch.dtype) -> int:
    """The native code of float32 or float64."""
    code: int = {torch.float32: module().FLOAT32, torch.float64: module().FLOAT64}[dtype]
    return code


class Call:
    """The keyword arguments of one native call, and the tensors that must outlive it."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        self._alive: list[Tensor] = []

    def read(self, name: str, value: Tensor | None, dtype: torch.dtype | None = None) -> None:
        """Pass a contiguous copy-free view of value, of the given dtype."""
        # Thirty times per layer and training step, hence without calls of our own.
        if value is not None and value.numel():
            if dtype is not None and value.dtype is not dtype:
                value = value.to(dtype)
            if not value.is_contiguous():
                value = value.contiguous()
            self._alive.append(value)
            self.fields[name] = read_pointer(value)

    def read_strided(self, name: str, value: Tensor | None, dtype: torch.dtype) -> None:
        """Pass a `[T, B, N]` tensor by its address and its time and batch strides."""
        if value is None:
            return
        value = value if value.dtype is dtype else value.to(dtype)
        if value.shape[-1] > 1 and value.stride(-1) != 1:
            value = value.contiguous()
        self._place(name, read_pointer(self._keep(value)), value)

    def write(self, name: str, value: Tensor) -> Tensor:
        self.fields[name] = self._keep(value).data_ptr()
        return value

    def write_strided(self, name: str, value: Tensor) -> Tensor:
        self._place(name, self._keep(value).data_ptr(), value)
        return value

    def _place(self, name: str, where: int, value: Tensor) -> None:
        prefix = name.removesuffix("_out")
        self.fields |= {
            name: where,
            f"{prefix}_stride_t": value.stride(0),
            f"{prefix}_stride_b": value.stride(1),
        }

    def _keep(self, value: Tensor) -> Tensor:
        self._alive.append(value)
        return value


def by_events(layer: Layer) -> bool:
    """Whether the feed adds rows of W^T per input event."""
    if not layer.packed or layer.weight is None:
        return False
    return cost.feed_form(layer.density, layer.inputs, layer.shape[2]) == "events"


def dense_input(layer: Layer) -> Tensor:
    """As `Layer.dense_input`, the dense copy of events being batch-major and in pooled memory."""
    if not layer.packed:
        return layer.dense_input()
    steps, batch, _ = layer.shape
    dtype = layer.m0.dtype
    call = Call()
    for name in ("in_ptr", "in_idx"):
        call.read(name, getattr(layer, name))
    call.read("in_val", layer.in_val, dtype)
    out = memory.empty((batch, steps, layer.inputs), dtype).transpose(0, 1)
    module().scatter(
        *(call.fields.get(name, 0) for name in ("in_ptr", "in_idx", "in_val")),
        *(steps, batch, layer.inputs, out.data_ptr(), out.stride(0), out.stride(1)),
        *(dtype_code(dtype), torch.get_num_threads()),
    )
    return out


@functools.lru_cache(maxsize=256)
def _structure(native: Any, neuron: str) -> dict[str, Any]:
    """What a native call says of an encoded neuron, but for its coefficients."""
    spec = decode(neuron)
    numbers = (*spec.surrogate.params, 0.0, 0.0)
    return {
        "fires": spec.fires,
        "poles": spec.poles,
        **spec.codes(),
        "surrogate": native.SURROGATES[spec.surrogate.kind],
        "surrogate_p0": numbers[0],
        "surrogate_p1": numbers[1],
        "surrogate_window": spec.surrogate.window,
    }


def layer_call(native: Any, layer: Layer, dtype: int | None, **extra: Any) -> Call:
    """What every native call says of a layer, but for its input. dtype: the module's code of the state's."""
    steps, batch, width = layer.shape
    gradient = layer.gradient
    if gradient == "sampled" and layer.level <= 0:
        gradient = "exact"
    call = Call(
        dtype=dtype,
        steps=steps,
        batch=batch,
        width=width,
        inputs=layer.inputs,
        gradient=native.GRADIENTS[gradient],
        level=layer.level,
        key=layer.key,
        **_structure(native, layer.spec.encode()),
        **extra,
    )
    for name in layer.spec.coefficients:
        value = getattr(layer.coefficients, name)
        call.read(name, value, layer.m0.dtype)
        if value.dim():
            call.fields[f"{name}_per_neuron"] = True
    call.read("m0", layer.m0)
    call.read("i0", layer.i0)
    call.read("cuts", layer.cuts)
    return call


def describe(layer: Layer, need_input: bool, need_dots: bool = False) -> Call:
    """The layer for the CPU module.

    need_input: its input current will be evaluated.  need_dots: lam W will be, at single entries.
    """
    dtype = layer.m0.dtype
    call = layer_call(module(), layer, dtype_code(dtype), threads=torch.get_num_threads())
    current = need_input and not by_events(layer)
    if layer.packed and layer.weight is not None:
        call.read("in_ptr", layer.in_ptr)
        call.read("in_idx", layer.in_idx)
        call.read("in_val", layer.in_val, dtype)
        if need_dots or (need_input and not current):
            if layer.weight_t is None:
                layer.weight_t = transposed_weight(layer.weight, dtype)
            call.read("weight_t", layer.weight_t)
    if current:
        _pass_current(call, layer)
    elif layer.weight is not None:
        call.read("bias", layer.bias, dtype)
    return call


def _pass_current(call: Call, layer: Layer) -> None:
    dtype = layer.m0.dtype
    if layer.weight is None:
        current = layer.dense_input()
    else:
        current = functional.linear(dense_input(layer), layer.weight, layer.bias)
    call.read_strided("current", current, dtype)


def transposed_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`[N_in, N padded]` of a weight `[N, N_in]`."""
    native = module()
    width, inputs = weight.shape
    source = weight if weight.dtype is dtype else weight.to(dtype)
    source = source.contiguous()
    out = memory.empty((inputs, native.padded_width(width)), dtype)
    native.transpose_weight(
        *(read_pointer(source), out.data_ptr(), width, inputs, inputs, dtype_code(dtype)),
        torch.get_num_threads(),
    )
    return out
