"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from sparse_backend.options import GRADIENT_MODES

from . import native
from .cpu import Settings, measure
from .floors import Ceilings, ceilings
from .peers import PEERS
from .results import write
from .rows import ROWS
from .tables import show

__all__ = ["main"]


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
    known = ", ".join(PEERS)
    parser.add_argument(
        "--peers", nargs="?", const=",".join(PEERS), default="", help=f"also time {known}, or those named"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--output", type=Path, help="JSON file (benchmarks/results/<device>-<time>.json)")
    chosen = parser.parse_args(argv)
    rows, rules = chosen.config.split(","), chosen.gradient.split(",")
    peers = tuple(filter(None, chosen.peers.split(",")))
    if not set(rows) <= set(ROWS) or not set(rules) <= set(GRADIENT_MODES):
        parser.error(f"rows are {', '.join(ROWS)}; rules are {', '.join(GRADIENT_MODES)}")
    if not set(peers) <= set(PEERS):
        parser.error(f"--peers={chosen.peers}: known are {', '.join(PEERS)}")
    if chosen.repeats < 5:
        parser.error(f"--repeats={chosen.repeats} is too few for a median; at least 5")
    console = Console() if sys.stdout.isatty() else Console(width=118)
    limits = _limits(console)
    settings = Settings(chosen.repeats, chosen.warm_up, not chosen.no_memory, limits, peers)
    results = []
    for name, gradient in itertools.product(rows, rules):
        row = ROWS[name]
        title = f"{name}: {row.title}, T = {row.steps}, B = {row.batch}, gradient {gradient}"
        results.append(_measured(console, name, gradient, settings, title))
        show(console, results[-1], title)
    output = write(results, chosen.device, chosen.output, None if limits is None else asdict(limits))
    console.print(f"results  {output}", markup=False, highlight=False, soft_wrap=True)
    return 0 if all(result["agrees"] for result in results) else 1


def _measured(console: Console, name: str, gradient: str, settings: Settings, title: str) -> dict[str, Any]:
    with console.status(title) as status:
        return measure(name, ROWS[name], gradient, settings, lambda what: status.update(f"{title}: {what}"))


def _limits(console: Console) -> Ceilings | None:
    try:
        return ceilings()
    except native.NoCompilerError as error:
        console.print(f"floors are left out: {error}", markup=False, highlight=False)
        return None


if __name__ == "__main__":
    sys.exit(main())
