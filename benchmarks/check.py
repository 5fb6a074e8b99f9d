"""Whether an accelerated network does what the stock one does; no ratio is printed where it does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from . import jumps, pooling
from .network import Net
from .rows import Row

__all__ = ["Agreement", "Comparable", "compare"]

_TOLERANCE = 1e-4  # relative, float32; with an exact gradient rule
_FLIPS = 0.02  # share of the batch that may hold a spike flipped by another order of summation
_COMPARED = 0.5  # share of the batch whose gradients must be compared


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
    undecided: others left out of it, in which rounding decides a maximum (pooling.py) or on which side of a
        jump of the surrogate an entry lies (jumps.py); looked for only where gradients differ without that.
    gradient: largest relative difference of a parameter's gradient.  cosine: the smallest, over parameters.
    """

    diverged: int
    undecided: int
    batch: int
    gradient: float
    cosine: float

    @property
    def spikes_agree(self) -> bool:
        """Whether no more elements diverge than borderline spikes explain."""
        return self.diverged <= max(1, _FLIPS * self.batch)

    def holds(self, exact: bool) -> bool:
        """Whether a ratio may be shown. exact: the rule draws nothing at random, so gradients agree too."""
        enough = self.batch - self.diverged - self.undecided >= _COMPARED * self.batch
        return self.spikes_agree and (not exact or (enough and self.gradient <= _TOLERANCE))


def compare(stock: Net, other: Comparable, x: Tensor, labels: Tensor) -> Agreement:
    """Spikes of all layers, then gradients of the training loss on the batch elements whose spikes agree.

    Where those gradients differ, elements in which rounding decides them are found and left out too.
    """
    with torch.no_grad():
        expected, _ = stock(x, record_all=True)
        found, _ = other(x, record_all=True)
    same = torch.ones_like(labels, dtype=torch.bool)
    for a, b in zip(expected, found, strict=True):
        same &= (a == b).flatten(2).all(dim=2).all(dim=0)
    undecided = torch.zeros_like(same)
    difference = _difference(stock, other, x, labels, same)
    if difference[0] > _TOLERANCE:
        undecided = pooling.undecided_elements(stock, x, expected)
        undecided |= jumps.undecided_elements(stock, x, expected)
        undecided &= same
        if undecided.any():
            difference = _difference(stock, other, x, labels, same & ~undecided)
    return Agreement(int((~same).sum()), int(undecided.sum()), len(labels), *difference)


def _difference(
    stock: Net, other: Comparable, x: Tensor, labels: Tensor, chosen: Tensor
) -> tuple[float, float]:
    """Of the gradients on the chosen elements of the batch: `Agreement.gradient` and `.cosine`."""
    if not chosen.any():
        return float("inf"), 0.0
    kept = x[chosen] if stock.row.coding == "direct" else x[:, chosen]
    relative, cosine = 0.0, 1.0
    pairs = zip(*(_gradients(net, kept, labels[chosen]) for net in (stock, other)), strict=True)
    for g, h in pairs:
        g, h = g.double().flatten(), h.double().flatten()
        scale = float(g.norm())
        relative = max(relative, float((g - h).norm()) / scale if scale else float(h.norm()))
        if scale and float(h.norm()):
            cosine = min(cosine, float(g @ h) / (scale * float(h.norm())))
    return relative, cosine


def _gradients(net: Comparable, x: Tensor, labels: Tensor) -> list[Tensor]:
    net.zero_grad()
    net.loss_of(x, labels).backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    return found
