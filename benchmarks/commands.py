"""What the command line runs: measure with progress shown, print, write JSON and a plot."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import native
from .device import OPEN_NEUROMORPHIC
from .floors import Ceilings, ceilings
from .measure import Settings, measure
from .plots import draw_rows, draw_sweep
from .results import write
from .rows import ROWS
from .script import measure_script
from .sweep import SWEEPS, sweep
from .tables import show, show_sweep, show_worst
from .worst import worst, worst_count

__all__ = ["run_gpu", "run_rows", "run_script", "run_sweep", "run_worst"]


def run_rows(chosen: argparse.Namespace, console: Console) -> int:
    """`cpu`: each row under each rule. Returns: the exit code."""
    limits = _limits(console)
    memory = not chosen.no_memory
    settings = Settings(
        *(chosen.repeats, chosen.warm_up, memory), limits=limits, peers=chosen.peers, shared=chosen.shared
    )
    return _run_pairs(chosen, console, "cpu", settings)


def run_script(chosen: argparse.Namespace, console: Console) -> int:
    """`script`: each row under each rule, as scripts of their own. Returns: the exit code."""
    settings = Settings(chosen.repeats, chosen.warm_up, memory=False, details=False)
    return _run_pairs(chosen, console, "script", settings, partial(measure_script, rounds=chosen.rounds))


def run_gpu(chosen: argparse.Namespace, console: Console) -> int:
    """`gpu`: the same on a device. Returns: the exit code."""
    if chosen.device.type == "cuda" and not torch.cuda.is_available():
        console.print("torch sees no GPU; `python -m sparse_backend doctor` says why")
        return 2
    settings = Settings(
        *(chosen.repeats, chosen.warm_up),
        memory=False,
        details=False,
        peers=chosen.peers,
        device=chosen.device,
    )
    return _run_pairs(chosen, console, "gpu", settings)


def _run_pairs(
    chosen: argparse.Namespace,
    console: Console,
    kind: str,
    settings: Settings,
    how: Callable[..., dict[str, Any]] | None = None,
) -> int:
    pairs = list(itertools.product(chosen.config, chosen.gradient))
    results = []
    with _progress(console, len(pairs)) as (told, done):
        for name, gradient in pairs:
            row = (ROWS | OPEN_NEUROMORPHIC)[name]
            title = f"{name}: {row.title}, T = {row.steps}, B = {row.batch}, gradient {gradient}"
            title += ", input in shared memory" * settings.shared
            told(title)
            results.append((how or measure)(name, row, gradient, settings, lambda what: told(what)))
            # At once: what was measured so far outlasts a run that is cut off.
            chosen.output = write(results, kind, chosen.output, _as_dict(settings.limits))
            show(console, results[-1], title)
            done()
    return _finish(results, kind, chosen, console, draw_rows, settings.limits)


def run_sweep(chosen: argparse.Namespace, console: Console) -> int:
    """`sweep`: one quantity over its values. Returns: the exit code."""
    over, gradient = chosen.over, chosen.gradient
    if over == "active" and gradient != "window":
        console.print(f'--over active varies the window, so --gradient must be "window", not "{gradient}"')
        return 2
    settings = Settings(chosen.repeats, chosen.warm_up, memory=False, details=False, peers=chosen.peers)
    with _progress(console, len(SWEEPS[over])) as (told, done):
        results = sweep(over, gradient, settings, lambda value: told(f"{over} {value:g}"), done)
    show_sweep(console, results, over)
    return _finish(
        *(results, f"sweep-{over}", chosen, console, lambda found, path: draw_sweep(found, over, path)),
        None,
    )


def run_worst(chosen: argparse.Namespace, console: Console) -> int:
    """`worst`: each case under each rule. Returns: the exit code."""
    settings = Settings(chosen.repeats, chosen.warm_up, memory=False, details=False)
    with _progress(console, worst_count(chosen.gradient)) as (told, done):
        results = worst(chosen.gradient, settings, told, done)
    show_worst(console, results)
    return _finish(results, "worst", chosen, console, draw_rows, None)


def _finish(
    results: list[dict[str, Any]],
    kind: str,
    chosen: argparse.Namespace,
    console: Console,
    draw: Callable[..., None],
    limits: Ceilings | None,
) -> int:
    output = write(results, kind, chosen.output, _as_dict(limits))
    console.print(f"results  {output}", markup=False, highlight=False, soft_wrap=True)
    if any("seconds" in result for result in results):
        picture = output.with_suffix(".png")
        draw(results, picture)
        console.print(f"plot     {picture}", markup=False, highlight=False, soft_wrap=True)
    return 0 if all(result["agrees"] for result in results) else 1


def _as_dict(limits: Ceilings | None) -> dict[str, Any] | None:
    return None if limits is None else asdict(limits)


@contextlib.contextmanager
def _progress(console: Console, total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Two functions: what is being done, and that one of `total` is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # A bar that redraws itself does so in a thread, in the middle of what is timed.
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total)

        def told(what: str) -> None:
            bar.update(task, description=what, refresh=True)

        def done() -> None:
            bar.update(task, advance=1, refresh=True)

        yield told, done


def _limits(console: Console) -> Ceilings | None:
    try:
        return ceilings()
    except native.NoCompilerError as error:
        console.print(f"floors are left out: {error}", markup=False, highlight=False)
        return None
