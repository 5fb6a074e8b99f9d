"""Rows so small that a measurement takes a moment. No test here looks at how long something took."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparse_backend import recording

sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks/ is not installed


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    recording.flush()
    recording.reset_backoff()
    recording.forget_flush_reasons()
    yield
    recording.flush()
