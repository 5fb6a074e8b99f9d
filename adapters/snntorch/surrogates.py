"""Which surrogate gradient a `spike_grad` is: snnTorch's factories return closures, read from the outside."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from snntorch import surrogate as upstream

from sparse_backend.neurons import Surrogate, surrogates

__all__ = ["numbers_of", "recognise"]

# factory name -> (names of the numbers its closure holds, in the order ours takes them; ours)
_FACTORIES: dict[str, tuple[tuple[str, ...], Callable[..., Surrogate]]] = {
    "atan": (("alpha",), surrogates.atan),
    "fast_sigmoid": (("slope",), surrogates.fast_sigmoid),
    "sigmoid": (("slope",), surrogates.sigmoid),
    "triangular": (("threshold",), surrogates.triangular),
    "straight_through_estimator": ((), surrogates.straight_through),
    "SFS": (("slope", "B"), surrogates.sfs),
}


def recognise(spike_grad: object) -> Surrogate | str:
    """The surrogate that `spike_grad` computes, or the reason why it is not one that is known.

    A `Surrogate` of this package is taken as it is; a closure of `snntorch.surrogate` is recognised by its
    qualified name and defining module, and its parameters are read from its cells at the time of the call.
    """
    if isinstance(spike_grad, Surrogate):
        return spike_grad
    name = getattr(spike_grad, "__qualname__", type(spike_grad).__qualname__)
    if not isinstance(spike_grad, FunctionType) or spike_grad.__module__ != upstream.__name__:
        return f"surrogate {name} is not one of snntorch.surrogate"
    factory = name.partition(".")[0]
    if factory not in _FACTORIES:
        return f"surrogate snntorch.surrogate.{factory} has no sparse form yet"
    names, build = _FACTORIES[factory]
    held = _closure(spike_grad)
    try:
        numbers = [_number(held[key]) for key in names]
    except (KeyError, ValueError, TypeError):
        return f"surrogate snntorch.surrogate.{factory} does not hold plain numbers {', '.join(names)}"
    return build(*numbers)


def numbers_of(spike_grad: Any) -> tuple[float, ...] | None:
    """What `recognise` reads from a surrogate and could change; None where it is more than plain numbers."""
    if isinstance(spike_grad, Surrogate):
        return ()
    held = tuple(cell.cell_contents for cell in getattr(spike_grad, "__closure__", None) or ())
    return held if all(type(value) in (int, float) for value in held) else None


def _closure(function: FunctionType) -> dict[str, Any]:
    cells = function.__closure__ or ()
    return {name: cell.cell_contents for name, cell in zip(function.__code__.co_freevars, cells, strict=True)}


def _number(value: Any) -> float:
    # A tensor parameter may be trained or hold one value per neuron; only a plain number is the same at every
    # step.
    if isinstance(value, torch.Tensor) and (value.requires_grad or value.numel() != 1):
        raise ValueError("not a plain number")
    return float(value)
