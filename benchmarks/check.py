"""Whether an accelerated network does what the stock one does; no ratio is printed where it does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .rows import Row

__all__ = ["Agreement", "Comparable", "compare"]

_TOLERANCE = 1e-4  # relative, float32; with an exact gradient rule
# Where two entries of a pooling window are equal but for rounding, another order of summation may take the
# other one as the maximum, and its gradient goes there.
_POOLED_TOLERANCE = 1e-3
_FLIPS = 0.02  # share of the batch that may hold a spike flipped by another order of summation


class Comparable(Protocol):
    """What two networks need to be compared."""

    row: Row

    def __call__(self, x: Tensor, record_all: bool = False) -> tuple[list[Tensor], Tensor]: ...

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor: ...

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def zero_grad(self) -> None: ...


@dataclass(frozen=True)
class Agreement:
    """diverged: batch elements whose spikes differ somewhere, left out of the comparison of gradients.
    gradient: largest relative difference of a parameter's gradient.  cosine: the smallest, over parameters.
    tolerance: what the difference may be.
    """

    diverged: int
    batch: int
    gradient: float
    cosine: float
    tolerance: float = _TOLERANCE

    @property
    def spikes_agree(self) -> bool:
        """Whether no more elements diverge than borderline spikes explain."""
        return self.diverged <= max(1, _FLIPS * self.batch)

    def holds(self, exact: bool) -> bool:
        """Whether a ratio may be shown. exact: the rule draws nothing at random, so gradients agree too."""
        return self.spikes_agree and (not exact or self.gradient <= self.tolerance)


def compare(stock: Comparable, other: Comparable, x: Tensor, labels: Tensor) -> Agreement:
    """Spikes of all layers, then gradients of the training loss on the batch elements whose spikes agree."""
    with torch.no_grad():
        expected, _ = stock(x, record_all=True)
        found, _ = other(x, record_all=True)
    same = torch.ones_like(labels, dtype=torch.bool)
    for a, b in zip(expected, found, strict=True):
        same &= (a == b).flatten(2).all(dim=2).all(dim=0)
    if not same.any():
        return Agreement(len(labels), len(labels), float("inf"), 0.0)
    kept = x[same] if stock.row.coding == "direct" else x[:, same]
    relative, cosine = 0.0, 1.0
    pairs = zip(*(_gradients(net, kept, labels[same]) for net in (stock, other)), strict=True)
    for g, h in pairs:
        g, h = g.double().flatten(), h.double().flatten()
        scale = float(g.norm())
        relative = max(relative, float((g - h).norm()) / scale if scale else float(h.norm()))
        if scale and float(h.norm()):
            cosine = min(cosine, float(g @ h) / (scale * float(h.norm())))
    tolerance = _POOLED_TOLERANCE if stock.row.channels else _TOLERANCE
    return Agreement(int((~same).sum()), len(labels), relative, cosine, tolerance)


def _gradients(net: Comparable, x: Tensor, labels: Tensor) -> list[Tensor]:
    net.zero_grad()
    net.loss_of(x, labels).backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    return found
