"""The command line at a tiny scale: what it writes, and what it says to wrong arguments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import commands, results, sweep, worst
from benchmarks.__main__ import main
from benchmarks.rows import Row

TINY = Row((40, 16, 16, 5), 8, 6, 0.1, 0.02)
PNG = b"\x89PNG"


def test_a_folder_gets_a_file_of_the_usual_name(tmp_path: Path) -> None:
    path = results.write([], "cpu", tmp_path, None)
    assert path.parent == tmp_path and path.name.startswith("cpu-") and path.suffix == ".json"
    assert json.loads(path.read_text())["results"] == []


def test_rows_are_written_and_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(commands.ROWS, "S-small", TINY)
    output = tmp_path / "new" / "r.json"
    arguments = ["--config", "S-small", "--gradient", "exact,window", "--repeats", "5", "--warm-up", "1"]
    assert main(["cpu", *arguments, "--no-memory", "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    assert [result["gradient"] for result in content["results"]] == ["exact", "window"]
    for result in content["results"]:
        fields = ("agreement", "seconds", "samples", "ratios", "recording", "kernels", "layers")
        assert set(fields) <= set(result)
    assert {"processor", "packages", "ceilings"} <= set(content["machine"])
    assert output.with_suffix(".png").read_bytes().startswith(PNG)


def test_a_run_that_is_cut_off_leaves_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = commands.measure

    def cut_off(name: str, row: Row, gradient: str, *rest: Any) -> dict[str, Any]:
        if gradient == "window":
            raise KeyboardInterrupt
        return original(name, row, gradient, *rest)

    monkeypatch.setitem(commands.ROWS, "S-small", TINY)
    monkeypatch.setattr(commands, "measure", cut_off)
    arguments = ["--config", "S-small", "--gradient", "exact,window", "--repeats", "5", "--warm-up", "1"]
    with pytest.raises(KeyboardInterrupt):
        main(["cpu", *arguments, "--no-memory", "--output", str(tmp_path)])
    (output,) = tmp_path.iterdir()
    assert [result["gradient"] for result in json.loads(output.read_text())["results"]] == ["exact"]


@pytest.mark.parametrize("over", sweep.SWEEPS)
def test_a_sweep_has_a_point_per_value(over: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {"steps": (5, 8), "width": (8, 12), "active": (0.05, 1.0), "density": (0.05, 1.0)}[over]
    monkeypatch.setitem(sweep.SWEEPS, over, values)
    monkeypatch.setattr(sweep, "_BASE", replace(TINY, steps=6))
    output = tmp_path / "s.json"
    arguments = ["--over", over, "--repeats", "5", "--warm-up", "1", "--output", str(output)]
    assert main(["sweep", *arguments]) == 0
    results = json.loads(output.read_text())["results"]
    assert [result["value"] for result in results] == list(values)
    if over == "active":
        found = [[layer["active_fraction"] for layer in result["layers"]] for result in results]
        assert max(found[0]) < 0.5 and min(found[1]) == 1.0
    if over == "density":
        assert [result["input_density"] for result in results] == pytest.approx(values, abs=0.03)
    assert output.with_suffix(".png").read_bytes().startswith(PNG)


def test_the_worst_cases_agree_with_stock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, case in worst.CASES.items():
        row = replace(TINY, steps=min(8, case.row.steps), density=case.row.density)
        monkeypatch.setitem(worst.CASES, name, replace(case, row=row, more=1))
    output = tmp_path / "w.json"
    assert main(["worst", "--repeats", "5", "--warm-up", "1", "--output", str(output)]) == 0
    results = json.loads(output.read_text())["results"]
    assert {result["row"] for result in results} == set(worst.CASES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cpu", "--config", "F,Q"], "no row 'Q'; known are F, N"),
        (["cpu", "--gradient", "best"], "no rule 'best'"),
        (["cpu", "--peers", "fast"], "no peer 'fast'; known are compiled stock"),
        (["cpu", "--repeats", "3"], "3 is too few for a median; at least 5"),
        (["worst", "--warm-up", "x"], "'x' is not a number of repeats"),
        (["sweep"], "--over"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_nothing_is_measured_where_all_is_stock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSE_BACKEND_DISABLE", "1")
    assert main(["script", "--config", "S-small"]) == 2
    assert "stock would be compared with stock" in capsys.readouterr().out


def test_the_active_fraction_is_varied_under_a_window_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--over", "active", "--gradient", "exact"]) == 2
    assert 'must be "window"' in capsys.readouterr().out
