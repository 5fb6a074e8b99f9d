"""Small C++ programs of the benchmark, compiled at first use: what the machine can do, and a dense rival."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from ctypes import CDLL, c_float, c_int64
from pathlib import Path

from torch import Tensor

__all__ = ["CDLL", "NoCompilerError", "address", "c_float", "c_int64", "load"]

# No -ffast-math, no contraction: the dense program has to give stock's spikes.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-fPIC", "-shared", "-Wall")


class NoCompilerError(Exception):
    """No C++ compiler was found, or it failed; the message says which."""


@functools.cache
def load(name: str) -> ctypes.CDLL:
    """`<name>.cpp` of this folder as a library; its OpenMP runtime is the one that torch has loaded.

    Raises: NoCompilerError.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise NoCompilerError("no C++ compiler (g++, c++ or $CXX)")
    source = Path(__file__).parent / f"{name}.cpp"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{name}.so"
        command = [*compiler.split(), *_FLAGS, str(source), "-o", str(library)]
        try:
            built = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise NoCompilerError(f"{compiler}: {error}") from error
        if built.returncode:
            errors = [line for line in built.stderr.splitlines() if "error" in line] or [built.stderr.strip()]
            raise NoCompilerError(f"{compiler} cannot build {source.name}: {errors[0]}")
        return ctypes.CDLL(str(library))


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Of a contiguous tensor's first element; null for None."""
    if tensor is None:
        return ctypes.c_void_p()
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())
