"""The state before a recorded step, for attributes that upstream derives from it."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from .deferred import Deferred, make
from .neuron_stream import NeuronStream

__all__ = ["previous_state"]


def previous_state(state: Tensor) -> Tensor | None:
    """What entered the step that returned `state`; None if it was not recorded or has been executed."""
    if type(state) is not Deferred:
        return None
    stream, step, slot = state._source, state._step, state._slot
    if not isinstance(stream, NeuronStream) or stream.segment is None or slot < 1:
        return None
    if step:
        earlier = make(stream.blanks[slot], stream, step - 1, slot)
        stream.held[slot - 1][step - 1] = weakref.ref(earlier)
        return earlier
    if stream.initial is None:
        return torch.zeros(stream.shapes[slot], dtype=stream.dtypes[slot], device=stream.device)
    return stream.initial[slot - 1].value()
