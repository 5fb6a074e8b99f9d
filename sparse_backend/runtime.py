"""What an accelerated layer remembers between calls: its options, its sampling level and what happened so
far.

A `LayerRuntime` hangs in the instance dictionary of the module (never in its parameters, buffers or
state_dict) and is plain data, so it follows deepcopy and pickle.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .neurons import Neuron
from .ops.random import stream_key
from .ops.sequence import GradientRule, LayerOutput
from .options import Options
from .sampling import SamplingLevel

__all__ = ["RUNTIME", "LayerRuntime", "LayerTotals", "runtime_of", "window_half_width"]

RUNTIME = "_sparse_backend_runtime"
_WINDOW = 0.2  # of the threshold: the paper's setting
_QUIET = 0.001  # a window that holds fewer entries than this trains next to nothing
_QUIET_CALLS = 3


def runtime_of(module: nn.Module) -> LayerRuntime | None:
    """The runtime of an accelerated module, None for a stock one."""
    return module.__dict__.get(RUNTIME)


def window_half_width(options: Options, neuron: Neuron) -> float:
    """`backward_threshold`, or 0.2 of the mean distance from rest to threshold, in membrane units."""
    if options.backward_threshold is not None:
        return options.backward_threshold
    threshold, leak = neuron.coefficients.threshold, neuron.coefficients.leak
    if threshold.dim() or leak.dim():
        return _WINDOW * float((threshold.detach() - leak.detach()).abs().mean())
    return _WINDOW * abs(float(threshold) - float(leak))


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
    sampling: the level of the sampling, None before the first batch with a gradient.  calls: draws made so
    far. fingerprint, held: the options as the module's forward last saw them, and what keeps their ids alive;
        reason: why they run upstream's code, None if they don't.  previous: where the state before the last
        step may be found.  kept: what recording found when the layer last began a sequence; kept_for: the
        numbers in its surrogate then.
    """

    name: str
    index: int
    options: Options
    sampling: SamplingLevel | None = None
    calls: int = 0
    totals: LayerTotals = field(default_factory=LayerTotals)
    early_active: list[float] = field(default_factory=list)
    window: float | None = None
    reason: str | None = None
    fingerprint: tuple[Any, ...] = ()
    held: Any = None
    previous: Any = None
    kept: dict[Any, Any] = field(default_factory=dict)
    kept_for: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # What refers to the module's own objects is read again at the next call.
        cleared: dict[str, Any] = {
            "fingerprint": (),
            "held": None,
            "previous": None,
            "kept": {},
            "kept_for": None,
        }
        return {**self.__dict__, **cleared}

    def configure(self, name: str, index: int, options: Options) -> None:
        """Take new options; a change of them starts the sampling anew, the same ones leave it as it is."""
        if options != self.options:
            self.options, self.sampling, self.calls = options, None, 0
            self.early_active.clear()
        self.name, self.index = name, index

    @property
    def level(self) -> float | None:
        """s0 of the sampling, None before the first batch with a gradient."""
        return None if self.sampling is None else self.sampling.value

    def rule(self, neuron: Neuron) -> GradientRule:
        """The gradient rule of the next sequence. Every call of it is a fresh draw."""
        mode = self.options.gradient
        surrogate = neuron.spec.surrogate
        if mode == "exact" or not neuron.spec.fires:
            return GradientRule("exact")
        if mode == "window":
            self.window = window_half_width(self.options, neuron)
            return GradientRule("window", self.window)
        if self.sampling is None or self.sampling.surrogate != surrogate:
            self.sampling = SamplingLevel.start(surrogate)
        level = self.sampling.value
        if level == 0:
            return GradientRule("exact")
        key = stream_key(self.options.seed, zlib.crc32(self.name.encode()) << 20 | self.index, self.calls)
        self.calls += 1
        return GradientRule("sampled", level, key)

    def observe(self, output: LayerOutput, steps: int, entries: int) -> bool:
        """Learn from a sequence that ran; True asks to run it again with a new `rule()`.

        The first batches of a layer are repeated until the level gives about the budget; after that the level
        only follows, from one batch to the next. steps: T.  entries: T B N.
        """
        if not output.counted:
            return False
        trained = output.spikes is not None and output.spikes.carrier.requires_grad
        sampling = self.sampling if trained and self.options.gradient == "sampled" else None
        if sampling is not None and sampling.adjust(output.active_fraction, entries, self.options.budget):
            return True
        if trained and self.options.gradient == "window" and len(self.early_active) < _QUIET_CALLS:
            self.early_active.append(output.active_fraction)
        self.totals.add(output, steps, entries, trained)
        return False

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
        own = {"fingerprint", "held", "previous", "kept", "kept_for"}
        return copy.deepcopy({name: value for name, value in self.__dict__.items() if name not in own})

    def rewind(self, snapshot: dict[str, Any]) -> None:
        """Go back to a `snapshot`."""
        self.__dict__.update(copy.deepcopy(snapshot))
