"""The native CUDA module, and where its kernels run: the tensors' device and torch's current stream there."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch

from ..options import native_allowed

__all__ = ["available", "capturing", "code_for", "dtype_code", "module", "native", "place"]


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


def code_for(architectures: str, capability: tuple[int, int]) -> tuple[bool, str]:
    """Whether a build for `architectures` runs on a device of this compute capability, and how.

    architectures: as CMake writes them, comma-separated: "80-real" is machine code, "90-virtual" is PTX,
    "90" is both. Machine code runs on its own major version from its minor version on; the driver compiles
    PTX for any later device when the module is first used (CUDA C++ Programming Guide, "Application
    compatibility").
    """
    wanted = 10 * capability[0] + capability[1]
    pairs = [entry.partition("-")[::2] for entry in architectures.split(",")]
    machine = [int(number) for number, kind in pairs if kind != "virtual"]
    portable = [int(number) for number, kind in pairs if kind != "real"]
    fitting = [number for number in machine if number // 10 == wanted // 10 and number <= wanted]
    if fitting:
        return True, f"runs the code built for sm_{max(fitting)}"
    older = [number for number in portable if number <= wanted]
    if older:
        return True, f"newer than this build: the driver compiles compute_{max(older)} at first use, once"
    return False, f"none of the code built, for {architectures}, runs on it; layers run in plain torch"


@functools.cache
def _fits(device: torch.device) -> bool:
    return code_for(module().ARCHITECTURES, torch.cuda.get_device_capability(device))[0]


def available(device: torch.device) -> bool:
    """Whether the native kernels can run there: built, for this device too, and not ruled out."""
    return native_allowed() and native() is not None and torch.cuda.is_available() and _fits(device)


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
