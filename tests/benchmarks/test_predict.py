"""The arithmetic of the predictions for a GPU."""

from __future__ import annotations

import pytest

from benchmarks.predict import H100, Kernel, crossover, dense_seconds, main, predict
from benchmarks.rows import ROWS, Row


def test_a_kernel_is_bound_by_its_largest_term() -> None:
    kernel = Kernel("input", "input", memory=3e9, l2=1e9, instructions=1e6, launches=2)
    assert kernel.bound(H100) == "memory"
    assert kernel.seconds(H100) == pytest.approx(1e-3 + 2 * H100.launch)


def test_bytes_of_the_input_and_the_feed() -> None:
    row = ROWS["S-small"]
    found = predict(row, [0.01, 0.01, 0.01])
    entries = row.steps * row.batch * row.widths[0]
    compress, scan = found.forward[:2]
    assert compress.memory == pytest.approx(entries * (4 + 3 / 8 + 4 * row.density))
    assert scan.l2 == pytest.approx(4 * row.density * entries * row.widths[1])
    assert len(found.backward) == 3 * 3 - 1  # no layer below the first


def test_a_dense_program_does_all_products() -> None:
    row = Row((30, 20, 10), 4, 2)
    multiplications = 8 * (2 * 30 * 20 + 3 * 20 * 10)
    moved = 6 * 4 * 8 * (20 + 10)
    assert dense_seconds(row) == pytest.approx(2 * multiplications / H100.flops + moved / H100.memory)


def test_more_flops_lower_the_crossover() -> None:
    assert 0 < crossover(tf32=True) < crossover() < 1


def test_it_prints_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "F,S"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("predicted") == 2 and "layer 3: reverse scan" in printed
