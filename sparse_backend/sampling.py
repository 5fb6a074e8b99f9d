"""The level s0 of sampled gradients: found on a layer's first batch, then following the budget from batch to
batch.

An entry with |sigma'| >= s0 is kept as it is, another one with probability |sigma'|/s0 and the value s0; the
expected active fraction E[min(|sigma'|/s0, 1)] falls with s0, and the level is what makes it the budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .neurons import Surrogate

__all__ = ["SamplingLevel"]

_TRIALS = 6
_CLOSE = 1.5
_ENOUGH = 8.0


@dataclass
class SamplingLevel:
    """A layer's level.

    surrogate: the one it belongs to.  value: s0; 0 takes the surrogate as it is, because its support is
    bounded and lies within the budget.  trials: steps of the first calibration so far, `_TRIALS` once it has
    ended.
    """

    surrogate: Surrogate
    value: float = 0.0
    trials: int = 0
    last_trial: tuple[float, float] | None = None
    seen_entries: int = 0
    seen_active: float = 0.0

    @classmethod
    def start(cls, surrogate: Surrogate) -> SamplingLevel:
        """The level to try first: none where the support is bounded, else the peak of sigma'."""
        return cls(surrogate, _peak(surrogate) if surrogate.everywhere_active else 0.0)

    @classmethod
    def fixed(cls, surrogate: Surrogate, value: float) -> SamplingLevel:
        """A given level, without calibration."""
        return cls(surrogate, value, trials=_TRIALS)

    def adjust(self, active_fraction: float, entries: int, budget: float) -> bool:
        """Learn from a sequence of `entries` = T B N entries; True if it should be run again with the new
        value.

        Only the first batches of a layer are run again, at most `_TRIALS` times. Later the level changes by
        clip(sqrt(active / budget), 1/2, 2) per batch.
        """
        alone = not self.seen_entries
        self.seen_entries += entries
        self.seen_active += active_fraction * entries
        wanted = budget * self.seen_entries
        if wanted < _ENOUGH:
            # Single steps of small layers hold too few active entries to tell a rate from: wait for more of
            # them.
            return False
        # None of n entries stands for anything below half a one, and counts scatter by their root.
        ratio = max(self.seen_active, 0.5) / wanted
        close = _CLOSE + 3 / math.sqrt(wanted)
        self.seen_entries, self.seen_active = 0, 0.0
        calibrating = self.trials < _TRIALS
        if self.value == 0:
            if ratio <= 1:
                self.trials = _TRIALS
                return False
            self.value = _peak(self.surrogate)
            self.trials += 1
            return calibrating and alone
        if calibrating and not 1 / close <= ratio <= close:
            self.trials += 1
            self._move(self._correction(ratio))
            return alone and self.trials < _TRIALS
        self.trials = _TRIALS
        self._move(min(max(math.sqrt(ratio), 0.5), 2.0))
        return False

    def _correction(self, ratio: float) -> float:
        # Secant in log-log: the active fraction falls like 1/s0 above the peak, but ever more slowly on the
        # tail of a surrogate, so that the plain ratio would creep.
        here = (math.log(self.value), math.log(ratio))
        slope = 1.0
        if self.last_trial is not None and here[0] != self.last_trial[0]:
            slope = (self.last_trial[1] - here[1]) / (here[0] - self.last_trial[0])
            slope = min(max(slope, 0.02), 1.0)
        self.last_trial = here
        return math.exp(min(max(here[1] / slope, -16.0), 16.0))

    def _move(self, factor: float) -> None:
        self.value *= factor
        peak = _peak(self.surrogate)
        if self.surrogate.everywhere_active:
            self.value = max(self.value, peak * 2.0**-100)
        elif self.value < peak * 2.0**-20:
            self.value = 0.0  # the whole support is kept: no entry is left to sample


def _grid() -> Tensor:
    positive = torch.cat([torch.zeros(1), torch.logspace(-6, 2, 400)]).double()
    return torch.cat([-positive.flip(0), positive])


_GRID = _grid()


@lru_cache
def _peak(surrogate: Surrogate) -> float:
    return float(surrogate.derivative(_GRID).abs().max()) or 1.0
