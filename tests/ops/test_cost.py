"""The cost model: which form wins, and constants that are measured once and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sparse_backend import doctor
from sparse_backend.ops import backend, calibration, cost
from sparse_backend.ops.calibration import FIXED, Costs

MEASURED = Costs(2.0, 1.5, 2.25, 2.75, 0.9)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets SPARSE_BACKEND_COSTS as a new process would find it."""

    def forget() -> None:
        calibration._found.cache_clear()
        calibration._in_force.cache_clear()

    def set_place(value: str) -> None:
        monkeypatch.setenv("SPARSE_BACKEND_COSTS", value)
        forget()

    yield set_place
    forget()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the measurement; the list has an entry for each."""
    pytest.importorskip("sparse_backend._cpu", reason="nothing is measured without the native module")
    calls: list[Any] = []

    def measure(native: Any) -> Costs:
        calls.append(native)
        return MEASURED

    monkeypatch.setattr(calibration, "measure", measure)
    return calls


def test_forms_at_the_ends() -> None:
    assert cost.feed_form(0.01, 700, 200) == "events" and cost.feed_form(1.0, 700, 200) == "gemm"
    assert cost.input_gradient_form(0.01, 200, 200) == "sampled"
    for width in (10, 200):
        assert cost.input_gradient_form(1.0, 1000, width) == "gemm-fused"
    assert 0.2 < cost.feed_limit() < 1
    assert cost.weight_gradient_form(0.01, 1.0, 700, 200, True, True) == "spike"
    assert cost.weight_gradient_form(0.5, 0.02, 700, 200, True, True) == "trace"
    assert cost.weight_gradient_form(0.5, 0.02, 700, 200, False, True) == "gemm"
    assert cost.weight_gradient_form(1.0, 1.0, 700, 200, True, False) == "gemm"


def test_measured_once_and_kept(place: Callable[[str], None], measured: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "costs.json"
    for _ in range(2):
        place(str(path))
        assert calibration.costs() == MEASURED == calibration.costs()
    assert len(measured) == 1
    assert list(json.loads(path.read_text()).values()) == [asdict(MEASURED)]
    assert [file.name for file in path.parent.iterdir()] == ["costs.json"]
    assert str(path) in calibration.describe() and "dot 2.75" in calibration.describe()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"'])
def test_a_file_that_cannot_be_read_is_replaced(
    place: Callable[[str], None], measured: list[Any], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "costs.json"
    path.write_text(content)
    place(str(path))
    assert calibration.costs() == MEASURED and len(measured) == 1
    assert list(json.loads(path.read_text()).values()) == [asdict(MEASURED)]


@pytest.mark.parametrize(
    "wrong", [{}, {"dot": "1"}, {"dot": -1.0}, {"dot": float("nan")}, {"dot": True}, None]
)
def test_an_entry_that_makes_no_sense_is_measured_again(
    place: Callable[[str], None], measured: list[Any], tmp_path: Path, wrong: dict[str, Any] | None
) -> None:
    path = tmp_path / "costs.json"
    key = calibration._key(backend.native())
    entry = None if wrong is None else asdict(FIXED) | wrong if wrong else {"other": 1.0}
    path.write_text(json.dumps({key: entry, "another machine": asdict(FIXED)}))
    place(str(path))
    assert calibration.costs() == MEASURED and len(measured) == 1
    kept = json.loads(path.read_text())
    assert kept == {key: asdict(MEASURED), "another machine": asdict(FIXED)}


def test_without_a_place_to_keep_them_the_constants_are_fixed(
    place: Callable[[str], None], measured: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file" / "costs.json", tmp_path):
        place(str(bad))
        assert calibration.costs() == FIXED and not measured
        assert "cannot be written" in calibration.describe()


def test_fixed_and_the_users_cache(
    place: Callable[[str], None], measured: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place("fixed")
    assert calibration.costs() == FIXED and not measured
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place("")
    assert calibration.costs() == MEASURED
    assert os.path.exists(tmp_path / "sparse_backend" / "costs.json")


def test_the_measurement() -> None:
    native = pytest.importorskip("sparse_backend._cpu")
    found = asdict(calibration.measure(native))
    for name, usual in asdict(FIXED).items():
        # Nothing about speed: whatever the kernels take, what is kept lies within its bounds.
        lowest = 1 / 16 if name == "product" else usual / 4
        assert lowest <= found[name] <= usual * 4


def test_only_a_product_may_be_far_faster_than_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    native = pytest.importorskip("sparse_backend._cpu", reason="nothing is measured without kernels")
    timed = {"product": 1.0, "own_product": 0.12, "feed": 0.12, "backward": 99.0}
    for name, seconds in timed.items():
        monkeypatch.setattr(calibration._Bench, name, lambda *_, s=seconds, **__: s)
    found = calibration.measure(native)
    assert found.product == 0.12
    assert found.feed_row == FIXED.feed_row / 4  # the bound itself: rounding does not go below it
    assert found.dot == FIXED.dot * 4


def test_doctor_shows_them() -> None:
    lines = {finding.subject: finding for finding in doctor.examine()}
    assert "feed_row" in lines["CPU cost model"].text and "fixed" in lines["CPU cost model"].text
