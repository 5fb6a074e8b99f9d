"""`accelerate`, `restore`, `accelerated`: swap the classes of a model's neurons and feeds, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import adapters
from .adapters import feeds
from .errors import ArgumentTypeError, UnsupportedLayerError
from .ops import memory
from .options import Options, disabled
from .recording import (
    drop_spares,
    flush,
    quicken_attributes,
    reset_backoff,
    resolve_all,
    restore_attributes,
)
from .report import LayerReport, Report
from .runtime import RUNTIME, LayerRuntime

__all__ = ["accelerate", "accelerated", "examine", "is_accelerated", "restore"]


@dataclass
class _Plan:
    """What will happen to one module object, which may have several names."""

    module: nn.Module
    names: list[str]
    decision: adapters.Claim | adapters.Stock
    feed: bool = False

    @property
    def swapped(self) -> bool:
        return isinstance(self.decision, adapters.Claim)


def accelerate(
    model: nn.Module,
    *,
    gradient: str | None = None,
    budget: float | None = None,
    backward_threshold: float | None = None,
    seed: int | None = None,
    strict: bool | None = None,
) -> Report:
    """Make a model's spiking layers run by whole sequences with a sparse backward pass, in place.

    Args:
        model: any module that contains snnTorch or Norse neurons, or is one.
        gradient: "sampled" (default; unbiased, sparse for every surrogate), "exact" (stock's gradient to
            rounding) or "window" (Perez-Nieves & Goodman 2021).
        budget: expected fraction of active entries per layer under "sampled", in (0, 1]; 0.05 unless given.
        backward_threshold: half-width of the window in membrane units; 0.2 x the layer's threshold unless
        given.
        seed: of the sampling; 0 unless given. torch's generators are not touched.
        strict: raise if a layer would stay stock.

    Options that are not given come from SPARSE_BACKEND_GRADIENT, _BUDGET, _BACKWARD_THRESHOLD, _SEED and
    _STRICT; with SPARSE_BACKEND_DISABLE=1 nothing is changed. Only classes change: parameters, buffers, hooks
    and names stay, so that state_dict, deepcopy, optimizers and isinstance work as before. A second call
    updates the options.

    Returns: a Report, which says for each layer what happened or why it stays stock.
    Raises: ArgumentError, ArgumentTypeError for bad options; UnsupportedLayerError under strict. Nothing is
    changed then.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model={model!r} must be a torch.nn.Module, not {type(model).__name__}")
    options = Options.from_environment(
        gradient=gradient, budget=budget, backward_threshold=backward_threshold, seed=seed, strict=strict
    )
    if disabled():
        return Report(
            [], options, disabled=True, notes=["SPARSE_BACKEND_DISABLE is set: everything runs stock"]
        )
    plans = _plan(model)
    if options.strict:
        _refuse_stock(plans)
    _drop_pending(plan.module for plan in plans)
    layers = _apply(plans, options)
    quicken_attributes(_containers(model))
    notes = []
    if not any(layer.path == "accelerated" and not layer.feed for layer in layers):
        notes.append(
            "no layer was accelerated" if plans else "the model contains no neuron of a supported library"
        )
        notes += [f"{name}: {reason}" for name, reason in adapters.unavailable().items()]
    return Report(layers, options, notes=notes)


