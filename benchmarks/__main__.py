"""Speed of training steps, stock against accelerated; a red check prints no speed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from rich.console import Console

from sparse_backend.options import GRADIENT_MODES, disabled

from .commands import run_gpu, run_rows, run_script, run_sweep, run_worst
from .device import OPEN_NEUROMORPHIC
from .peers import PEERS
from .rows import ROWS
from .sweep import SWEEPS

__all__ = ["main"]

_MIN_REPEATS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON and a plot; returns 1 if a check failed."""
    chosen = _parser().parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=118)
    if disabled():
        console.print("SPARSE_BACKEND_DISABLE is set: stock would be compared with stock")
        return 2
    code: int = chosen.run(chosen, console)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(
        title="what to measure", required=True, metavar="{cpu,script,gpu,sweep,worst}"
    )
    rows = _command(commands, "cpu", run_rows, "the networks of README.md, taken apart into kernels")
    _add_rows(rows)
    _add_gradients(rows, GRADIENT_MODES)
    _add_peers(rows)
    rows.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    rows.add_argument(
        "--shared", action="store_true", help="input in shared memory, as a DataLoader's workers hand it over"
    )
    script = _command(
        commands,
        "script",
        run_script,
        "the same as scripts: python script.py, python -m sparse_backend script.py",
    )
    _add_rows(script)
    _add_gradients(script, GRADIENT_MODES)
    script.add_argument(
        "--rounds", type=_repeats, default=7, help="processes of each side, in turn (7); at least 5"
    )
    gpu = _command(
        commands, "gpu", run_gpu, "the same networks on a GPU, and one large layer with dense input"
    )
    known = {**ROWS, **OPEN_NEUROMORPHIC}
    gpu.add_argument(
        "--config",
        type=_names("row", known),
        default=tuple(name for name in known if name != "S-small"),
        help=f"rows, separated by commas, of {', '.join(known)} (all but S-small)",
    )
    gpu.add_argument(
        "--device", type=torch.device, default=torch.device("cuda"), help="cpu rehearses it (cuda)"
    )
    _add_gradients(gpu, GRADIENT_MODES)
    _add_peers(gpu)
    sweep = _command(commands, "sweep", run_sweep, "step time against one quantity, on a small network")
    sweep.add_argument("--over", choices=list(SWEEPS), required=True, help="what to vary")
    sweep.add_argument(
        "--gradient",
        choices=GRADIENT_MODES,
        default="window",
        help="rule (window); active knows no other",
    )
    _add_peers(sweep)
    worst = _command(commands, "worst", run_worst, "the cases that acceleration is worst at")
    _add_gradients(worst, GRADIENT_MODES)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace, Console], int],
    text: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--repeats", type=_repeats, default=7, help="timed training steps of each side (7); at least 5"
    )
    parser.add_argument("--warm-up", type=_count, default=3, help="training steps before them (3)")
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file, or a folder for it; a plot goes beside it (benchmarks/results/<what>-<time>.json)",
    )
    return parser


def _add_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=_names("row", ROWS),
        default=("S-small", "U"),
        help=f"rows, separated by commas, of {', '.join(ROWS)} (S-small,U)",
    )


def _add_gradients(parser: argparse.ArgumentParser, known: Collection[str]) -> None:
    rules = ("window", "exact", "sampled")
    parser.add_argument(
        "--gradient",
        type=_names("rule", known),
        default=rules,
        help=f"rules, separated by commas ({','.join(rules)})",
    )


def _add_peers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peers",
        nargs="?",
        type=_names("peer", PEERS),
        const=tuple(PEERS),
        default=(),
        help=f"also time other programs: all, or those named, of {', '.join(PEERS)}",
    )


def _names(what: str, known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {what} {name!r}; known are {', '.join(known)}")
        return names

    return parse


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of repeats")
    return value


def _repeats(text: str) -> int:
    value = _count(text)
    if value < _MIN_REPEATS:
        raise argparse.ArgumentTypeError(f"{text} is too few for a median; at least {_MIN_REPEATS}")
    return value


if __name__ == "__main__":
    sys.exit(main())
