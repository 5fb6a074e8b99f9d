"""One run of the script in a process of its own: `python -m sparse_backend.compare.child job.json`."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Job", "main"]


@dataclass
class Job:
    """What to run. options: of `install`, None for stock. folder: takes the files <name>.*."""

    name: str
    script: str
    args: list[str]
    options: dict[str, Any] | None
    seed: int
    folder: str

    def path(self, ending: str) -> Path:
        """A file of this run, by its ending."""
        return Path(self.folder) / f"{self.name}.{ending}"

    def save(self) -> Path:
        """Write the job where `main` reads it."""
        path = self.path("job")
        path.write_text(json.dumps(asdict(self)))
        return path


def main(job_path: str) -> int:
    """Run the job; the results are written whether the script ends well or not. Returns the exit code."""
    job = Job(**json.loads(Path(job_path).read_text()))
    import torch

    from sparse_backend.script import run

    from .activity import AcceleratedActivity, Activity, StockActivity
    from .probe import Probe
    from .results import VariantResult

    _seed_everything(job.seed)
    result = VariantResult(job.name, job.options)
    installation = None
    activity: Activity = StockActivity()
    if job.options is not None:
        from sparse_backend.install import install

        installation = install(**job.options)
        activity = AcceleratedActivity(installation)
    probe = Probe(result, job.path("progress"), activity)
    probe.start()
    begun = time.time()
    code: object = 1
    try:
        code = run(job.script, job.args)
    except SystemExit as stop:
        code = stop.code
        raise
    finally:
        result.exit_code = code if isinstance(code, int) else 0 if code is None else 1
        result.wall = time.time() - (probe.first_step or begun)
        if installation is not None:
            from sparse_backend.recording import flush_reasons

            result.reports = [str(report) for report in installation.reports if len(report)]
            reasons = flush_reasons().most_common(5)
            result.flushes = [(count, f"{reason} at {line}") for (reason, line), count in reasons]
        torch.save({"first_step": probe.first_step, "gradients": probe.gradients}, job.path("pt"))
        result.save(job.path("result"))
    return result.exit_code


def _seed_everything(seed: int) -> None:
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
    if importlib.util.find_spec("numpy") is not None:
        import numpy

        numpy.random.seed(seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
