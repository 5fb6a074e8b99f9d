"""A measurement in a process of its own: what it is told, and its answer, one line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .rows import Row

__all__ = ["Job", "read_job", "run_job"]

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Job:
    """weights: of the network of this row.  settings: what else the module that does it wants to know."""

    row: Row
    weights: dict[str, Tensor]
    settings: dict[str, Any]


def run_job(module: str, job: Job, through: Sequence[str] = ()) -> Any:
    """The answer of `python [through] -m module`, whose argument is the job's file.

    Raises: RuntimeError if the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        torch.save(job.weights, path.with_suffix(".pt"))
        path.write_text(json.dumps({"row": asdict(job.row), "settings": job.settings}))
        command = [sys.executable, *through, "-m", module, str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
    try:
        run.check_returncode()
        return json.loads(run.stdout.splitlines()[-1])
    except (subprocess.CalledProcessError, IndexError, json.JSONDecodeError) as error:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stderr}") from error


def read_job(path: Path) -> Job:
    """What `run_job` wrote."""
    told: Mapping[str, Any] = json.loads(path.read_text())
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told["row"].items()
    }
    weights = torch.load(path.with_suffix(".pt"), weights_only=True)
    return Job(Row(**fields), weights, told["settings"])
