"""Training steps of several networks, timed in turn so that what disturbs the machine disturbs all."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from .network import Net

__all__ = ["PHASES", "interleaved"]

PHASES = ("forward", "backward", "optimizer", "step")


def interleaved(
    nets: Mapping[str, Net], x: Tensor, labels: Tensor, repeats: int, warm_up: int
) -> dict[str, dict[str, float]]:
    """Median seconds of each phase of a training step, per network."""
    # A rate that moves nothing: the activity stays what it was scaled to.
    optimizers = {name: torch.optim.Adam(net.parameters(), lr=1e-9) for name, net in nets.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in nets}
    for repeat in range(-warm_up, repeats):
        for name, net in nets.items():
            optimizer = optimizers[name]
            optimizer.zero_grad()
            times = [time.perf_counter()]
            loss = net.loss_of(x, labels)
            times.append(time.perf_counter())
            loss.backward()
            times.append(time.perf_counter())
            optimizer.step()
            times.append(time.perf_counter())
            del loss
            if repeat < 0:
                continue
            spans = [later - sooner for sooner, later in itertools.pairwise(times)]
            for phase, span in zip(PHASES, [*spans, times[-1] - times[0]], strict=True):
                seconds[name][phase].append(span)
    return {name: {p: statistics.median(s) for p, s in phases.items()} for name, phases in seconds.items()}
