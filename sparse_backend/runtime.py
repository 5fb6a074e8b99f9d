"""What an accelerated layer remembers between calls: its options, its sampling level and what happened so
far.

A `LayerRuntime` hangs in the instance dictionary of the module (never in its parameters, buffers or
state_dict) and is plain data, so it follows deepcopy and pickle.
"""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .neurons import Neuron, Surrogate
from .ops.random import stream_key
from .ops.sequence import GradientRule, LayerOutput
from .options import Options

__all__ = ["RUNTIME", "LayerRuntime", "LayerTotals", "runtime_of", "window_half_width"]

RUNTIME = "_sparse_backend_runtime"
_WINDOW = 0.2  # of the threshold: the paper's setting
_QUIET = 0.001  # a window that holds fewer entries than this trains next to nothing
_QUIET_CALLS = 3
_TRIALS = 6
_CLOSE = 1.5


def runtime_of(module: nn.Module) -> LayerRuntime | None:
    """The runtime of an accelerated module, None for a stock one."""
    return module.__dict__.get(RUNTIME)


def window_half_width(options: Options, neuron: Neuron) -> float:
    """`backward_threshold`, or 0.2 of the mean distance from rest to threshold, in membrane units."""
    if options.backward_threshold is not None:
        return options.backward_threshold
    distance = neuron.coefficients.threshold.detach() - neuron.coefficients.leak.detach()
    return _WINDOW * float(distance.abs().mean())


@dataclass
class LayerTotals:
    """Sums over the sequences that a layer ran.

    calls: sequences.  trained: those with a gradient.  steps: time steps.  entries: T B N.
    active, spikes: entries that were active (of the trained ones) or spiked, where the layer fires.
    algorithm: product -> form -> how often it was chosen.
    """

    calls: int = 0
    trained: int = 0
    steps: int = 0
    entries: int = 0
    trained_entries: int = 0
    active: float = 0.0
    spikes: float = 0.0
    saved_bytes: int = 0
    algorithm: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, output: LayerOutput, steps: int, entries: int, trained: bool) -> None:
        """Count one sequence."""
        self.calls += 1
        self.steps += steps
        if output.spikes is not None:
            self.entries += entries
            self.spikes += output.spike_density * entries
        if trained:
            self.trained += 1
            self.trained_entries += entries
            self.active += output.active_fraction * entries
            self.saved_bytes = output.saved_bytes
        for product, form in output.algorithm.items():
            forms = self.algorithm.setdefault(product, {})
            forms[form] = forms.get(form, 0) + 1


