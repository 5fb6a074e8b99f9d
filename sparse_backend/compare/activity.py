"""How many entries of each neuron layer spike and are active in one training step."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..accelerate import examine
from ..adapters import Claim
from .results import LayerActivity

__all__ = ["AcceleratedActivity", "Activity", "StockActivity"]

_LIBRARIES = ("snntorch", "norse")


class Activity(Protocol):
    """Watches the steps that the probe looks into."""

    needs_outputs: bool

    def begin(self) -> None:
        """A step starts."""

    def see(self, module: nn.Module, out: Any) -> None:
        """A module returned; only with `needs_outputs`."""

    def end(self, roots: list[nn.Module]) -> list[LayerActivity]:
        """The step is over. roots: the models, which name the layers."""


class StockActivity:
    """Counts the spikes that stock neurons return. Stock's backward pass treats every entry as active."""

    needs_outputs = True

    def __init__(self) -> None:
        self._counts: dict[nn.Module, list[float]] = {}

    def begin(self) -> None:
        self._counts.clear()

    def see(self, module: nn.Module, out: Any) -> None:
        spikes = out[0] if isinstance(out, tuple) and out else out
        if not isinstance(spikes, Tensor) or not _is_neuron(module):
            return
        spikes = spikes.detach()
        with torch.no_grad():
            if not bool(((spikes == 0) | (spikes == 1)).all()):
                return  # the membrane potential of an integrator that is not known
            counts = self._counts.setdefault(module, [0.0, 0.0])
            counts[0] += float(torch.count_nonzero(spikes))
            counts[1] += spikes.numel()

    def end(self, roots: list[nn.Module]) -> list[LayerActivity]:
        names = {module: name for root in roots for name, module in root.named_modules()}
        rows = []
        for position, (module, (spikes, entries)) in enumerate(self._counts.items(), 1):
            kind = type(module).__name__
            density = spikes / entries if entries else None
            rows.append(
                LayerActivity(names.get(module) or f"{kind.lower()}{position}", kind, density, density)
            )
        return rows


class AcceleratedActivity:
    """Reads what accelerated layers count themselves.

    Their outputs are left alone: looking at one would compute what perhaps nobody else wants.
    """

    needs_outputs = False

    def __init__(self, installation: Any) -> None:
        self._installation = installation
        self._before: dict[nn.Module, tuple[float, ...]] = {}

    def begin(self) -> None:
        self._before = {module: _counts(runtime) for module, runtime in self._layers()}

    def see(self, module: nn.Module, out: Any) -> None:
        pass

    def end(self, roots: list[nn.Module]) -> list[LayerActivity]:
        rows = []
        reports = self._installation.reports
        firing = {id(row.runtime) for report in reports for row in report if row.surrogate}
        for module, runtime in self._layers():
            if id(runtime) not in firing:
                continue
            before = self._before.get(module, (0.0, 0.0, 0.0, 0.0))
            spikes, entries, active, trained = (
                now - then for now, then in zip(_counts(runtime), before, strict=True)
            )
            upstream = getattr(type(module), "upstream", type(module))
            density = spikes / entries if entries else None
            fraction = active / trained if trained else None
            kind = upstream.__name__
            rows.append(LayerActivity(runtime.name, kind, density, density, fraction, fraction))
        return rows

    def _layers(self) -> list[tuple[nn.Module, Any]]:
        from sparse_backend.runtime import runtime_of

        modules = [module for model in self._installation.models for module in model.modules()]
        return [(module, runtime) for module in modules if (runtime := runtime_of(module)) is not None]


def _counts(runtime: Any) -> tuple[float, ...]:
    totals = runtime.totals
    return totals.spikes, totals.entries, totals.active, totals.trained_entries


def _is_neuron(module: nn.Module) -> bool:
    """Whether the module fires, as far as its class tells."""
    if next(module.children(), None) is not None:
        return False
    decision = examine(module)
    if isinstance(decision, Claim):
        return decision.surrogate is not None  # an integrator at rest looks like a neuron without spikes
    return any(cls.__module__.partition(".")[0] in _LIBRARIES for cls in type(module).__mro__)
