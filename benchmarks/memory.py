"""Peak memory of one training step above what was held before it, each in a process of its own.

`python -m benchmarks.memory JOB.json` is such a process; it prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparse_backend.compare.memory import begin_step, resident

from .job import Job, read_job, run_job
from .models import accelerated
from .network import Net, stock_net, training_loss
from .rows import Row, make_input

__all__ = ["peak_memory"]


def peak_memory(
    row: Row,
    gradient: str,
    weights: dict[str, Tensor],
    seed: int,
    shared: bool = False,
    spikes_kept: bool = False,
) -> dict[str, int | None]:
    """Bytes of a step of the stock and of the accelerated network with these weights; None where unknown.

    shared: whether the input lies in shared memory.  spikes_kept: whether the script stacks every layer's
    spikes and keeps them through the step.
    Raises: RuntimeError if a process failed.
    """
    found: dict[str, int | None] = {}
    for side in ("stock", "accelerated"):
        settings = {
            **{"gradient": gradient, "side": side, "seed": seed},
            **{"shared": shared, "spikes_kept": spikes_kept},
        }
        found[side] = run_job("benchmarks.memory", Job(row, weights, settings))["peak"]
    return found


def _measure(job: Job) -> dict[str, int | None]:
    row, told = job.row, job.settings
    x, labels = make_input(row, torch.Generator().manual_seed(told["seed"]))
    if told["shared"]:
        x.share_memory_()

    def make(of: Row) -> Net:
        net = stock_net(of, told["gradient"])
        net.load_state_dict(job.weights)
        return accelerated(net, told["gradient"])[0] if told["side"] == "accelerated" else net

    # Threads, libraries and code pages are not the step's.
    few, some = replace(row, steps=2, batch=2), slice(0, 2)
    few_x = x[some] if row.coding == "direct" else x[:2, some].contiguous()
    _train(make(few), few_x, labels[some], told["spikes_kept"])
    net = make(row)
    begin_step()
    before = resident()
    _train(net, x, labels, told["spikes_kept"])
    peak = resident(peak=True)
    return {"peak": None if peak is None or before is None else peak - before}


def _train(net: Net, x: Tensor, labels: Tensor, spikes_kept: bool) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-9)
    if spikes_kept:
        spikes, membrane = net(x, record_all=True)
        loss = training_loss(net.row, spikes[-1], membrane, labels)
    else:
        loss = net.loss_of(x, labels)
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    print(json.dumps(_measure(read_job(Path(sys.argv[1])))))