@dataclass(eq=False)
class LayerRuntime:
    """Options and state of one accelerated neuron layer.

    name: the layer's name in the model.  index: its position among the layers.
    level: s0 of the sampling, None before the first batch with a gradient.  calls: draws made so far.
    fingerprint, held: the options as the module's forward last saw them, and what keeps their ids alive;
        reason: why they run upstream's code, None if they don't.  previous: where the state before the last
        step may be found.
    """

    name: str
    index: int
    options: Options
    surrogate: Surrogate | None = None
    level: float | None = None
    calls: int = 0
    trials: int = 0
    trial: tuple[float, float] | None = None
    totals: LayerTotals = field(default_factory=LayerTotals)
    early_active: list[float] = field(default_factory=list)
    window: float | None = None
    reason: str | None = None
    fingerprint: tuple[Any, ...] = ()
    held: Any = None
    previous: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # What refers to the module's own objects is read again at the next call.
        return {**self.__dict__, "fingerprint": (), "held": None, "previous": None}

    def configure(self, name: str, index: int, options: Options) -> None:
        """Take new options; a change of them starts the sampling anew, the same ones leave it as it is."""
        if options != self.options:
            self.options, self.level, self.calls, self.trials, self.trial = options, None, 0, 0, None
            self.early_active.clear()
        self.name, self.index = name, index

    def fix(self, surrogate: Surrogate, level: float) -> None:
        """Sample at this level, without looking for one."""
        self.surrogate, self.level, self.trials = surrogate, level, _TRIALS

    def rule(self, neuron: Neuron) -> GradientRule:
        """The gradient rule of the next sequence. Every call of it is a fresh draw."""
        mode = self.options.gradient
        surrogate = neuron.spec.surrogate
        if mode == "exact" or not neuron.spec.fires:
            return GradientRule("exact")
        if mode == "window":
            self.window = window_half_width(self.options, neuron)
            return GradientRule("window", self.window)
        if self.level is None or surrogate != self.surrogate:
            self.surrogate, self.level, self.trials, self.trial = surrogate, _first_level(surrogate), 0, None
        if self.level == 0:
            return GradientRule("exact")
        key = stream_key(self.options.seed, zlib.crc32(self.name.encode()) << 20 | self.index, self.calls)
        self.calls += 1
        return GradientRule("sampled", self.level, key)

    def observe(self, output: LayerOutput, steps: int, entries: int) -> bool:
        """Learn from a sequence that ran; True asks to run it again with a new `rule()`.

        The first batches of a layer are repeated until the level gives about the budget; after that the level
        only follows, from one batch to the next. steps: T.  entries: T B N.
        """
        trained = output.spikes is not None and output.spikes.carrier.requires_grad
        if (
            trained
            and entries
            and self.options.gradient == "sampled"
            and self._adjust(output.active_fraction)
        ):
            return True
        if trained and self.options.gradient == "window" and len(self.early_active) < _QUIET_CALLS:
            self.early_active.append(output.active_fraction)
        self.totals.add(output, steps, entries, trained)
        return False

    def _adjust(self, active: float) -> bool:
        target = self.options.budget
        level, surrogate = self.level, self.surrogate
        if level is None or surrogate is None:
            return False
        ratio = active / target
        calibrating = self.trials < _TRIALS
        if level == 0:
            # The surrogate as it is. Once its support outgrows the budget it is sampled from then on.
            self.trials = max(self.trials, 1)
            if ratio <= 1:
                self.trials = _TRIALS
                return False
            self.level = _peak(surrogate)
            if calibrating:
                self.trials += 1
            return calibrating
        if calibrating and not 1 / _CLOSE <= ratio <= _CLOSE:
            self.trials += 1
            self.level = level * self._correction(level, ratio)
            self._release(surrogate)
            return self.trials < _TRIALS
        self.trials = _TRIALS
        self.level = level * min(max(math.sqrt(ratio), 0.5), 2.0)
        self._release(surrogate)
        return False

    def _correction(self, level: float, ratio: float) -> float:
        # Secant in log-log: the active fraction falls like 1/level for a level above the peak, but ever more
        # slowly on the tail of a surrogate, so that a plain ratio would creep.
        here = (math.log(level), math.log(max(ratio, 1e-6)))
        slope = 1.0
        if self.trial is not None and here[0] != self.trial[0]:
            slope = min(max((self.trial[1] - here[1]) / (here[0] - self.trial[0]), 0.02), 1.0)
        self.trial = here
        return math.exp(min(max(here[1] / slope, -16.0), 16.0))

    def _release(self, surrogate: Surrogate) -> None:
        # Far below its peak the level keeps the whole support: no entry is left to sample.
        assert self.level is not None
        peak = _peak(surrogate)
        if surrogate.everywhere_active:
            self.level = max(self.level, peak * 2.0**-100)
        elif self.level < peak * 2.0**-20:
            self.level = 0.0

    @property
    def quiet(self) -> bool:
        """Whether the first batches of a window kept so few entries that the layer will hardly learn."""
        seen = self.early_active
        return len(seen) == _QUIET_CALLS and sum(seen) / len(seen) < _QUIET

    def gradient_text(self) -> str:
        """The gradient rule in force, in words."""
        mode = self.options.gradient
        if mode == "window":
            width = self.options.backward_threshold if self.window is None else self.window
            return "window " + (f"±{width:.4g}" if width is not None else f"±{_WINDOW:g} of the threshold")
        if mode == "sampled":
            if self.level is None:
                return f"sampled, budget {self.options.budget:.3g}"
            if self.level == 0:
                return f"as it is: within the budget of {self.options.budget:.3g}"
            return f"sampled, budget {self.options.budget:.3g}, level {self.level:.3g}"
        return mode

    def snapshot(self) -> dict[str, Any]:
        """A copy of everything that a run changes, for `rewind`."""
        kept = {"fingerprint", "held", "previous"}
        return copy.deepcopy({name: value for name, value in self.__dict__.items() if name not in kept})

    def rewind(self, snapshot: dict[str, Any]) -> None:
        """Go back to a `snapshot`."""
        self.__dict__.update(snapshot)


def _peak(surrogate: Surrogate) -> float:
    return float(surrogate.derivative(_GRID).abs().max())


def _first_level(surrogate: Surrogate) -> float:
    return _peak(surrogate) if surrogate.everywhere_active else 0.0


def _grid() -> Tensor:
    positive = torch.cat([torch.zeros(1), torch.logspace(-6, 2, 400)]).double()
    return torch.cat([-positive.flip(0), positive])


_GRID = _grid()
