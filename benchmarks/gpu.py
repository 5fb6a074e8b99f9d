"""One row on a GPU: build, scale, check, time, and each kernel against what it was predicted to take.

With device "cpu" the same code runs without a GPU, as a rehearsal: then no kernel of ours is on a device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import sparse_backend

from . import predict
from .check import compare
from .models import build
from .peers import GPU_PEERS, PEERS, checked_peer
from .rows import Row
from .timing import PHASES, Trainable, interleaved, medians, ratio

__all__ = ["OPEN_NEUROMORPHIC", "Settings", "measure"]

OPEN_NEUROMORPHIC = {
    f"ON-{width}": Row((width, width), 500, 16, coding="dense") for width in (4096, 8192, 16384)
}
"""Open Neuromorphic's benchmark of spiking libraries: one Linear and LIF layer, dense random input."""


@dataclass(frozen=True)
class Settings:
    """repeats: timed training steps of each side, after `warm_up` others.  peers: time others as well."""

    device: torch.device
    repeats: int = 5
    warm_up: int = 2
    peers: bool = True
    seed: int = 0


def measure(
    name: str, row: Row, gradient: str, settings: Settings, told: Callable[[str], None] = lambda phase: None
) -> dict[str, Any]:
    """Stock against accelerated on one device, as plain data. told: called with what is being done."""
    told("scaling and checking")
    models = build(row, gradient, settings.seed, settings.device)
    x, labels = models.x, models.labels
    agreement = compare(models.reference, models.fast, x, labels)
    result: dict[str, Any] = {
        "row": name,
        "gradient": gradient,
        "device": str(settings.device),
        "agreement": vars(agreement),
        "agrees": agreement.holds(exact=gradient != "sampled"),
        "layers": [dict(vars(layer)) for layer in sparse_backend.stats(models.fast)],
    }
    if not result["agrees"]:
        return result
    nets: dict[str, Trainable] = {"stock": models.stock, "accelerated": models.fast}
    result["peers"] = {}
    for peer in (*GPU_PEERS, "fused dense") if settings.peers else ():
        told(peer)
        found, net = checked_peer({**PEERS, **GPU_PEERS}[peer], models)
        result["peers"][peer] = found
        if net is not None:
            nets[peer] = net
    told("timing")
    samples = interleaved(
        nets, x, labels, settings.repeats, settings.warm_up, synchronise=_waiter(settings.device)
    )
    result |= {
        "repeats": settings.repeats,
        "seconds": {side: medians(phases) for side, phases in samples.items()},
        "ratios": {
            side: {
                phase: asdict(ratio(samples[side][phase], samples["accelerated"][phase])) for phase in PHASES
            }
            for side in samples
            if side != "accelerated"
        },
    }
    told("memory and kernels")
    if settings.device.type == "cuda":
        result["peak_memory"] = {side: _peak_memory(net, x, labels) for side, net in nets.items()}
        result["kernels"] = _kernels(models.fast, x, labels)
        if not row.channels and row.coding == "spikes":
            spikes = [layer["spike_density"] or 0.0 for layer in result["layers"]]
            result["predicted"] = _predicted(row, spikes)
    return result


def _waiter(device: torch.device) -> Callable[[], None]:
    if device.type != "cuda":
        return lambda: None
    return lambda: torch.cuda.synchronize(device)


def _peak_memory(net: Trainable, x: Tensor, labels: Tensor) -> int:
    """Bytes of one training step above what was allocated before it."""
    torch.cuda.synchronize(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    before = torch.cuda.memory_allocated(x.device)
    net.loss_of(x, labels).backward()
    torch.cuda.synchronize(x.device)
    return torch.cuda.max_memory_allocated(x.device) - before


def _kernels(net: Trainable, x: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Device seconds and calls of each function of the native module in one training step, by CUDA events."""
    with _traced() as calls:
        net.loss_of(x, labels).backward()
    torch.cuda.synchronize(x.device)
    found: dict[str, dict[str, float]] = {}
    for name, begin, end in calls:
        entry = found.setdefault(name, {"seconds": 0.0, "calls": 0})
        entry["seconds"] += 1e-3 * begin.elapsed_time(end)
        entry["calls"] += 1
    return found


@contextlib.contextmanager
def _traced() -> Iterator[list[tuple[str, torch.cuda.Event, torch.cuda.Event]]]:
    """Collects an event before and one after each call of a function of the native CUDA module."""
    from sparse_backend.ops.cuda_place import module

    native, calls = module(), []

    def watched(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            try:
                return run(*args, **kwargs)
            finally:
                end.record()
                calls.append((name, begin, end))

        return call

    before = {name: getattr(native, name) for name in predict.FUNCTIONS if hasattr(native, name)}
    try:
        for name, run in before.items():
            setattr(native, name, watched(name, run))
        yield calls
    finally:
        for name, run in before.items():
            setattr(native, name, run)


def _predicted(row: Row, spikes: list[float]) -> dict[str, float]:
    """Seconds of each group of native functions, launches left out: the floor of what `_kernels` finds."""
    found: dict[str, float] = {}
    prediction = predict.predict(row, spikes)
    for kernel in (*prediction.forward, *prediction.backward):
        found[kernel.group] = found.get(kernel.group, 0.0) + kernel.work(predict.H100)
    return found
