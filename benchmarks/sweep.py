"""Step time against one quantity, the others fixed and small, so that crossovers are seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .measure import Settings, measure
from .models import build
from .rows import Row

__all__ = ["SWEEPS", "sweep"]

_BASE = Row((700, 200, 200, 20), 100, 64, 0.015, 0.02)
_FRACTIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

SWEEPS: dict[str, tuple[float, ...]] = {
    "steps": (10, 30, 100, 300, 1000, 3000, 10000),
    "width": (64, 128, 256, 512, 1024, 2048, 4096),
    "active": _FRACTIONS,
    "density": _FRACTIONS,
}
"""What is varied (time steps, neurons of a hidden layer, active fraction, input density), and its values."""


def sweep(
    over: str,
    gradient: str,
    settings: Settings,
    told: Callable[[float], None] = lambda value: None,
    done: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """A measurement per value of `SWEEPS[over]`, each with its "value".

    "active" needs the gradient "window": it varies the half-width, and nothing else.
    told, done: called before and after each.
    """
    results = []
    for value in SWEEPS[over]:
        told(value)
        row, variation = _point(over, value)
        result = measure(f"{over} {value:g}", row, gradient, settings, **variation)
        results.append(result | {"value": value})
        done()
    return results


def _point(over: str, value: float) -> tuple[Row, dict[str, Any]]:
    if over == "steps":
        return replace(_BASE, steps=int(value), widths=(100, 64, 10), batch=16), {}
    if over == "width":
        return replace(_BASE, widths=(700, int(value), int(value), 20), steps=25, batch=32), {}
    if over == "density":
        return replace(_BASE, density=value), {}
    return _BASE, {"half_width": _half_width(_BASE, value)}


def _half_width(row: Row, fraction: float) -> float:
    """Of the window that holds this fraction of the hidden layers' entries."""
    models = build(row, "window")
    distances: list[torch.Tensor] = []
    hooks = [
        lif.register_forward_hook(lambda module, args, out: distances.append((out[1] - 1).abs().flatten()))
        for lif in models.stock.lifs[:-1]
    ]
    with torch.no_grad():
        models.stock(models.x)
    for hook in hooks:
        hook.remove()
    found = torch.cat(distances).sort().values
    # All of them and more: the output layer is not in the list.
    return float(found[int(fraction * len(found))]) if fraction < 1 else 1e6
