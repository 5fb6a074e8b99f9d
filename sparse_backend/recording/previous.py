"""The state before a recorded step, for attributes that upstream derives from it."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from .deferred import Deferred, make
from .neuron_stream import NeuronStream

__all__ = ["is_pending", "previous_state"]


def is_pending(state: Tensor) -> bool:
    """Whether `state` is recorded and not computed yet."""
    return type(state) is Deferred and state._source is not None


def previous_state(state: Tensor) -> Tensor | None:
    """What entered the step that returned `state`; None if it was not recorded, or is gone."""
    if type(state) is not Deferred:
        return None
    stream, step, slot = state._source, state._step, state._slot
    if stream is None:
        return None if state._before is None else state._before()
    if not isinstance(stream, NeuronStream) or stream.segment is None or slot < 1:
        return None
    if step:
        wrappers = stream.wrappers[slot]
        earlier = wrappers.older
        if earlier is None or earlier._step != step - 1 or earlier._cut:
            earlier = make(stream.blanks[slot], stream, step - 1, slot)
            earlier._before = None  # one attribute more: made under the reader's modes, it is no spare
            wrappers.escaped.append(weakref.ref(earlier))
        return earlier
    if stream.initial is None:
        return torch.zeros(stream.shapes[slot], dtype=stream.dtypes[slot], device=stream.device)
    return stream.initial[slot - 1].value()
