"""The native CUDA module, and where its kernels run: the tensors' device and torch's current stream there."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch

from ..options import native_allowed

__all__ = ["available", "capturing", "dtype_code", "module", "native", "place"]


@functools.cache
def native() -> ModuleType | None:
    """The native CUDA module, or None when it was not built. Importing it touches no device."""
    try:
        return importlib.import_module("sparse_backend._cuda")
    except ImportError:
        return None


def module() -> Any:
    """The native module; only called where it is there."""
    return native()


def available() -> bool:
    """Whether the native kernels can run: allowed, the module was built, and torch sees a device."""
    return native_allowed() and native() is not None and torch.cuda.is_available()


def place(device: torch.device) -> dict[str, int]:
    """The arguments of a call that say where it runs. Host builds of the kernels have no streams."""
    if device.type != "cuda":
        return {"device": 0, "stream": 0}
    return {"device": device.index or 0, "stream": torch.cuda.current_stream(device).cuda_stream}


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured on the device's current stream, so that the host cannot wait."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def dtype_code(dtype: torch.dtype) -> int | None:
    """The native code of an input's dtype, None for one without kernels."""
    names = {
        torch.float32: "FLOAT32",
        torch.float64: "FLOAT64",
        torch.float16: "FLOAT16",
        torch.bfloat16: "BFLOAT16",
        torch.uint8: "UINT8",
        torch.bool: "BOOL",
    }
    name = names.get(dtype)
    return None if name is None else int(getattr(module(), name))
