"""Peak memory of one training step above what was held before it, each in a process of its own.

`python -m benchmarks.memory JOB.json` is such a process; it prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_backend.compare.memory import begin_step, resident

from .models import accelerated, stock_net
from .network import Net
from .rows import Row, make_input

__all__ = ["peak_memory"]

_ROOT = Path(__file__).parents[1]


def peak_memory(
    row: Row, gradient: str, weights: dict[str, Tensor], seed: int, shared: bool = False
) -> dict[str, int | None]:
    """Bytes of a step of the stock and of the accelerated network with these weights; None where unknown.

    shared: whether the input lies in shared memory.
    Raises: RuntimeError if a process failed.
    """
    found: dict[str, int | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(weights, Path(folder) / "weights.pt")
        for side in ("stock", "accelerated"):
            job = Path(folder) / f"{side}.json"
            settings = {"gradient": gradient, "side": side, "seed": seed, "shared": shared}
            job.write_text(json.dumps({"row": asdict(row), **settings}))
            command = [sys.executable, "-m", "benchmarks.memory", str(job)]
            run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
            if run.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{run.stderr}")
            found[side] = json.loads(run.stdout.splitlines()[-1])["peak"]
    return found


def _measure(job_path: Path) -> dict[str, int | None]:
    job: dict[str, Any] = json.loads(job_path.read_text())
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job["row"].items()}
    row = Row(**fields)
    weights = torch.load(job_path.parent / "weights.pt", weights_only=True)
    x, labels = make_input(row, torch.Generator().manual_seed(job["seed"]))
    if job["shared"]:
        x.share_memory_()

    def make(of: Row) -> Net:
        net = stock_net(of, job["gradient"])
        net.load_state_dict(weights)
        return accelerated(net, job["gradient"])[0] if job["side"] == "accelerated" else net

    # Threads, libraries and code pages are not the step's.
    few, some = replace(row, steps=2, batch=2), slice(0, 2)
    _train(make(few), x[some] if row.coding == "direct" else x[:2, some].contiguous(), labels[some])
    net = make(row)
    begin_step()
    before = resident()
    _train(net, x, labels)
    peak = resident(peak=True)
    return {"peak": None if peak is None or before is None else peak - before}


def _train(net: Net, x: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-9)
    net.loss_of(x, labels).backward()
    optimizer.step()


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]))))
