"""What `accelerate` did to a model: one row per layer, as text, as a rich table and as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from .options import Options
from .runtime import LayerRuntime

__all__ = ["LayerReport", "Report"]

_COLUMNS = ("layer", "class", "path", "neuron", "surrogate", "gradient", "note")


@dataclass
class LayerReport:
    """One layer.

    name: in the model ("" for the model itself).  kind: class name upstream.  path: "accelerated" or "stock".
    neuron, surrogate: in words.  reason: why it stays stock, "" if it does not.
    feed: it is a feed (nn.Linear) of neurons.  aliases: further names of the same module.
    """

    name: str
    kind: str
    path: Literal["accelerated", "stock"]
    neuron: str = ""
    surrogate: str = ""
    reason: str = ""
    feed: bool = False
    aliases: tuple[str, ...] = ()
    runtime: LayerRuntime | None = field(default=None, repr=False)

    @property
    def gradient(self) -> str:
        """The gradient rule in force now, "" for stock layers, feeds and neurons that do not fire."""
        return self.runtime.gradient_text() if self.runtime is not None and self.surrogate else ""

    @property
    def warnings(self) -> list[str]:
        """What the layer's first batches have shown to be wrong with its gradient rule."""
        runtime = self.runtime
        if runtime is None:
            return []
        found = []
        if runtime.quiet:
            seen = runtime.early_active
            found.append(
                f"quiet start: {sum(seen) / len(seen):.2%} of the entries lie in the window, the layer "
                "hardly learns; use gradient='sampled', a wider backward_threshold, or larger initial weights"
            )
        if runtime.reason is not None:
            found.append(f"runs upstream's code since an option was changed: {runtime.reason}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        return {
            "name": self.name,
            "class": self.kind,
            "path": self.path,
            "neuron": self.neuron,
            "surrogate": self.surrogate,
            "gradient": self.gradient,
            "reason": self.reason,
            "feed": self.feed,
            "aliases": list(self.aliases),
            "warnings": self.warnings,
        }


@dataclass
class Report:
    """What `accelerate` did, layer by layer; warnings and levels are those of the moment when it is read.

    layers: in the model's order.  options: in force.  disabled: SPARSE_BACKEND_DISABLE was set, nothing was
    swapped.
    notes: what concerns the model as a whole.
    """

    layers: list[LayerReport]
    options: Options
    disabled: bool = False
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> LayerReport:
        """The row of a layer by any of its names. Raises: KeyError."""
        for layer in self.layers:
            if name == layer.name or name in layer.aliases:
                return layer
        raise KeyError(name)

    @property
    def accelerated(self) -> list[LayerReport]:
        """Rows of the accelerated layers."""
        return [layer for layer in self.layers if layer.path == "accelerated"]

    @property
    def stock(self) -> list[LayerReport]:
        """Rows of the layers that run upstream's code."""
        return [layer for layer in self.layers if layer.path == "stock"]

    @property
    def warnings(self) -> list[str]:
        """All warnings, each with its layer's name."""
        return [f"{layer.name or 'model'}: {text}" for layer in self.layers for text in layer.warnings]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data (numbers, strings, lists), for JSON."""
        return {
            "disabled": self.disabled,
            "options": dict(vars(self.options)),
            "notes": list(self.notes),
            "layers": [layer.as_dict() for layer in self.layers],
        }

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                ", ".join((layer.name or "(model)", *layer.aliases)),
                *(layer.kind, layer.path, layer.neuron, layer.surrogate, layer.gradient),
                "; ".join(filter(None, (layer.reason, *layer.warnings))),
            )
            for layer in self.layers
        ]

    def _headline(self) -> str:
        neurons = [layer for layer in self.layers if not layer.feed]
        done = sum(layer.path == "accelerated" for layer in neurons)
        mode = self.options.gradient
        return f"sparse_backend: {done} of {len(neurons)} neuron layers accelerated, gradient={mode!r}"

    def __str__(self) -> str:
        lines = [self._headline(), *self.notes]
        if self.layers:
            table = [_COLUMNS, *self._rows()]
            widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS) - 1)]
            lines += ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in table]
        return "\n".join(lines)

    def to_rich(self) -> Any:
        """The report as a `rich.table.Table`. Raises: ImportError without rich."""
        from rich.markup import escape
        from rich.table import Table

        caption = "\n".join(self.notes) or None
        table = Table(title=escape(self._headline()), caption=caption and escape(caption))
        for column in _COLUMNS:
            table.add_column(column, no_wrap=column in ("layer", "class", "path"))
        for row, layer in zip(self._rows(), self.layers, strict=True):
            style = "yellow" if layer.warnings else "" if layer.path == "accelerated" else "dim"
            table.add_row(*map(escape, row), style=style)
        return table

    def __rich__(self) -> Any:
        return self.to_rich()
