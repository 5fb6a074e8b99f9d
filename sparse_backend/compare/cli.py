"""`python -m sparse_backend compare`: command line, one run after the other, tables, picture, JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli_options import add_options, chosen_options
from ..errors import SparseBackendError
from ..options import Options

if TYPE_CHECKING:
    from rich.console import Console

    from .results import VariantResult
    from .run import Follow

__all__ = ["VARIANTS", "main"]

VARIANTS = ("stock", "default", "exact", "sampled", "window")
_WIDTH = 118  # of output that does not go to a terminal
_DESCRIPTION = """Run a script several times, each in a fresh process and with the same seed: stock,
accelerated with the default options (or those given here), and accelerated with gradient=exact.
Shows side by side what a training step takes, how active the layers are, how far the gradients of
the first batch differ and how accuracy develops."""
_EPILOG = """The script needs no line about this package. Training steps are found by torch.optim's step() and
by backward(). Accuracies are read from printed lines that hold an epoch and an accuracy, such as
"epoch 3/8  loss 0.41  test accuracy 0.9378" or "Epoch 3: val_acc=93.8%"."""


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code: 0, 1 when a run failed, 2 for wrong usage."""
    parser = _parser()
    chosen = parser.parse_args(argv)
    names = [name.strip() for name in chosen.variants.split(",")]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or len(set(names)) < len(names):
        parser.error(f"--variants={chosen.variants!r}: each of {', '.join(VARIANTS)} at most once")
    if not Path(chosen.script).is_file():
        parser.error(f"there is no script {chosen.script!r}")
    try:
        variants = [(name, _options(name, chosen)) for name in names]
    except SparseBackendError as error:
        parser.error(str(error))
    try:
        import matplotlib  # noqa: F401
        from rich.console import Console
    except ImportError as error:
        print(f"{parser.prog} needs {error.name}: pip install 'sparse-backend[examples]'", file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    return _compare(console, chosen, variants)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparse_backend compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument(
        "--variants",
        default="stock,default,exact",
        help=f"runs, in order, of {', '.join(VARIANTS)}; the first is what the others are compared with",
    )
    parser.add_argument("--output", type=Path, help="folder (sparse_backend_compare/<script>-<time>)")
    parser.add_argument("script", metavar="script.py")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="the script's own arguments")
    return parser


def _options(name: str, chosen: argparse.Namespace) -> dict[str, Any] | None:
    if name == "stock":
        return None
    given = chosen_options(chosen)
    return vars(Options.from_environment(**given if name == "default" else {**given, "gradient": name}))


def _compare(
    console: Console, chosen: argparse.Namespace, variants: list[tuple[str, dict[str, Any] | None]]
) -> int:
    from .child import Job
    from .plot import draw
    from .results import gradient_differences
    from .run import ChildFailed, run_variant
    from .table import show

    script = Path(chosen.script)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = chosen.output or Path("sparse_backend_compare") / f"{script.stem}-{stamp}"
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"{chosen.script} {' '.join(chosen.args)}".rstrip(), style="bold", markup=False)
    results: list[VariantResult] = []
    reference: dict[str, Any] = {}
    with _display(console) as display:
        for name, options in variants:
            job = Job(name, chosen.script, chosen.args, options, chosen.seed or 0, str(folder))
            display.begin(name, results[0].steps if results else None)
            try:
                result, gradients = run_variant(job, display.told)
            except ChildFailed as error:
                display.stop()
                console.print(error.log.rstrip(), markup=False, highlight=False)
                console.print(f"{error}; its output is in {job.path('log')}", style="bold red", markup=False)
                return 1
            display.end(result)
            if results:
                try:
                    result.gradients = gradient_differences(reference, gradients)
                except ValueError as error:
                    result.gradient_problem = str(error)
            else:
                reference = gradients
            results.append(result)
    if not results[0].steps:
        console.print("no training step was seen: no torch.optim optimizer stepped after a backward()")
        return 1
    show(console, results)
    picture, data = folder / "comparison.png", folder / "results.json"
    draw(results, f"{script.name} {' '.join(chosen.args)}".rstrip(), picture)
    data.write_text(json.dumps(_as_data(chosen, results), indent=1))
    console.print(f"picture  {picture}\nresults  {data}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _as_data(chosen: argparse.Namespace, results: list[VariantResult]) -> dict[str, Any]:
    from .machine import describe

    medians = {r.name: {phase: r.median(phase) for phase in (*r.phases, "step")} for r in results}
    return {
        "script": chosen.script,
        "args": chosen.args,
        "seed": chosen.seed or 0,
        "machine": describe(),
        "median_seconds": medians,
        "variants": [asdict(result) for result in results],
    }


@contextmanager
def _display(console: Console) -> Iterator[Any]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>8}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, refresh_per_second=4) as progress:
        yield _Bars(progress)


def _state(follow: Follow) -> str:
    text = f"{follow.steps} steps"
    if follow.accuracy:
        epoch, value, _ = follow.accuracy[-1]
        text += f", epoch {epoch}, accuracy {value:.2%}"
    return text


class _Bars:
    """One bar per run; the first has no end in sight, the others as many steps as the first."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task: Any = None

    def begin(self, name: str, steps: int | None) -> None:
        self._task = self._progress.add_task(name, total=steps or None, state="starting")

    def told(self, follow: Follow) -> None:
        self._progress.update(self._task, completed=follow.steps, state=_state(follow))

    def end(self, result: VariantResult) -> None:
        self._progress.update(self._task, total=result.steps or 1, completed=result.steps or 1)
        self._progress.stop_task(self._task)

    def stop(self) -> None:
        self._progress.stop()


class _Lines:
    """One line per run, for output that is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, name: str, steps: int | None) -> None:
        self._console.print(f"running {name}")

    def told(self, follow: Follow) -> None:
        pass

    def end(self, result: VariantResult) -> None:
        self._console.print(f"{result.name}: {result.steps} training steps in {result.wall:.1f} s")

    def stop(self) -> None:
        pass
