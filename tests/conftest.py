"""What the whole suite shares: the CUDA module built for the host, and repeatable property tests in CI."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
import torch
from hypothesis import settings
from native import host_build

from sparse_backend.ops import backend, cuda_place

settings.register_profile("ci", derandomize=True)
# Which form of a product runs must not depend on the machine; test_cost.py has its own files.
os.environ["SPARSE_BACKEND_COSTS"] = "fixed"
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
def host_module() -> ModuleType:
    """The module `_cuda` with its kernels built for the host (native/cuda_shim): undefined behaviour is
    trapped.

    With SPARSE_BACKEND_SHIM=address in the environment also addresses are checked; the process must have
    libasan preloaded then.
    """
    return host_build.load(os.environ.get("SPARSE_BACKEND_SHIM", "undefined"))


@pytest.fixture
def on_host(host_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Send every layer through ops/cuda.py with the kernels built for the host."""
    if DEVICE.type != "cpu":
        pytest.skip("the host build of the kernels reads host memory")
    monkeypatch.setattr(cuda_place, "native", lambda: host_module)
    monkeypatch.setattr(backend, "_on_cuda", lambda x: x.numel() > 0)
    monkeypatch.setenv("SPARSE_BACKEND_NATIVE", "0")
    return host_module
