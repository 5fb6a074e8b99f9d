"""Measurement of a training script that knows nothing of it: time per phase, memory, spikes, first gradients.

A training step runs from the first call of a module with parameters and gradients enabled to the end of
`optimizer.step()`; its backward phase is the time spent in `backward()`. In between, only the wrapper of
backward is in the way: that of module calls takes itself out for the rest of a step that is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from . import memory
from .activity import Activity
from .results import LayerActivity, VariantResult

__all__ = ["OBSERVE_EVERY", "Probe"]

OBSERVE_EVERY = 50
_PROGRESS_SECONDS = 0.2


class Probe:
    """Fills a `VariantResult` while a script runs in this process.

    progress: a file that holds the number of finished steps, for whoever waits.
    activity: looks into the first and every fiftieth step, which therefore are not timed.
    """

    def __init__(self, result: VariantResult, progress: Path, activity: Activity) -> None:
        self.result = result
        self.gradients: dict[str, Tensor] = {}
        self.first_step: float | None = None
        self._progress = progress.open("w")
        self._told = 0.0
        self._activity = activity
        self._roots: list[nn.Module] = []
        self._start: float | None = None
        self._optimizer_start = 0.0
        self._backward = 0.0
        self._in_backward = False
        self._call: Callable[..., Any] = nn.Module.__call__

    def start(self) -> None:
        """Begin to watch."""
        register_optimizer_step_pre_hook(self._before_optimizer)
        register_optimizer_step_post_hook(self._after_optimizer)
        setattr(torch.autograd, "backward", self._timed(torch.autograd.backward))  # noqa: B010
        self._watch_calls()

    @property
    def _looking(self) -> bool:
        return self.result.steps % OBSERVE_EVERY == 0

    def _watch_calls(self) -> None:
        self._call = original = nn.Module.__call__

        def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._start is None and torch.is_grad_enabled() and _trains(module):
                self._begin_step(module)
            out = original(module, *args, **kwargs)
            if self._start is not None and self._looking:
                self._activity.see(module, out)
            return out

        nn.Module.__call__ = watched  # type: ignore[method-assign]

    def _begin_step(self, module: nn.Module) -> None:
        if not any(module is part for root in self._roots for part in root.modules()):
            self._roots.append(module)
        if self._looking:
            self._activity.begin()
        if not (self._looking and self._activity.needs_outputs):
            nn.Module.__call__ = self._call  # type: ignore[method-assign]
        memory.begin_step()
        if self.first_step is None:
            self.first_step = time.time()
        self._backward = 0.0
        self._start = time.perf_counter()

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def backward(*args: Any, **kwargs: Any) -> Any:
            if self._in_backward:
                return function(*args, **kwargs)
            self._in_backward = True
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._in_backward = False
                self._backward += time.perf_counter() - begun

        return backward

    def _before_optimizer(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._optimizer_start = time.perf_counter()
        if self.result.steps == 0 and not self.gradients:
            self.gradients = self._gradients(optimizer)

    def _after_optimizer(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        now = time.perf_counter()
        if self._start is None:
            return  # a second optimizer in the same step, or one that trains no module
        result, looking = self.result, self._looking
        result.phases["optimizer"].append(now - self._optimizer_start)
        result.phases["backward"].append(self._backward)
        result.phases["forward"].append(self._optimizer_start - self._start - self._backward)
        self._start = None
        memory.end_step(result)
        if looking:
            result.observed.append(result.steps - 1)
            self._note(self._activity.end(self._roots))
        if now - self._told > _PROGRESS_SECONDS:
            self._told = now
            self._progress.seek(0)
            self._progress.write(str(result.steps))
            self._progress.flush()
        nn.Module.__call__ = self._call  # type: ignore[method-assign]
        self._watch_calls()

    def _gradients(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        names = {id(p): name for root in self._roots for name, p in root.named_parameters()}
        found: dict[str, Tensor] = {}
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            name = names.get(id(parameter)) or f"parameter {len(found)}"
            value = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name] = value.detach().to("cpu", copy=True)
        return found

    def _note(self, rows: list[LayerActivity]) -> None:
        known = {layer.name: layer for layer in self.result.layers}
        for row in rows:
            layer = known.get(row.name)
            if layer is None:
                self.result.layers.append(row)
            else:
                layer.last_spikes, layer.last_active = row.last_spikes, row.last_active


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