def restore(model: nn.Module) -> None:
    """Undo `accelerate`: every module has its own class again, and nothing of this package is left in it.

    What was recorded is computed first, so that states are ordinary tensors. A model that is stock is left
    alone.
    Raises: ArgumentTypeError if `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model={model!r} must be a torch.nn.Module, not {type(model).__name__}")
    swapped = [module for module in model.modules() if is_accelerated(module)]
    _drop_pending(swapped)
    restore_attributes(model.modules())
    for module in swapped:
        _swap_back(module)
    if swapped:
        memory.drop()
        drop_spares()


@contextmanager
def accelerated(model: nn.Module, **options: Any) -> Iterator[Report]:
    """`accelerate` for the length of a `with` block, whose value is the Report; options as for `accelerate`.

    Afterwards, also after an exception, each module is what it was before: stock, or accelerated with its
    earlier options.
    """
    before = {module: module.__dict__.get(RUNTIME) for module in model.modules() if is_accelerated(module)}
    saved = {runtime: runtime.snapshot() for runtime in before.values() if runtime is not None}
    containers = set(_containers(model))
    report = accelerate(model, **options)
    try:
        yield report
    finally:
        added = [module for module in model.modules() if is_accelerated(module) and module not in before]
        _drop_pending(added)
        restore_attributes(module for module in model.modules() if module not in containers)
        for module in added:
            _swap_back(module)
        for runtime, state in saved.items():
            runtime.rewind(state)


def is_accelerated(module: nn.Module) -> bool:
    """Whether this very module is swapped (its children are not asked)."""
    return upstream_of(module) is not None


def upstream_of(module: nn.Module) -> type[nn.Module] | None:
    """The class that a swapped module had before; None for a stock one."""
    upstream: type[nn.Module] | None = getattr(type(module), "upstream", None)
    return upstream if upstream is not None and isinstance(module, upstream) else None


def _containers(model: nn.Module) -> list[nn.Module]:
    """The modules that have swapped ones as attributes, which a loop over time asks for at every step."""
    return [module for module in model.modules() if any(map(is_accelerated, module.children()))]


def _plan(model: nn.Module) -> list[_Plan]:
    plans: dict[int, _Plan] = {}
    contains_neuron = False
    inside_neurons: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        plan = plans.get(id(module))
        if plan is not None:
            plan.names.append(name)
            continue
        decision = examine(module)
        if decision is not None:
            inside_neurons.append(f"{name}." if name else "")
            plans[id(module)] = _Plan(module, [name], decision)
            contains_neuron = contains_neuron or isinstance(decision, adapters.Claim)
            continue
        # A Linear inside a neuron (RLeaky's recurrence) is part of it and is never fed by steps of its own.
        feed = None if name.startswith(tuple(inside_neurons)) else feeds.examine(module)
        if feed is not None:
            decision = adapters.Stock(feed) if isinstance(feed, str) else adapters.Claim(feed, "feed")
            plans[id(module)] = _Plan(module, [name], decision, feed=True)
    return [plan for plan in plans.values() if contains_neuron or not plan.feed]


def examine(module: nn.Module) -> adapters.Claim | adapters.Stock | None:
    """What the installed adapters say about this very module; None if it is not a neuron."""
    for adapter in adapters.adapters():
        decision = adapter.examine(module)
        if decision is not None:
            return decision
    return None


def _refuse_stock(plans: list[_Plan]) -> None:
    refused = [(plan.names[0], plan) for plan in plans if not plan.swapped]
    if refused:
        name, plan = refused[0]
        assert isinstance(plan.decision, adapters.Stock)
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise UnsupportedLayerError(
            f"strict=True: layer {name!r} ({type(plan.module).__name__}) would stay stock{more}: "
            f"{plan.decision.reason}"
        )


def _apply(plans: list[_Plan], options: Options) -> list[LayerReport]:
    before = [(plan.module, type(plan.module), plan.module.__dict__.get(RUNTIME)) for plan in plans]
    saved = [(runtime, runtime.snapshot()) for _, _, runtime in before if runtime is not None]
    try:
        return _swap_all(plans, options)
    except BaseException:
        for module, upstream, runtime in before:
            module.__class__ = upstream
            module.__dict__.pop(RUNTIME, None)
            if runtime is not None:
                module.__dict__[RUNTIME] = runtime
        for runtime, state in saved:
            runtime.rewind(state)
        raise


def _swap_all(plans: list[_Plan], options: Options) -> list[LayerReport]:
    layers = []
    index = 0
    for plan in plans:
        module, decision = plan.module, plan.decision
        kind = (upstream_of(module) or type(module)).__name__
        row = LayerReport(plan.names[0], kind, "stock", feed=plan.feed, aliases=tuple(plan.names[1:]))
        layers.append(row)
        if isinstance(decision, adapters.Stock):
            row.reason = decision.reason
            if is_accelerated(module):
                _swap_back(module)
            continue
        row.path, row.neuron = "accelerated", decision.neuron
        if not plan.feed:
            row.surrogate = "" if decision.surrogate is None else str(decision.surrogate)
            runtime = module.__dict__.get(RUNTIME)
            if runtime is None:
                runtime = module.__dict__[RUNTIME] = LayerRuntime(plan.names[0], index, options)
            runtime.configure(plan.names[0], index, options)
            row.runtime = runtime
            index += 1
        module.__class__ = decision.accelerated
    return layers


def _swap_back(module: nn.Module) -> None:
    upstream = upstream_of(module)
    assert upstream is not None
    module.__dict__.pop(RUNTIME, None)
    module.__class__ = upstream


def _drop_pending(modules: Any) -> None:
    """Compute what was recorded and leave ordinary tensors behind in the modules' attributes."""
    modules = list(modules)
    for module in modules:
        settle = getattr(module, "settle", None)
        if settle is not None and is_accelerated(module):
            settle()
    flush()
    reset_backoff()
    for module in modules:
        buffers = module._buffers
        for name, value in buffers.items():
            if isinstance(value, Tensor):
                buffers[name] = resolve_all(value)
        held = module.__dict__
        for name in [
            name
            for name, value in held.items()
            if type(value) is not torch.Tensor and isinstance(value, Tensor)
        ]:
            held[name] = resolve_all(held[name])
