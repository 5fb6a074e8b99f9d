"""What an adapter is: it reads upstream neuron modules and says which accelerated class can stand in for
each.

A neuron library is supported by an object with a `name` and an `examine(module)` method (`Adapter`),
registered under the entry-point group `sparse_backend.adapters`; those for snnTorch and Norse are built in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparse_backend.errors import ArgumentError
from sparse_backend.neurons import Neuron, Surrogate
from sparse_backend.ops.sequence import GradientRule, LayerOutput
from sparse_backend.runtime import RUNTIME, LayerRuntime

__all__ = [
    "Adapter",
    "Claim",
    "DirectCall",
    "NeuronLayer",
    "Stock",
    "check_threshold",
    "instance_reason",
    "per_neuron",
    "scalar",
    "version",
]


@dataclass(frozen=True)
class Claim:
    """A module that can be accelerated.

    accelerated: the stateless subclass of the module's class that takes its place; its class attribute
        `upstream` is the class to go back to.
    neuron: what the neuron is, in words.  surrogate: its surrogate derivative, None if it does not fire.
    """

    accelerated: type[nn.Module]
    neuron: str
    surrogate: Surrogate | None = None


@dataclass(frozen=True)
class Stock:
    """A neuron module of this library that has to run upstream's own code, and why."""

    reason: str


@runtime_checkable
class Adapter(Protocol):
    """Reads the modules of one neuron library."""

    name: str

    def examine(self, module: nn.Module) -> Claim | Stock | None:
        """What to do with the module, stock or accelerated; None if it is not a neuron of this library."""


class DirectCall(nn.Module):
    """Mixed in by a class whose `__call__` takes up ordinary steps without going by `forward`.

    A subclass with a `forward` of its own has nn.Module's `__call__` again.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "forward" in vars(cls) and "__call__" not in vars(cls):
            cls.__call__ = _module_call  # type: ignore[method-assign]


def _module_call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return nn.Module.__call__(self, *args, **kwargs)


class NeuronLayer(ABC):
    """What recording asks about a neuron module while its steps are recorded and when they run.

    One object serves every module of a class: it is stateless, and what belongs to a module lies in its
    `LayerRuntime`.
    """

    output_is_membrane = False
    attributes: tuple[str, ...] | None = None
    absent: tuple[str, ...] = ()

    @abstractmethod
    def neuron(self, module: nn.Module, like: Tensor, shape: torch.Size) -> Neuron | None:
        """The module as data, differentiable; None to run upstream's code.

        like: 0-dim, in the dtype and on the device of the computation.  shape: of the neurons, without a
        batch axis.
        """

    @abstractmethod
    def parameters(self, module: nn.Module) -> tuple[Tensor, ...]:
        """The tensors that `neuron` reads."""

    def fingerprint(self, module: nn.Module) -> tuple[Any, ...]:
        """Everything else that decides what the module computes, as its forward saw it."""
        return module.__dict__[RUNTIME].fingerprint

    def memory(self, module: nn.Module) -> dict[Any, Any] | None:
        """Where recording may keep what `neuron` found until the next sequence: nowhere, unless a subclass
        knows that `fingerprint` and `parameters` decide it."""
        return None

    def output_dtype(self, module: nn.Module, dtype: torch.dtype) -> torch.dtype:
        """dtype of the output for an input current of `dtype`."""
        return dtype

    def rule(self, module: nn.Module, neuron: Neuron, grad_enabled: bool) -> GradientRule:
        """How the surrogate is used in the run that is about to start."""
        runtime: LayerRuntime = module.__dict__[RUNTIME]
        return runtime.rule(neuron) if grad_enabled else GradientRule("none")

    def observe(self, module: nn.Module, output: LayerOutput) -> bool:
        """Learn from a run; True asks for it to be repeated with a new rule."""
        runtime: LayerRuntime = module.__dict__[RUNTIME]
        spikes, membrane = output.spikes, output.membrane
        if spikes is not None:
            steps, entries = spikes.steps, spikes.steps * spikes.batch * spikes.width
        else:
            steps, entries = (membrane.shape[0], membrane.numel()) if membrane is not None else (0, 0)
        return runtime.observe(output, steps, entries)


def version(tensor: Tensor) -> int:
    """How often the tensor was written to in place; -1 for inference tensors, which do not count."""
    try:
        return tensor._version
    except RuntimeError:
        return -1


def check_threshold(name: str, value: Tensor, *, positive: bool) -> None:
    """Raise ArgumentError where a threshold is not finite or, if `positive` is asked for, negative."""
    if value.device.type == "meta":
        return
    held = value.detach()
    bad = ~torch.isfinite(held) if not positive else ~(torch.isfinite(held) & (held >= 0))
    if bool(bad.any()):
        shown = held[bad].flatten()[0].item() if held.dim() else held.item()
        rule = "finite and not negative" if positive else "finite"
        raise ArgumentError(f"threshold={shown!r} of layer {name!r} must be {rule}")


def instance_reason(module: nn.Module, supported: Iterable[type[nn.Module]]) -> str | None:
    """Why this object cannot be swapped although a class of its bases could: it is a subclass, or patched."""
    upstream = next((cls for cls in supported if isinstance(module, cls)), None)
    if upstream is None:
        return None
    if type(module) is not upstream:
        return f"{type(module).__name__} is a subclass of {upstream.__name__} and may change what it computes"
    if "forward" in vars(module):
        return "its forward method was replaced on the instance"
    return None


def scalar(value: Any, like: Tensor) -> Tensor:
    """A number or one-element tensor as a differentiable 0-dim tensor in the dtype and device of `like`."""
    if isinstance(value, Tensor):
        flat = value if value.dim() == 0 else value.reshape(())
        return flat if flat.dtype == like.dtype and flat.device == like.device else flat.to(like)
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def per_neuron(name: str, value: Any, like: Tensor, shape: torch.Size) -> Tensor:
    """A coefficient as a scalar or as one value per neuron `[N]`, N = the product of `shape` (neurons without
    batch).

    Whatever broadcasts against `[B, *shape]` in stock without depending on the batch is accepted.
    Raises: ArgumentError where it depends on the batch or does not broadcast.
    """
    if not isinstance(value, Tensor) or value.numel() == 1:
        return scalar(value, like)
    value = value.to(like) if value.dtype != like.dtype or value.device != like.device else value
    if value.shape == shape:
        return value.reshape(-1)
    trimmed = value[0] if value.dim() == len(shape) + 1 and value.shape[0] == 1 else value
    try:
        return trimmed.expand(shape).reshape(-1)
    except RuntimeError:
        raise ArgumentError(
            f"{name} has shape {tuple(value.shape)}; one value per neuron {tuple(shape)} is supported"
        ) from None
