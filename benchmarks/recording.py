"""How long it takes to record the loop over time, without executing it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

import sparse_backend
from sparse_backend.recording.deferred import Deferred

from .network import Net, training_loss

__all__ = ["recording_time"]

_REPEATS = 7


def recording_time(net: Net, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """Of an accelerated network whose loop has been run before.

    Returns: "seconds" per loop and "microseconds" per layer and step (medians), and "broken_by": None, or why
    the loop was executed before its end, in which case the times are those of execution.
    """
    samples: list[float] = []
    broken: str | None = None
    for _ in range(_REPEATS):
        before = _flushes(net)
        begin = time.perf_counter()
        spikes, membrane = net.loop(x)
        samples.append(time.perf_counter() - begin)
        broken = next(
            (where for where, count in _flushes(net).items() if count > before.get(where, 0)), broken
        )
        if broken is None and not isinstance(membrane[-1], Deferred):
            broken = "upstream's code, which ran instead"
        training_loss(net.row, torch.stack(spikes[-1]), torch.stack(membrane), labels).backward()
        net.zero_grad()
    seconds = statistics.median(samples)
    return {
        "seconds": seconds,
        "microseconds": 1e6 * seconds / (net.row.steps * len(net.lifs)),
        "broken_by": broken,
    }


def _flushes(net: Net) -> dict[str, int]:
    return {f"{flush.reason} at {flush.line}": flush.count for flush in sparse_backend.stats(net).flushes}
