"""The arithmetic of the floors, on round numbers; the ceilings only for being there."""

from __future__ import annotations

import math
import shutil

import pytest

from benchmarks.floors import Ceilings, Work, ceilings, compress_work, product_work

LIMITS = Ceilings(
    memory=10e9, cache=100e9, rows=200e9, updates=50e9, multiply_adds=1e12, last_level=2_000_000
)


def test_a_large_input_is_read_from_memory_and_a_small_one_from_cache() -> None:
    assert compress_work(10_000_000, 4, 0).seconds(LIMITS) == pytest.approx(4e-3)
    assert compress_work(200_000, 4, 50_000).seconds(LIMITS) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("form", "seconds"),
    [
        # 1000 entries of [50] and [40], 250 input events, 100 active entries.
        ("gather", 4 * 250 / 100e9 + 4 * 250 * 40 / 200e9),
        ("spike", 4 * 250 / 100e9 + 4 * 250 * 40 / 50e9),
        ("trace", (4 * 250 + 8 * 100) / 100e9 + 4 * 100 * 50 / 50e9),
        ("sampled", 8 * 250 / 100e9 + 4 * 250 * 40 / 200e9),
        ("scatter", 8 * 100 / 100e9 + 4 * 100 * 50 / 200e9),
        ("gemm", 1000 * 50 * 40 / 1e12),
    ],
)
def test_each_form_moves_its_rows(form: str, seconds: float) -> None:
    assert product_work(form, 1000, 50, 40, 250, 100).seconds(LIMITS) == pytest.approx(seconds)


def test_the_larger_of_moving_and_computing_counts() -> None:
    work = Work(rows=200.0) + Work(multiply_adds=5000.0)
    assert work.seconds(LIMITS) == pytest.approx(5e-9)
    assert (work + Work(rows=1800.0)).seconds(LIMITS) == pytest.approx(1e-8)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ measures the ceilings")
def test_ceilings_are_measured() -> None:
    found = vars(ceilings()).values()
    assert all(math.isfinite(value) and value > 0 for value in found)
