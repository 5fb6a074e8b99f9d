"""What differs where the networks lie on a GPU: waiting for it, its memory, its kernels over predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from . import predict
from .models import Models
from .rows import Row

__all__ = ["OPEN_NEUROMORPHIC", "synchroniser", "take_apart"]

OPEN_NEUROMORPHIC = {
    f"ON-{width}": Row((width, width), 500, 16, coding="dense") for width in (4096, 8192, 16384)
}
"""Open Neuromorphic's benchmark of spiking libraries: one Linear and LIF layer, dense random input."""

_Call = tuple[str, torch.cuda.Event, torch.cuda.Event]


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Waits until the device is idle; on a CPU nothing is asynchronous."""
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)


def take_apart(models: Models, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Peak memory of a training step of both sides, and the accelerated one's kernels.

    layers: what was measured of each, for its spike density.
    """
    found: dict[str, Any] = {
        "peak_memory": {side: _peak(models, side) for side in ("stock", "accelerated")},
        "functions": _functions(models),
    }
    if not models.row.channels and models.row.coding == "spikes":
        spikes = [layer["spike_density"] or 0.0 for layer in layers]
        found["predicted"] = predict.group_seconds(models.row, spikes)
    return found


def _peak(models: Models, side: str) -> int:
    """Bytes of one training step above what was allocated before it."""
    net = models.stock if side == "stock" else models.fast
    device = models.x.device
    net.zero_grad()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    net.loss_of(models.x, models.labels).backward()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _functions(models: Models) -> dict[str, dict[str, float]]:
    """Seconds on the device and calls in one accelerated training step, per group of `predict.FUNCTIONS`."""
    with _watched() as calls:
        models.fast.loss_of(models.x, models.labels).backward()
    torch.cuda.synchronize(models.x.device)
    found: dict[str, dict[str, float]] = {}
    for group, begin, end in calls:
        entry = found.setdefault(group, {"seconds": 0.0, "calls": 0})
        entry["seconds"] += 1e-3 * begin.elapsed_time(end)
        entry["calls"] += 1
    return found


@contextlib.contextmanager
def _watched() -> Iterator[list[_Call]]:
    """Collects the group and the events around each call of the native module."""
    from sparse_backend.ops.cuda_place import module

    native, calls = module(), list[_Call]()

    def watched(group: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            try:
                return run(*args, **kwargs)
            finally:
                end.record()
                calls.append((group, begin, end))

        return call

    before = {name: getattr(native, name) for name in predict.FUNCTIONS}
    try:
        for name, run in before.items():
            setattr(native, name, watched(predict.FUNCTIONS[name], run))
        yield calls
    finally:
        for name, run in before.items():
            setattr(native, name, run)
