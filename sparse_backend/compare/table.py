"""The comparison as rich tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .results import PHASES, VariantResult

__all__ = ["accuracy_table", "gradient_table", "layer_table", "show", "speed_table"]

_NONE = "-"


def show(console: Console, results: Sequence[VariantResult]) -> None:
    """Print all tables; the first result is what the others are compared with."""
    tables = [speed_table(results)]
    if any(result.layers for result in results):
        tables.append(layer_table(results))
    if any(result.gradients for result in results):
        tables.append(gradient_table(results))
    tables.append(accuracy_table(results))
    for table in tables:
        # As a caption it would be folded to the width of the table.
        note, table.caption = table.caption, None
        console.print(table)
        if note:
            console.print(note, style="dim", markup=False, highlight=False)
    for result in results:
        if result.gradient_problem:
            console.print(f"{result.name}: no gradient comparison: {result.gradient_problem}", markup=False)
    for result in results:
        for count, reason in result.flushes:
            if count > 2 * result.steps:  # once per training step or evaluation is how it should be
                text = f"{result.name}: recorded loops were broken {count} times by {reason}"
                console.print(text, style="yellow", markup=False)


def speed_table(results: Sequence[VariantResult]) -> Table:
    """Milliseconds per training step and phase, wall time, peak memory, and ratios to the first variant."""
    table = _table("Time and memory", ["", *(r.name for r in results), *_ratio_heads(results)])
    for phase in PHASES:
        _row(table, f"{phase}, ms", [r.median(phase) for r in results], 1e3)
    _row(table, "training step, ms", [r.median("step") for r in results], 1e3, style="bold")
    _row(table, "training and evaluation, s", [r.wall for r in results], 1)
    _row(table, "peak memory of a step, MiB", [r.memory for r in results], 2**-20)
    if any(r.device_memory is not None for r in results):
        _row(table, "the same on the GPU, MiB", [r.device_memory for r in results], 2**-20)
    steps = " or ".join(map(str, sorted({r.steps for r in results})))
    table.caption = f"medians of {steps} training steps; memory above that before the first step"
    return table


def _row(
    table: Table, label: str, values: Sequence[float | None], scale: float, style: str | None = None
) -> None:
    """A cell per variant, then how many times less than the first variant each other one takes."""
    base, *others = values
    ratios = [f"{base / own:.2f}x" if base is not None and own else _NONE for own in others]
    table.add_row(label, *(_scaled(value, scale) for value in values), *ratios, style=style)


def layer_table(results: Sequence[VariantResult]) -> Table:
    """Spike density and active fraction of each layer, on the first batch and on the last one looked at."""
    table = _table("Activity per layer, first batch > last batch seen", ["layer", "class"])
    for result in results:
        table.add_column(f"{result.name}\nspikes", justify="right")
        if result.options is not None:
            table.add_column(f"{result.name}\nactive", justify="right")
    names = {layer.name: layer.kind for result in results for layer in result.layers}
    for name, kind in names.items():
        cells = [escape(name) or "(model)", kind]
        for result in results:
            layer = next((layer for layer in result.layers if layer.name == name), None)
            if layer is None:
                cells += [_NONE] * (1 if result.options is None else 2)
                continue
            cells.append(_change(layer.first_spikes, layer.last_spikes))
            if result.options is not None:
                cells.append(_change(layer.first_active, layer.last_active))
        table.add_row(*cells)
    table.caption = "share of all entries [T, B, N]; stock's backward pass treats every entry as active"
    return table


def gradient_table(results: Sequence[VariantResult]) -> Table:
    """First-batch gradients of each parameter against the first variant's."""
    others = [result for result in results if result.gradients]
    heads = [f"{result.name}\n{what}" for result in others for what in ("relative error", "cosine")]
    table = _table(f"Gradients on the first batch against {results[0].name}", ["parameter", *heads])
    for position, difference in enumerate(others[0].gradients or ()):
        cells = []
        for result in others:
            own = (result.gradients or [])[position]
            cells += [f"{own.relative:.1e}", f"{own.cosine:.6f}"]
        table.add_row(escape(difference.name), *cells)
    if any((result.options or {}).get("gradient") != "exact" for result in others):
        table.caption = "a sampled gradient differs on one batch and agrees on average; a window is biased"
    return table


def accuracy_table(results: Sequence[VariantResult]) -> Table:
    """Accuracy per epoch, as the script printed it."""
    table = _table("Accuracy per epoch", ["epoch", *(r.name for r in results)])
    by_epoch = [{epoch: value for epoch, value, _ in result.accuracy} for result in results]
    for epoch in sorted(set().union(*by_epoch)):
        table.add_row(str(epoch), *(_percent(found.get(epoch)) for found in by_epoch))
    table.caption = "as the script prints it"
    if not table.row_count:
        table.add_row(_NONE, *("not found" for _ in results))
        table.caption = "looked for lines with an epoch and an accuracy, as in: epoch 3 test accuracy 0.97"
    return table


def _table(title: str, heads: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for position, head in enumerate(heads):
        table.add_column(head, justify="right" if position else "left")
    return table


def _ratio_heads(results: Sequence[VariantResult]) -> list[str]:
    return [f"{results[0].name} /\n{result.name}" for result in results[1:]]


def _scaled(value: float | None, scale: float) -> str:
    if value is None:
        return _NONE
    value *= scale
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2%}"


def _change(first: float | None, last: float | None) -> str:
    if first is None or first == last:
        return _percent(first)
    return f"{_percent(first)} > {_percent(last)}"
