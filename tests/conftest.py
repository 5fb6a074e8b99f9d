"""What the whole suite shares: the CUDA module built for the host, and repeatable property tests in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

DEVICE = torch.device(os.environ.get("SPARSE_BACKEND_TEST_DEVICE", "cpu"))
"""Where the tests make their tensors, but for those marked `host` and those of tests/native."""

_HostGenerator = torch.Generator


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Numpy sees host memory only.
    on_host = item.get_closest_marker("host") or "numpy" in item.name or "array" in item.name
    if DEVICE.type == "cpu" or on_host or "native" in item.path.parts:
        return
    torch.set_default_device(DEVICE)
    torch.Generator = lambda device=DEVICE: _HostGenerator(device)  # type: ignore[assignment, misc]


def pytest_runtest_teardown() -> None:
    if DEVICE.type != "cpu":
        torch.set_default_device(None)
        torch.Generator = _HostGenerator  # type: ignore[misc]


@pytest.fixture(scope="session")
def host_module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module `_cuda` with its kernels as host loops, undefined behaviour trapped."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is needed to build the CUDA kernels for the host")
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is needed for the host build")
    target = tmp_path_factory.mktemp("cuda_shim") / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [
        str(ROOT / "src_cuda/bindings_cuda.cpp"),
        "-x",
        "c++",
        str(ROOT / "src_cuda/cuda/neuron_scan.cu"),
    ]
    includes = [
        str(ROOT / "tests/native/cuda_shim"),
        pybind11.get_include(),
        sysconfig.get_path("include"),
    ]
    flags = [
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
    ]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-fno-sanitize=vptr"]
    flags += ['-DSPARSE_BACKEND_ARCHITECTURES="host"', "-Werror"]
    command = [compiler, *flags, *(f"-isystem{path}" for path in includes), *sources, "-o", str(target)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    spec = importlib.util.spec_from_file_location("_cuda", target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
