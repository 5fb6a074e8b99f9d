"""Measurements as pictures, beside their JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from .timing import PHASES

__all__ = ["draw_rows", "draw_sweep"]

_SIDES = ("stock", "compiled stock", "spikingjelly", "norse", "fused dense", "accelerated")
_AXES = {
    "steps": "time steps T",
    "width": "neurons of each hidden layer",
    "active": "active fraction",
    "density": "input density",
}


def draw_rows(results: list[dict[str, Any]], path: Path) -> None:
    """Step times of all sides, and how many times stock takes longer in each phase, with its range."""
    shown = [result for result in results if "seconds" in result]
    figure = Figure(figsize=(max(7.0, 2.0 + 1.3 * len(shown)), 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    times, ratios = figure.subplots(2, 1)
    names = [f"{result['row']}\n{result['gradient']}" for result in shown]
    sides = [side for side in _SIDES if any(side in result["seconds"] for result in shown)]
    for index, side in enumerate(sides):
        here = [(place, result) for place, result in enumerate(shown) if side in result["seconds"]]
        at = [place + 0.8 * ((index + 0.5) / len(sides) - 0.5) for place, _ in here]
        steps = [1e3 * result["seconds"][side]["step"] for _, result in here]
        times.bar(at, steps, 0.8 / len(sides), label=side)
    times.set(ylabel="ms, median", title="Training step", yscale="log")
    for index, phase in enumerate(phase for phase in PHASES if phase != "optimizer"):
        found = [result["ratios"]["stock"][phase] for result in shown]
        at = [place + 0.25 * (index - 1) for place in range(len(shown))]
        below = [max(0.0, ratio["median"] - ratio["low"]) for ratio in found]
        above = [max(0.0, ratio["high"] - ratio["median"]) for ratio in found]
        medians = [ratio["median"] for ratio in found]
        ratios.bar(at, medians, 0.25, yerr=(below, above), capsize=2, label=phase)
    ratios.axhline(1, color="grey", linewidth=0.8)
    ratios.set(ylabel="stock / accelerated", title="How many times faster")
    for axes in (times, ratios):
        axes.set_xticks(range(len(shown)), names)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    _plain_numbers(times)
    figure.savefig(path, dpi=120)


def draw_sweep(results: list[dict[str, Any]], over: str, path: Path) -> None:
    """Step time of each side against what was varied, both logarithmic; a red check leaves a gap."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for side in _SIDES:
        timed = [result for result in results if side in result.get("seconds", {})]
        points = [(result["value"], 1e3 * result["seconds"][side]["step"]) for result in timed]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=side)
    axes.set(xscale="log", yscale="log", xlabel=_AXES[over], ylabel="training step, ms, median")
    axes.set_title(f"{results[0]['gradient']}: step time over {_AXES[over]}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    _plain_numbers(axes)
    figure.savefig(path, dpi=120)


def _plain_numbers(axes: Any) -> None:
    """Milliseconds at 1, 2 and 5 of each decade, instead of powers of ten."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
