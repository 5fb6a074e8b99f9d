"""The comparison as a picture: accuracy per epoch and over time, training time, and time per phase."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from .results import PHASES, VariantResult

__all__ = ["draw"]


def draw(results: Sequence[VariantResult], title: str, path: Path) -> None:
    """Write a PNG with four panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    (epochs, seconds), (curve, bars) = figure.subplots(2, 2)
    for result, marker in zip(results, itertools.cycle("os^Dv")):
        style = {"marker": marker, "markersize": 4, "label": result.name}
        epochs.plot([e for e, _, _ in result.accuracy], [100 * a for _, a, _ in result.accuracy], **style)
        seconds.plot([s for _, _, s in result.accuracy], [100 * a for _, a, _ in result.accuracy], **style)
        curve.plot(list(itertools.accumulate(result.totals())), label=result.name)
    if not any(result.accuracy for result in results):
        for axes in (epochs, seconds):
            axes.text(
                0.5, 0.5, "no accuracy found in the script's output", ha="center", transform=axes.transAxes
            )
    epochs.set(xlabel="epoch", ylabel="accuracy, %", title="Accuracy per epoch")
    seconds.set(
        xlabel="seconds since the first training step", ylabel="accuracy, %", title="Accuracy over time"
    )
    curve.set(xlabel="training step", ylabel="seconds in training steps", title="Training time")
    _bars(bars, results)
    for axes in (epochs, seconds, curve):
        axes.grid(alpha=0.3)
    epochs.xaxis.set_major_locator(MaxNLocator(integer=True))
    curve.legend()
    figure.savefig(path, dpi=120)


def _bars(axes: object, results: Sequence[VariantResult]) -> None:
    names = [result.name for result in results]
    bottom = [0.0] * len(results)
    for phase in PHASES:
        heights = [1e3 * (result.median(phase) or 0.0) for result in results]
        axes.bar(names, heights, bottom=bottom, label=phase)  # type: ignore[attr-defined]
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set(ylabel="ms, median", title="Training step")  # type: ignore[attr-defined]
    axes.legend()  # type: ignore[attr-defined]
