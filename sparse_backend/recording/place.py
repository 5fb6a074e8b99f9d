"""Where a recorded call belongs: which segment, which stream, which step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..torch_private import patch_function_apply
from . import backoff
from .capture import Inputs, recordable
from .deferred import Deferred
from .execute import execute
from .materialise import resolve
from .segment import Segment, current, locate, same_modes, start
from .stream import Stream, source_key

__all__ = ["Place", "metadata", "open_segment", "place_for", "place_on_deferred", "restart"]


class Place(NamedTuple):
    """Where a call belongs: the stream it continues (None: a new one), and the input of that step.

    tensor: the input, real or an open step of `segment`.
    """

    segment: Segment
    tensor: Tensor
    stream: Stream | None


def open_segment() -> Segment | None:
    """The open segment, if it was begun under the present modes; else a new one, unless recording pauses."""
    segment = current()
    grad = torch.is_grad_enabled()
    if segment is not None:
        if same_modes(segment):
            return segment
        execute(segment, "the gradient mode changed")
    if backoff.pausing(grad):
        return None
    patch_function_apply(resolve)
    return start(Segment())


def place_for(
    identity: object, tensor: Tensor, repeatable: bool = False, sparse: bool = False
) -> Place | None:
    """The place of a call on `tensor` by the module or operation `identity`; None if it cannot be recorded.

    repeatable: a stateless call, of which a second one on the same step is no new step.  sparse: whether the
    input may be a sparse tensor.
    """
    if type(tensor) is Deferred:
        place = place_on_deferred(identity, tensor, repeatable)
        if place is not None:
            return place
        tensor = resolve(tensor, "a recorded value was used out of step")
    if not recordable(tensor, sparse):
        return None
    segment = open_segment()
    if segment is None or (tensor.is_inference() and not segment.inference):
        return None
    stream = segment.entries.get(identity)
    if stream is not None and not stream.whole:
        source = stream.source
        fits = isinstance(source, Inputs) and source.fits(tensor, segment.grad and tensor.requires_grad)
        if fits and stream.count < segment.limit:
            return Place(segment, tensor, stream)
        execute(
            segment, "the recording became long" if fits else "an input of another shape or kind was given"
        )
        segment = open_segment()
        if segment is None:
            return None
    return Place(segment, tensor, None)


def place_on_deferred(identity: object, tensor: Deferred, repeatable: bool = False) -> Place | None:
    """The same for a deferred tensor; None, with nothing computed, also where it is used out of step."""
    source = locate(tensor)
    if source is None or source.segment is None:
        return None
    segment = current()
    if source.segment is not segment or segment is None or open_segment() is not segment:
        return None
    stream = source.children.get(source_key(identity, tensor._slot, tensor._cut))
    step = tensor._step
    if stream is None:
        return Place(segment, tensor, None) if step == 0 else None
    if stream.count == step or (repeatable and stream.count == step + 1):
        return Place(segment, tensor, stream)
    if stream.count < step:
        fresh = carry_over(segment, tensor, "a module was not used at every step")
        if fresh is not None:
            return Place(fresh, tensor, None)
    return None


def carry_over(segment: Segment, tensor: Tensor, reason: str) -> Segment | None:
    """Execute a segment, but for the time step that `tensor` belongs to: that begins the segment returned.

    None if there is no such step, or it cannot be told apart; the segment has then been executed as it is.
    """
    with segment.lock:
        moving = None
        if type(tensor) is Deferred and locate(tensor) is not None and tensor._source.segment is segment:  # type: ignore[union-attr]
            moving = segment.unfinished_step(tensor)
        if not moving or backoff.pausing(segment.grad):
            execute(segment, reason)
            return None
        fresh, pairs = segment.carry_over(moving)
        execute(segment, reason)
    for old, new in pairs:
        new.continue_from(old)
    if type(tensor) is Deferred:
        locate(tensor)
    return start(fresh)


def restart(place: Place, reason: str) -> Place | None:
    """The place of a call that cannot continue its stream: the first step of a new one."""
    fresh = carry_over(place.segment, place.tensor, reason)
    tensor = place.tensor
    if fresh is not None:
        return Place(fresh, tensor, None)
    tensor = resolve(tensor)
    segment = open_segment()
    return None if segment is None or not recordable(tensor) else Place(segment, tensor, None)


def metadata(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    """Shape, dtype and device of a real or deferred tensor."""
    if type(tensor) is Deferred:
        stream = locate(tensor)
        if stream is not None:
            return stream.shapes[tensor._slot], stream.dtypes[tensor._slot], stream.device
    return tensor.shape, tensor.dtype, tensor.device
