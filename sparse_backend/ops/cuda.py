"""The layer operator on a CUDA device: the neuron scan is one native launch, the rest is torch on the device.

The scan walks all time steps with the state in registers (src_cuda/cuda/neuron_scan.cu). Event lists come
from torch's own compaction and the backward pass is the reference's; native kernels for both can take their
place behind the same functions.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..torch_private import read_pointer
from . import events, reference
from .contract import COEFFICIENTS, Layer, LayerGradients, LayerOutputs, OutputGradients

__all__ = ["available", "backward", "forward", "native"]


@functools.cache
def native() -> ModuleType | None:
    """The native CUDA module, or None when it was not built. Importing it touches no device."""
    try:
        return importlib.import_module("sparse_backend._cuda")
    except ImportError:
        return None


def available() -> bool:
    """Whether the native kernels can run: the module was built and torch sees a device."""
    return native() is not None and torch.cuda.is_available()


def forward(layer: Layer) -> LayerOutputs:
    """See `sparse_backend::layer` in schema.py."""
    spec, like = layer.spec, layer.m0
    out = LayerOutputs.empty(layer)
    out.m_last = torch.empty_like(like)
    if spec.poles == 2:
        out.i_last = torch.empty_like(like)
    if layer.want_membrane:
        out.membrane = like.new_empty(layer.shape)
    u = like.new_empty(layer.shape) if layer.lists_active else None
    fired = torch.empty(layer.shape, dtype=torch.uint8, device=like.device) if spec.fires else None
    _scan(layer, out, u, fired)
    if fired is None:
        return out
    graded = layer.coefficients.graded
    z = fired.to(like.dtype) * graded
    if layer.want_spikes:
        out.spikes = z
    out.ptr, out.idx, out.val = events.compress(z)
    if u is not None:
        out.aptr, out.aidx = events.from_mask(reference.active_entries(spec, layer, u))
        out.au = events.gather(u, out.aptr, out.aidx)
    if layer.carrier_dense:
        out.carrier = like.new_zeros(()).expand(layer.shape)
    elif u is not None:
        out.carrier = events.gather(z, out.aptr, out.aidx)
    return out


def backward(layer: Layer, out: LayerOutputs, grads: OutputGradients, needs: int) -> LayerGradients:
    """See `sparse_backend::layer_backward` in schema.py."""
    return reference.backward(layer, out, grads)


def _scan(layer: Layer, out: LayerOutputs, u: Tensor | None, fired: Tensor | None) -> None:
    module, spec, like = native(), layer.spec, layer.m0
    assert module is not None
    steps, batch, width = layer.shape
    current = reference.input_current(layer)
    if width > 1 and current.stride(-1) != 1:
        current = current.contiguous()
    alive: list[Tensor] = [current]
    codes: dict[str, Any] = {
        "dtype": module.FLOAT32 if like.dtype == torch.float32 else module.FLOAT64,
        "steps": steps,
        "batch": batch,
        "width": width,
        **spec.codes(),
        "poles": spec.poles,
        "fires": spec.fires,
        "stream": torch.cuda.current_stream(like.device).cuda_stream,
        "spikes_bytes": True,
    }

    def place(name: str, value: Tensor | None, stem: str) -> None:
        if value is not None and value.numel():
            strides = {f"{stem}_stride_t": value.stride(0), f"{stem}_stride_b": value.stride(1)}
            codes.update({name: read_pointer(value), **strides})

    def read(name: str, value: Tensor) -> None:
        alive.append(value.to(like.dtype).contiguous())
        codes[name] = read_pointer(alive[-1]) if alive[-1].numel() else 0

    place("current", current, "current")
    place("membrane_out", out.membrane, "membrane")
    place("spikes", fired, "spikes")
    place("u_out", u, "u")
    for name, value in zip(COEFFICIENTS, layer.coefficients.tensors(), strict=True):
        read(name, value)
        codes[f"{name}_per_neuron"] = value.dim() > 0
    read("m0", like)
    read("i0", layer.i0)
    codes["m_last"] = out.m_last.data_ptr()
    codes["i_last"] = out.i_last.data_ptr() if out.i_last.numel() else 0
    with torch.cuda.device(like.device):
        module.neuron_scan(module.scan(**codes))
