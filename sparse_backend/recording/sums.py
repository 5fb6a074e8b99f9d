"""Running sums of a stream's steps (`count = count + spk`, `count += spk`) are recorded too."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..torch_private import become, modes_matter
from .capture import Capture, recordable
from .deferred import Deferred
from .materialise import resolve
from .neuron_stream import NeuronStream
from .segment import current, locate, same_modes
from .stream import Stream
from .sum_stream import SumStream

__all__ = ["ADDITIONS", "added"]


def added(a: Any, b: Any, in_place: bool) -> Tensor | None:
    """a + b, recorded as the next step of a running sum or the first of a new one; None if it is neither.

    in_place: `a` becomes the sum, for all that hold it.
    """
    for total, term in ((a, b),) if in_place else ((a, b), (b, a)):
        source = _pending(term)
        if source is None or isinstance(source, SumStream):
            continue
        segment = source.segment
        if segment is None or segment is not current() or not same_modes(segment) or modes_matter():
            return None
        with segment.lock:
            if segment.closed:
                return None
            sums = _pending(total)
            if isinstance(sums, SumStream):
                return _next(sums, total, term, in_place)
            if sums is None:
                return _first_in_place(source, total, term) if in_place else _first(source, total, term)
    return None


def _pending(value: Any) -> Stream | None:
    """The stream of a recorded tensor that is not computed yet."""
    stream = locate(value) if type(value) is Deferred else None
    return None if stream is None or stream.segment is None else stream


def _next(sums: SumStream, total: Deferred, term: Deferred, in_place: bool) -> Deferred | None:
    if total._cut or total._step != sums.count - 1 or term._step != sums.count:
        return None
    if (term._source, term._slot, term._cut) != sums.source:
        return None
    if not in_place:
        return sums.advance()
    if total is not sums.wrappers[0].newer:
        return None
    # Whoever holds the tensor sees it change, as in stock.
    total._step = sums.count
    sums.count += 1
    return total


def _first(source: Stream, start: Any, term: Deferred) -> Deferred | None:
    sums = _begin(source, start, term)
    if sums is None:
        return None
    _add(sums)
    return sums.advance()


def _first_in_place(source: Stream, start: Any, term: Deferred) -> Tensor | None:
    if type(start) is not Tensor or start.requires_grad or not start.dim():
        return None
    sums = _begin(source, start, term)
    if sums is None:
        return None
    # The capture's alias would count as somebody who sees the memory.
    sums.start = 0.0
    other = sums.advance()
    if not become(start, other):
        return None
    # Now `start` is the deferred tensor, and `other` the one with the numbers.
    sums.start, sums.wrappers[0].newer = Capture(other), cast(Deferred, start)
    _add(sums)
    return start


def _begin(source: Stream, start: Any, term: Deferred) -> SumStream | None:
    """A running sum from the first step of `source` on, not yet part of the segment."""
    segment, slot = source.segment, term._slot
    assert segment is not None
    if source.whole or term._step or slot > 1:
        return None
    requires_grad = source.requires_grad and not term._cut
    if isinstance(start, Tensor):
        start = resolve(start)
        if (
            not recordable(start)
            or start.is_inference() is not segment.inference
            or (start.dim() and start.shape != source.shapes[slot])
            or (start.dtype, start.device) != (source.dtypes[slot], source.device)
        ):
            return None
        requires_grad = requires_grad or (segment.grad and start.requires_grad)
        start = Capture(start)
    elif type(start) not in (int, float):
        return None
    return SumStream(segment, (source, slot, term._cut), start, requires_grad)


def _add(sums: SumStream) -> None:
    source = sums.parent
    assert sums.segment is not None and source is not None
    sums.segment.add(sums)
    if isinstance(source, NeuronStream) and sums.source[1] == 0:  # type: ignore[index]
        source.want_dense = True


ADDITIONS: dict[Any, bool] = {
    torch.Tensor.add: False,
    torch.Tensor.__add__: False,
    torch.Tensor.__radd__: False,
    torch.add: False,
    torch.Tensor.add_: True,
    torch.Tensor.__iadd__: True,
}
"""Function -> whether it writes to its first argument."""
