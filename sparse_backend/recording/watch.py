"""What a module's call depends on beside its input, in a form that is quick to compare at every step."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from .capture import Capture

__all__ = ["ABSENT", "Watch", "watch_feed", "watch_neuron"]

ABSENT = object()
"""The value of an attribute that a module does not have."""
_PARAMETERS, _BUFFERS = "_parameters", "_buffers"
_OVERRIDES = ("forward", "_compiled_call_impl")
"""Attributes by which an instance would replace its class's `forward`."""


class Watch:
    """A module when a stream began: while all of this is the same object, its calls compute the same.

    attributes: (name, position, value, ...) in the module's `__dict__`; the position among the names is where
    to look first.
    tensors: (holder, name, position, tensor, place, requires_grad, ...); holder is "_parameters", "_buffers"
    or None for a tensor that an attribute holds, and a tensor may be None.
    """

    __slots__ = ("attributes", "tensors")

    def __init__(self, attributes: tuple[Any, ...], tensors: tuple[Any, ...]) -> None:
        self.attributes, self.tensors = attributes, tensors


def watch_feed(weight: Capture, bias: Capture | None) -> Watch | None:
    """What a Linear depends on. None where an object's identity tells too little."""
    tensors: list[Any] = []
    for position, (name, captured) in enumerate((("weight", weight), ("bias", bias))):
        if captured is None:
            tensors += (_PARAMETERS, name, position, None, None, None)
        elif captured.moves_when_written:
            tensors += (_PARAMETERS, name, position, *_state(captured))
        else:
            return None
    return Watch(_absent(_OVERRIDES), tuple(tensors))


def watch_neuron(
    module: nn.Module, names: Collection[str], absent: Iterable[str], captures: Iterable[Capture]
) -> Watch | None:
    """What a neuron depends on: attributes by name, and tensors wherever the module holds them."""
    held = vars(module)
    attributes: list[Any] = []
    for position, (name, value) in enumerate(held.items()):
        if name in names:
            attributes += (name, position, value)
    tensors: list[Any] = []
    for captured in captures:
        if not captured.moves_when_written:
            return None
        places: list[tuple[str | None, str | None, int]] = [
            (holder, name, position)
            for holder in (_PARAMETERS, _BUFFERS)
            for position, (name, value) in enumerate(held[holder].items())
            if value is captured.tensor
        ]
        for place in places or [(None, None, 0)]:
            tensors += (*place, *_state(captured))
    missing = (name for name in names if name not in held)
    return Watch((*attributes, *_absent((*missing, *absent, *_OVERRIDES))), tuple(tensors))


def _state(captured: Capture) -> tuple[Any, ...]:
    return captured.tensor, captured.place, captured.requires_grad


def _absent(names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(part for name in names for part in (name, 0, ABSENT))
