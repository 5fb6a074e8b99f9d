"""What happened in an accelerated model: how sparse, which algorithms, and what broke recorded loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .errors import ArgumentTypeError
from .recording import flush_reasons
from .runtime import runtime_of

__all__ = ["FlushReason", "LayerStats", "Stats", "stats"]

_COLUMNS = ("layer", "calls", "steps", "active", "spikes", "level", "held", "algorithms")


@dataclass(frozen=True)
class LayerStats:
    """One neuron layer since it was accelerated.

    calls: sequences that ran; trained: those with a gradient; steps: time steps in all.
    active_fraction: of the entries of trained sequences, None before the first; spike_density: of all
    entries.
    level: s0 of the sampling (0: the surrogate as it is), None under other rules.
    saved_bytes: what the last trained sequence held for its backward pass, beside its inputs.
    algorithms: product -> form -> how often it was chosen.
    """

    name: str
    calls: int
    trained: int
    steps: int
    active_fraction: float | None
    spike_density: float | None
    level: float | None
    saved_bytes: int
    algorithms: dict[str, dict[str, int]]


@dataclass(frozen=True)
class FlushReason:
    """Why recorded steps ran, the line that caused it ("file.py:42: source"), how often, in this process."""

    reason: str
    line: str
    count: int


@dataclass(frozen=True)
class Stats:
    """What `stats(model)` found; readable as text, as a rich table and as data."""

    layers: list[LayerStats]
    flushes: list[FlushReason] = field(default_factory=list)

    def __iter__(self) -> Iterator[LayerStats]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> LayerStats:
        """The layer of this name. Raises: KeyError."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        """The statistics as plain data, for JSON."""
        return {
            "layers": [dict(vars(layer)) for layer in self.layers],
            "flushes": [dict(vars(f)) for f in self.flushes],
        }

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                layer.name or "(model)",
                f"{layer.calls} ({layer.trained} trained)",
                str(layer.steps),
                _percent(layer.active_fraction),
                _percent(layer.spike_density),
                "-" if layer.level is None else f"{layer.level:.3g}",
                _size(layer.saved_bytes),
                ", ".join(f"{product}: {_forms(forms)}" for product, forms in layer.algorithms.items()),
            )
            for layer in self.layers
        ]

    def _flush_lines(self) -> list[str]:
        return [f"{flush.count} x {flush.reason} at {flush.line}" for flush in self.flushes]

    def __str__(self) -> str:
        if not self.layers:
            return "sparse_backend: no accelerated layer"
        table = [_COLUMNS, *self._rows()]
        widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS) - 1)]
        lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in table]
        if self.flushes:
            lines += ["recorded steps ran because of:", *("  " + line for line in self._flush_lines())]
        return "\n".join(lines)

    def to_rich(self) -> Any:
        """The statistics as a `rich.table.Table`. Raises: ImportError without rich."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(
            *_COLUMNS, title="sparse_backend", caption=escape("\n".join(self._flush_lines())) or None
        )
        for row in self._rows():
            table.add_row(*map(escape, row))
        return table

    def __rich__(self) -> Any:
        return self.to_rich()


def stats(model: nn.Module) -> Stats:
    """How sparse each accelerated layer of a model has been, and what the recorded loops were broken by.

    Raises: ArgumentTypeError if `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model={model!r} must be a torch.nn.Module, not {type(model).__name__}")
    layers = []
    for module in model.modules():
        runtime = runtime_of(module)
        if runtime is None:
            continue
        totals = runtime.totals
        layers.append(
            LayerStats(
                name=runtime.name,
                calls=totals.calls,
                trained=totals.trained,
                steps=totals.steps,
                active_fraction=totals.active / totals.trained_entries if totals.trained_entries else None,
                spike_density=totals.spikes / totals.entries if totals.entries else None,
                level=runtime.level if runtime.options.gradient == "sampled" else None,
                saved_bytes=totals.saved_bytes,
                algorithms={product: dict(forms) for product, forms in totals.algorithm.items()},
            )
        )
    flushes = [FlushReason(reason, line, count) for (reason, line), count in flush_reasons().most_common()]
    return Stats(layers, flushes if layers else [])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _forms(forms: dict[str, int]) -> str:
    if len(forms) == 1:
        return next(iter(forms))
    return " / ".join(f"{form} {count}" for form, count in sorted(forms.items(), key=lambda item: -item[1]))
