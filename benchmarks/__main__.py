"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sparse_backend.compare.machine import describe
from sparse_backend.options import GRADIENT_MODES

from .cpu import measure
from .rows import ROWS
from .timing import PHASES

__all__ = ["main"]

_RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; returns 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("device", choices=["cpu"])
    parser.add_argument("--config", default="S-small,U", help=f"rows, of {', '.join(ROWS)}")
    parser.add_argument("--gradient", default="window,exact,sampled", help="rules, of window, exact, sampled")
    parser.add_argument(
        "--repeats", type=int, default=7, help="timed training steps of each side, at least 5"
    )
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file (benchmarks/results/<device>-<time>.json)")
    chosen = parser.parse_args(argv)
    rows, rules = chosen.config.split(","), chosen.gradient.split(",")
    if not set(rows) <= set(ROWS) or not set(rules) <= set(GRADIENT_MODES):
        parser.error(f"rows are {', '.join(ROWS)}; rules are {', '.join(GRADIENT_MODES)}")
    if chosen.repeats < 5:
        parser.error(f"--repeats={chosen.repeats} is too few for a median; at least 5")
    console = Console() if sys.stdout.isatty() else Console(width=118)
    results = []
    for name in rows:
        for gradient in rules:
            results.append(measure(name, gradient, chosen.repeats, chosen.warm_up))
            show(console, results[-1])
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    output = chosen.output or _RESULTS / f"{chosen.device}-{stamp}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": describe(), "results": results}, indent=1) + "\n")
    console.print(f"results  {output}", markup=False, highlight=False, soft_wrap=True)
    return 0 if all(result["agrees"] for result in results) else 1


def show(console: Console, result: dict[str, Any]) -> None:
    """Print one row's check, timings and activity; no ratio where the check failed."""
    row, agreement = ROWS[result["row"]], result["agreement"]
    sizes = "-".join(map(str, row.widths))
    title = f"{result['row']}: {sizes}, T = {row.steps}, B = {row.batch}, gradient {result['gradient']}"
    table = Table(title=title, title_justify="left")
    for head in ("", *PHASES):
        table.add_column(head, justify="right" if head else "left")
    stock, fast = (result["seconds"][side] for side in ("stock", "accelerated"))
    for side, seconds in (("stock, ms", stock), ("accelerated, ms", fast)):
        table.add_row(side, *(f"{1e3 * seconds[phase]:.2f}" for phase in PHASES))
    if result["agrees"]:
        table.add_row("ratio", *(f"{stock[phase] / fast[phase]:.1f}x" for phase in PHASES), style="bold")
    else:
        table.add_row("ratio", *("differs" for _ in PHASES), style="red")
    console.print(table)
    lines = [
        f"spikes: {agreement['diverged']} of {agreement['batch']} batch elements diverge and are left out",
        f"gradients: relative difference {agreement['gradient']:.1e}, cosine {agreement['cosine']:.6f}",
        f"input density {_percent(result['input_density'])}; weight gains "
        + (", ".join(f"{entry['gain']:.2f}" for entry in result["gains"]) or "none"),
    ]
    for layer in result["layers"]:
        active, spikes = _percent(layer["active_fraction"]), _percent(layer["spike_density"])
        forms = ", ".join(f"{product} {'/'.join(kinds)}" for product, kinds in layer["algorithms"].items())
        lines.append(f"{layer['name']}: {active} active, {spikes} spikes; {forms}")
    lines.append(f"medians of {result['repeats']} training steps")
    console.print("\n".join(lines), markup=False, highlight=False)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


if __name__ == "__main__":
    sys.exit(main())
