"""The module `_cuda` for the host: the kernel sources of src_cuda/cuda/ through the shim of the CUDA runtime.

Objects are kept in build/cuda_shim under a hash of what they are made from, so that only the first run pays.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

__all__ = ["load"]

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "tests/native/cuda_shim"
KERNELS = sorted((ROOT / "src_cuda/cuda").glob("*.cu"))
SANITIZERS = {
    "undefined": ["-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-fno-sanitize=vptr"],
    "address": ["-O0", "-fsanitize=address"],
}
FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


def _digest(parts: list[str]) -> str:
    sources = [
        path for folder in (ROOT / "src_cuda", SHIM) for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    content = [path.read_bytes() for path in sources if "cpu" not in path.parts]
    return hashlib.sha256(b"\0".join([*(part.encode() for part in parts), *content])).hexdigest()[:16]


@functools.cache
def load(sanitizer: str) -> ModuleType:
    """Build (once) and import the module; skips the test where that is not possible."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is needed to build the CUDA kernels for the host")
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is needed for the host build")
    includes = [str(SHIM), pybind11.get_include(), sysconfig.get_path("include")]
    base = [
        compiler,
        *FLAGS,
        '-DSPARSE_BACKEND_ARCHITECTURES="host"',
        *(f"-isystem{path}" for path in includes),
    ]
    folder = ROOT / "build/cuda_shim" / _digest([*base, sanitizer])
    target = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _build(base, SANITIZERS[sanitizer], target)
    spec = importlib.util.spec_from_file_location("_cuda", target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(base: list[str], checks: list[str], target: Path) -> None:
    # The bindings are glue without arithmetic: built once, not sanitized.
    glue = target.parent.parent / f"{_digest(base)}-bindings.o"
    work = [(path, checks, target.parent / f"{path.stem}.o") for path in [SHIM / "shim.cpp", *KERNELS]]
    if not glue.exists():
        work.insert(0, (ROOT / "src_cuda/bindings_cuda.cpp", ["-O1"], glue))
    running = [
        subprocess.Popen(
            [*base, *flags, "-x", "c++", "-c", str(source), "-o", str(made)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for source, flags, made in work
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    objects = {str(glue), *(str(made) for _, _, made in work)}
    unfinished = target.with_suffix(f".{os.getpid()}")
    link = [base[0], "-shared", *checks, *sorted(objects), "-o", str(unfinished)]
    built = subprocess.run(link, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    unfinished.rename(target)
