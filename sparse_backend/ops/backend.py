"""Which implementation runs an operator: native CPU, CUDA, or the reference in plain torch."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

import torch
from torch import Tensor

from ..options import native_allowed
from . import cost, events, reference
from .contract import Layer, LayerGradients, LayerOutputs, OutputGradients

__all__ = ["backward", "choices", "compress", "counts", "forward", "gather", "native", "to_dense"]

_DTYPES = (torch.float32, torch.float64)
_NATIVE = "sparse_backend._cpu"
_warned = False


def native() -> ModuleType | None:
    """The native CPU module, or None (said once) when it was not built or SPARSE_BACKEND_NATIVE=0 rules it
    out."""
    if not native_allowed():
        return None
    try:
        return sys.modules.get(_NATIVE) or importlib.import_module(_NATIVE)
    except ImportError as error:
        _warn_once(str(error))
        return None


def _warn_once(cause: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "sparse_backend runs without its native kernels, correct but slow: the module "
            f"sparse_backend._cpu is missing ({cause}). Install a C++ compiler and reinstall the package to "
            "build it; `python -m sparse_backend doctor` says more.",
            RuntimeWarning,
            stacklevel=2,
        )


def _on_cuda(x: Tensor) -> bool:
    """Whether the tensor lies where the CUDA kernels run."""
    if x.device.type != "cuda" or x.numel() == 0:
        return False
    from . import cuda_place

    return cuda_place.available(x.device)


def counts(layer: Layer) -> bool:
    """Whether list sizes are counts; while a CUDA graph is captured they are room for every entry."""
    if not _on_cuda(layer.m0):
        return True
    from . import cuda_place

    return not cuda_place.capturing(layer.m0.device)


def _module(layer: Layer) -> ModuleType:
    """The implementation for this layer: cpu or cuda where their kernels apply, else reference."""
    if layer.m0.dtype not in _DTYPES or layer.m0.numel() == 0:
        return reference
    if layer.m0.device.type == "cpu" and native() is not None:
        from . import cpu

        return cpu
    if _on_cuda(layer.m0):
        from . import cuda

        return cuda
    return reference


def choices(layer: Layer, out: LayerOutputs, grads: OutputGradients | None = None) -> dict[str, str]:
    """The implementation that runs this layer, and its form of each product, for reports; the same functions
    decide when the work is done."""
    module = layer.ran_by or _module(layer)
    found = {"backend": module.__name__.rpartition(".")[2]}
    return found if module is reference else {**found, **module.forms(layer, out, grads)}


def forward(layer: Layer) -> LayerOutputs:
    layer.ran_by = module = _module(layer)
    result: LayerOutputs = module.forward(layer)
    return result


def backward(layer: Layer, out: LayerOutputs, grads: OutputGradients, needs: int) -> LayerGradients:
    module = _module(layer)
    result: LayerGradients = (
        reference.backward(layer, out, grads)
        if module is reference
        else module.backward(layer, out, grads, needs)
    )
    return result


def compress(x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """(ptr, idx, val) of a dense `[T, B, N_in]` input if driving the feed by its events is worth it, else
    None."""
    if x.numel() == 0:
        return None
    if _on_cuda(x):
        from . import cuda

        return cuda.compress(x)
    if x.device.type != "cpu" or x.dtype not in _DTYPES or native() is None:
        return None
    from . import cpu

    return cpu.compress(x, limit=cost.feed_limit())


def to_dense(carrier: Tensor, ptr: Tensor, idx: Tensor, val: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The events as a dense `[T, B, N]` tensor of the carrier's dtype."""
    if carrier.dtype in _DTYPES and _on_cuda(carrier):
        from . import cuda

        return cuda.to_dense(ptr, idx, val, shape, carrier.dtype)
    if carrier.device.type == "cpu" and carrier.dtype in _DTYPES and native() is not None:
        from . import cpu

        return cpu.to_dense(ptr, idx, val, shape, carrier.dtype)
    return events.expand(ptr, idx, val, shape, carrier.dtype).contiguous()


def gather(dense: Tensor, ptr: Tensor, idx: Tensor) -> Tensor:
    """The entries of a `[T, B, N]` tensor at the events, `[E]`."""
    if dense.dtype in _DTYPES and _on_cuda(dense):
        from . import cuda

        return cuda.gather(dense, ptr, idx)
    if dense.device.type == "cpu" and dense.dtype in _DTYPES and native() is not None:
        from . import cpu

        return cpu.gather(dense, ptr, idx)
    return events.gather(dense, ptr, idx)
