"""One row: build, scale, check, time, take apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

import sparse_backend

from .check import compare
from .device import synchroniser, take_apart
from .floors import Ceilings
from .kernels import kernel_times
from .least import least_step
from .memory import peak_memory
from .models import Models, build, copy_of
from .network import Net
from .peers import PEERS, UnavailableError
from .recording import recording_time
from .rows import Row
from .timing import Trainable, interleaved, medians, ratios

__all__ = ["Settings", "begin", "measure"]


@dataclass(frozen=True)
class Settings:
    """repeats: timed training steps of each side, after `warm_up` others.  memory: measure peak memory too.

    details: also take the step apart: recording, kernels over floors, the least that a step can take.
    limits: of the machine, None to leave floors out.  peers: names from `PEERS` to time as well.
    device: where all of it happens; on a GPU its allocator tells the memory, and floors are predictions.
    shared: whether the input lies in memory that another process could write to.
    """

    repeats: int = 7
    warm_up: int = 3
    memory: bool = True
    details: bool = True
    limits: Ceilings | None = None
    peers: tuple[str, ...] = ()
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    shared: bool = False


def measure(
    name: str,
    row: Row,
    gradient: str,
    settings: Settings,
    told: Callable[[str], None] = lambda what: None,
    **variation: Any,
) -> dict[str, Any]:
    """Stock against accelerated, as plain data; nothing is timed where they disagree.

    With "window" both sides use the fast sigmoid of slope 25, accelerated with half-width 0.1, and gradients
    are checked against the stock network with the same cut. The others use snnTorch's default surrogate.
    told: hears what is being done.  variation: `kind` and `half_width` of `build`.
    """
    models, result = begin(name, row, gradient, settings, told, **variation)
    x, labels, fast = models.x, models.labels, models.fast
    if not result["agrees"]:
        return result
    result |= _speed(models, settings, told)
    result["layers"] = _layers(fast)
    if settings.device.type != "cpu":
        told("memory and kernels")
        return result | take_apart(models, result["layers"])
    if settings.details:
        told("recording")
        result["recording"] = recording_time(fast, x, labels)
        told("kernels")
        result["kernels"] = kernel_times(fast, x, labels, settings.limits)
        if settings.limits is not None:
            optimizer = result["seconds"]["accelerated"]["optimizer"]
            result["least"] = least_step(row, labels, result["kernels"], optimizer)
    if settings.memory:
        told("memory")
        job = (row, gradient, models.stock.state_dict(), settings.seed, settings.shared)
        result["peak_memory"] = peak_memory(*job)
        result["peak_memory_with_spikes"] = peak_memory(*job, spikes_kept=True)
    return result


def begin(
    name: str,
    row: Row,
    gradient: str,
    settings: Settings,
    told: Callable[[str], None],
    **variation: Any,
) -> tuple[Models, dict[str, Any]]:
    """The networks, and what is known of them before anything is timed: above all whether they agree."""
    told("weights")
    models = build(row, gradient, settings.seed, device=settings.device, **variation)
    if settings.shared:
        models.x.share_memory_()
    told("check")
    agreement = compare(models.reference, models.fast, models.x, models.labels)
    return models, {
        "row": name,
        "network": asdict(row),
        "gradient": gradient,
        "shared_input": settings.shared,
        "agreement": vars(agreement),
        "agrees": agreement.holds(exact=gradient != "sampled"),
        "input_density": float((models.x != 0).float().mean()),
        "gains": [{"gain": gain, "near_threshold": fraction} for gain, fraction in models.scaled],
        "surrogates": [layer.surrogate for layer in models.report if layer.surrogate],
        "layers": _layers(models.fast),
    }


def _layers(fast: Net) -> list[dict[str, Any]]:
    return [dict(vars(layer)) for layer in sparse_backend.stats(fast)]


def _speed(models: Models, settings: Settings, told: Callable[[str], None]) -> dict[str, Any]:
    """Timings of both sides and of those peers that are there and pass their own check."""
    nets: dict[str, Trainable] = {"stock": models.stock, "accelerated": models.fast}
    peers = {}
    for name in settings.peers:
        told(name)
        peers[name], net = _checked_peer(name, models)
        if net is not None:
            nets[name] = net
    told("timing")
    samples = interleaved(
        *(nets, models.x, models.labels, settings.repeats, settings.warm_up),
        synchronise=synchroniser(settings.device),
    )
    return {
        "peers": peers,
        "repeats": settings.repeats,
        "samples": samples,
        "seconds": {side: medians(phases) for side, phases in samples.items()},
        # How many times longer each took than the accelerated network.
        "ratios": {side: ratios(samples, side) for side in samples if side != "accelerated"},
    }


def _checked_peer(name: str, models: Models) -> tuple[dict[str, Any], Trainable | None]:
    """What is known of a peer, and its network unless it is missing or wrong."""
    peer = PEERS[name]
    found: dict[str, Any] = {"note": peer.note, "missing": None, "agreement": None, "agrees": True}
    stock, x, labels = models.stock, models.x, models.labels
    try:
        net = peer.build(models.row, copy_of(stock, models.gradient), models.gradient)
        if peer.same_network:
            agreement = compare(stock, net, x, labels)  # type: ignore[arg-type]
            found |= {"agreement": vars(agreement), "agrees": agreement.holds(exact=True)}
        else:
            found["agrees"] = _trains_same_shapes(stock, net, x, labels)
    except UnavailableError as error:
        return found | {"missing": str(error)}, None
    return found, net if found["agrees"] else None


def _trains_same_shapes(stock: Trainable, net: Trainable, x: Tensor, labels: Tensor) -> bool:
    """Whether each of stock's parameters has one of its shape here, with a finite gradient."""
    net.loss_of(x, labels).backward()
    found = [(p.shape, p.grad) for p in net.parameters()]
    same = [shape for shape, _ in found] == [p.shape for p in stock.parameters()]
    return same and all(grad is not None and bool(grad.isfinite().all()) for _, grad in found)
