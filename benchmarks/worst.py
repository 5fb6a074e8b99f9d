"""The cases that acceleration is worst at, on a network of the size of S-small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from .measure import Settings, measure
from .network import Net
from .rows import ROWS, Row

__all__ = ["CASES", "TARGET", "worst", "worst_count"]

TARGET = 1.1
"""Accelerated time over stock's that no case should exceed."""


class ReadingNet(Net):
    """Looks at a value of the output at each step, as a script that logs does."""

    def loop(self, x: Tensor, record_all: bool = False) -> tuple[list[list[Tensor]], list[Tensor]]:
        """As `Net.loop`, one step at a time."""
        mems = [lif.init_leaky() for lif in self.lifs]  # type: ignore[operator]
        spikes: list[list[Tensor]] = [[] for _ in self.lifs]
        membrane, counted = [], 0.0
        for step in range(self.row.steps):
            out = x[step]
            for layer, (feed, lif) in enumerate(zip(self.feeds, self.lifs, strict=True)):
                out, mems[layer] = lif(feed(out), mems[layer])
                if record_all or layer == len(mems) - 1:
                    spikes[layer].append(out)
            counted += out.detach().sum().item()
            membrane.append(mems[-1])
        return (spikes if record_all else spikes[-1:]), membrane


class OnlineNet(Net):
    """Learns at each step: a backward pass, then the states are cut."""

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The last step's loss; those of the steps before have gone backward already."""
        mems = [lif.init_leaky() for lif in self.lifs]  # type: ignore[operator]
        for step in range(self.row.steps):
            out = x[step]
            for layer, (feed, lif) in enumerate(zip(self.feeds, self.lifs, strict=True)):
                out, mems[layer] = lif(feed(out), mems[layer])
            loss = functional.cross_entropy(mems[-1], labels)
            if step < self.row.steps - 1:
                loss.backward()
                mems = [mem.detach() for mem in mems]
        return loss


@dataclass(frozen=True)
class Case:
    """variation: of `models.build`.  gradients: the rules under which the case is one.

    more: times as many repeats, for steps so short that they scatter.
    """

    row: Row
    variation: dict[str, Any]
    gradients: tuple[str, ...] = ("window", "exact", "sampled")
    more: int = 1


_BASE = ROWS["S-small"]
# A loop that breaks at each step runs upstream's code for a while, which knows no window: there is no one
# gradient that it could be compared with.
_WHOLE = ("exact", "sampled")
CASES = {
    "100 % active": Case(_BASE, {"half_width": 1e6}, ("window",)),
    "50 % input density": Case(replace(_BASE, density=0.5), {}),
    "a value read at each step": Case(_BASE, {"kind": ReadingNet}, _WHOLE),
    "backward at each step": Case(_BASE, {"kind": OnlineNet}, _WHOLE),
    "T = 1": Case(replace(_BASE, steps=1, density=0.2), {}, more=10),
}


def worst(
    gradients: tuple[str, ...],
    settings: Settings,
    told: Callable[[str], None] = lambda what: None,
    done: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """A measurement per case and rule; told, done: called before and after each."""
    results = []
    for name, gradient in _pairs(gradients):
        told(f"{name}, {gradient}")
        case = CASES[name]
        enough = replace(settings, repeats=case.more * settings.repeats)
        results.append(measure(name, case.row, gradient, enough, **case.variation))
        done()
    return results


def worst_count(gradients: tuple[str, ...]) -> int:
    """How many measurements that will be."""
    return len(_pairs(gradients))


def _pairs(gradients: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, rule) for name, case in CASES.items() for rule in gradients if rule in case.gradients]
