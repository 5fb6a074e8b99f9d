"""Runs a variant in a fresh process and follows it: output, progress, result."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .child import Job
from .results import VariantResult, parse_accuracies

__all__ = ["ChildFailed", "Follow", "run_variant"]

_POLL_SECONDS = 0.25


class ChildFailed(Exception):
    """A run of the script ended with an error; `log` holds its last output."""

    def __init__(self, name: str, code: int, log: str) -> None:
        super().__init__(f"the {name} run ended with exit code {code}")
        self.code, self.log = code, log


@dataclass
class Follow:
    """A run as seen from outside: training steps so far, and (epoch, accuracy, time) as printed."""

    steps: int = 0
    accuracy: list[tuple[int, float, float]] = field(default_factory=list)


def run_variant(job: Job, told: Callable[[Follow], None]) -> tuple[VariantResult, dict[str, torch.Tensor]]:
    """Run a job to its end; `told` hears how far it is.

    Returns: the result, and the gradients of the first batch by parameter name.
    Raises: ChildFailed.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": str(job.seed)}
    if job.options is None:
        environment["SPARSE_BACKEND_DISABLE"] = "1"  # also where the script itself uses this package
    command = [sys.executable, "-m", "sparse_backend.compare.child", str(job.save())]
    follow, lines, log = Follow(), [], job.path("log")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, stdin=subprocess.DEVNULL
    )

    def read() -> None:
        assert process.stdout is not None
        with log.open("w") as sink:
            for raw in process.stdout:
                text = raw.decode(errors="replace")
                sink.write(text)
                lines.append(text)
                for part in text.split("\r"):  # progress bars write many lines as one
                    found = parse_accuracies(part)
                    if found is not None:
                        follow.accuracy.append((*found, time.time()))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            follow.steps = _read_progress(job.path("progress"), follow.steps)
            told(follow)
            time.sleep(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    reader.join()
    if process.returncode != 0 or not job.path("result").exists():
        raise ChildFailed(job.name, process.returncode or 1, "".join(lines[-60:]))
    result = VariantResult.load(job.path("result"))
    kept = torch.load(job.path("pt"), weights_only=True)
    begin = kept["first_step"] or 0.0
    result.accuracy = [(epoch, value, when - begin) for epoch, value, when in follow.accuracy]
    follow.steps = result.steps
    told(follow)
    for ending in ("job", "pt", "progress", "result"):
        job.path(ending).unlink(missing_ok=True)
    return result, kept["gradients"]


def _read_progress(path: Path, before: int) -> int:
    try:
        return int(path.read_text() or before)
    except (OSError, ValueError):
        return before
