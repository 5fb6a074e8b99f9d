"""The training script both ways, at a tiny scale, and silence where their losses differ."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from benchmarks import script
from benchmarks.job import Job, run_job
from benchmarks.measure import Settings
from benchmarks.rows import Row
from benchmarks.script import measure_script
from benchmarks.tables import show
from benchmarks.timing import PHASES

TINY = Row((60, 24, 24, 5), 12, 8, 0.05, 0.05)
SETTINGS = Settings(repeats=2, warm_up=1, memory=False, details=False)


def answers(monkeypatch: pytest.MonkeyPatch, losses: dict[str, float]) -> list[tuple[str, ...]]:
    """Instead of processes: what each is called with; their losses, and a step that takes its index."""
    calls: list[tuple[str, ...]] = []

    def answer(module: str, job: Job, through: tuple[str, ...] = ()) -> Any:
        calls.append(tuple(through))
        side = "accelerated" if through else "stock"
        steps = [100.0, 10.0 * len(calls), 10.0 * len(calls)]
        return {"seconds": dict.fromkeys(PHASES, steps), "losses": [losses[side]] * 3}

    monkeypatch.setattr(script, "run_job", answer)
    return calls


def test_a_script_trains_alike_both_ways() -> None:
    result = measure_script("tiny", TINY, "exact", SETTINGS, rounds=1)
    assert result["agrees"]
    assert all(value > 0 for side in result["seconds"].values() for value in side.values())
    show(Console(file=io.StringIO()), result, "tiny")


def test_the_window_is_handed_on_and_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answers(monkeypatch, {"stock": 1.6, "accelerated": 1.6})
    result = measure_script("tiny", TINY, "window", SETTINGS, rounds=2)
    window = ("--strict", "--gradient", "window", "--backward-threshold", "0.1")
    assert calls == [(), ("-m", "sparse_backend", *window)] * 2
    samples = {side: phases["step"] for side, phases in result["samples"].items()}
    assert samples == {"stock": [10.0, 30.0], "accelerated": [20.0, 40.0]}, "the warm-up is left out"
    assert result["ratios"]["stock"]["step"] == {"median": 2 / 3, "low": 0.5, "high": 0.75}


@pytest.mark.parametrize("other", [1.601, float("nan"), float("inf")])
def test_no_speed_is_shown_where_the_losses_differ(other: float, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {"stock": 1.6, "accelerated": other})
    result = measure_script("tiny", TINY, "exact", SETTINGS, rounds=1)
    assert result["agreement"]["diverged"] == 0
    assert not result["agrees"] and "seconds" not in result
    console = Console(file=io.StringIO())
    show(console, result, "tiny")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "no speed is shown" in shown and f"stock 1.6, accelerated {other:.7g}" in shown


def test_a_script_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"No module named benchmarks\.nowhere"):
        run_job("benchmarks.nowhere", Job(TINY, {}, {}))
