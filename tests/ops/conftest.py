from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from counted_native import CountedNative

from sparse_backend.ops import backend


@pytest.fixture(params=["reference", "native", "cuda"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on plain torch, on the native CPU kernels, and on the CUDA kernels built for the host."""
    name: str = request.param
    if name == "reference":
        monkeypatch.setenv("SPARSE_BACKEND_NATIVE", "0")
    elif name == "cuda":
        request.getfixturevalue("on_host")
    elif backend.native() is None:
        pytest.skip("the native CPU module was not built")
    return name


@pytest.fixture
def counted_native(monkeypatch: pytest.MonkeyPatch) -> CountedNative:
    """The native CPU kernels, with their calls counted."""
    found = backend.native()
    if found is None:
        pytest.skip("the native CPU module was not built")
    counted = CountedNative(found)
    monkeypatch.setattr("sparse_backend.ops.native_call.module", lambda: counted)
    return counted


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(20211)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
