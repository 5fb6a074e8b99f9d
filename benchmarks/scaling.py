"""Weights scaled until a layer is as active as its row asks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .network import Net

__all__ = ["scale_to_activity"]

_HALF_WIDTH = 0.1
_TOLERANCE = 0.05
_MAX_GAIN = 1e3
_BISECTIONS = 30


def scale_to_activity(net: Net, x: Tensor, target: float) -> list[tuple[float, float]]:
    """Scale each layer's weights until `target` of its entries have |u - threshold| < 0.1, from below.

    x: `[T, B, N]`.  Returns: the gain and the fraction reached, per layer: where no gain reaches the target,
    those of the most active one.
    """
    found = []
    with torch.no_grad():
        for feed, lif in zip(net.feeds, net.lifs, strict=True):
            gain, fraction, x = _search(feed(x), lif, target)
            for parameter in feed.parameters():
                parameter.mul_(gain)
            found.append((gain, fraction))
    return found


def _search(current: Tensor, lif: nn.Module, target: float) -> tuple[float, float, Tensor]:
    low, gain = 0.0, 0.1
    fraction, spikes = _run(current * gain, lif)
    most = gain, fraction, spikes
    while fraction < target and gain < _MAX_GAIN:
        low, gain = gain, gain * 1.5
        fraction, spikes = _run(current * gain, lif)
        if fraction > most[1]:
            most = gain, fraction, spikes
    if fraction < target:
        return most
    high = gain
    for _ in range(_BISECTIONS):
        if abs(fraction / target - 1) < _TOLERANCE:
            break
        gain = (low + high) / 2
        fraction, spikes = _run(current * gain, lif)
        low, high = (low, gain) if fraction > target else (gain, high)
    return gain, fraction, spikes


def _run(current: Tensor, lif: nn.Module) -> tuple[float, Tensor]:
    mem = lif.init_leaky()  # type: ignore[operator]
    spikes, close = [], 0
    for step in range(current.shape[0]):
        spk, mem = lif(current[step], mem)
        spikes.append(spk)
        close += int(((mem - 1).abs() < _HALF_WIDTH).sum())
    return close / current.numel(), torch.stack(spikes)
