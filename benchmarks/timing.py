"""Training steps of several networks, timed in turn so that what disturbs the machine disturbs all."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["PHASES", "Ratio", "Samples", "Trainable", "interleaved", "medians", "ratio", "ratios"]

PHASES = ("forward", "backward", "optimizer", "step")

Samples = dict[str, list[float]]
"""Seconds of each phase, one per repeat."""


class Trainable(Protocol):
    """What a training step needs of a network."""

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Ratio:
    """How many times faster: of the medians, and the lowest and highest of any one repeat."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.1f}x ({self.low:.1f}-{self.high:.1f})"


def interleaved(
    nets: Mapping[str, Trainable],
    x: Tensor,
    labels: Tensor,
    repeats: int,
    warm_up: int,
    told: Callable[[], None] = lambda: None,
    synchronise: Callable[[], None] = lambda: None,
) -> dict[str, Samples]:
    """Seconds of each phase of a training step, per network. told: called after each timed step.

    A network makes two steps whenever its turn comes, of which the second is timed: in training a step
    follows one of the same network, not one that has filled the caches with another's data.

    synchronise: waits for the device, before each look at the clock.
    """
    # A rate that moves nothing: the activity stays what it was scaled to.
    optimizers = {name: torch.optim.Adam(net.parameters(), lr=1e-9) for name, net in nets.items()}
    seconds: dict[str, Samples] = {name: {phase: [] for phase in PHASES} for name in nets}
    for repeat in range(-warm_up, repeats):
        for name, net in nets.items():
            _step(net, optimizers[name], x, labels, synchronise)
            times = _step(net, optimizers[name], x, labels, synchronise)
            told()
            if repeat < 0:
                continue
            spans = [later - sooner for sooner, later in itertools.pairwise(times)]
            for phase, span in zip(PHASES, [*spans, times[-1] - times[0]], strict=True):
                seconds[name][phase].append(span)
    return seconds


def _step(
    net: Trainable,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    synchronise: Callable[[], None],
) -> list[float]:
    """The clock before a training step and after each of its phases."""
    optimizer.zero_grad()
    times = []

    def look() -> None:
        synchronise()
        times.append(time.perf_counter())

    look()
    loss = net.loss_of(x, labels)
    look()
    loss.backward()
    look()
    optimizer.step()
    look()
    return times


def medians(samples: Samples) -> dict[str, float]:
    """The median of each phase."""
    return {phase: statistics.median(values) for phase, values in samples.items()}


def ratios(samples: Mapping[str, Samples], side: str) -> dict[str, dict[str, float]]:
    """How many times longer `side` took than the accelerated network, in each phase."""
    return {phase: asdict(ratio(samples[side][phase], samples["accelerated"][phase])) for phase in PHASES}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """Of two series that were measured in turn."""
    pairs = [a / b for a, b in zip(slow, fast, strict=True)]
    return Ratio(statistics.median(slow) / statistics.median(fast), min(pairs), max(pairs))
