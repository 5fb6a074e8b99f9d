"""An ordinary training script, which knows nothing of acceleration: `python -m benchmarks.training JOB.json`.

Prints one line of JSON: seconds of each phase of each training step, and the losses.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from .job import Job, read_job
from .network import stock_net
from .rows import make_input

__all__ = ["train"]


def train(job: Job) -> dict[str, Any]:
    """settings of the job: gradient, seed, steps."""
    net = stock_net(job.row, job.settings["gradient"])
    net.load_state_dict(job.weights)
    x, labels = make_input(job.row, torch.Generator().manual_seed(job.settings["seed"]))
    # A rate that moves nothing: the activity stays what it was scaled to.
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-9)
    seconds: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": [], "step": []}
    losses = []
    for _ in range(job.settings["steps"]):
        optimizer.zero_grad()
        begun = time.perf_counter()
        loss = net.loss_of(x, labels)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        optimizer.step()
        ended = time.perf_counter()
        spans = (forward - begun, backward - forward, ended - backward, ended - begun)
        for series, span in zip(seconds.values(), spans, strict=True):
            series.append(span)
        losses.append(loss.item())
    return {"seconds": seconds, "losses": losses}


if __name__ == "__main__":
    print(json.dumps(train(read_job(Path(sys.argv[1])))))
