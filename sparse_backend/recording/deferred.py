"""The deferred tensor: it knows its shape, dtype and device, and who will produce it.

It is a view of a single NaN, so that code which reads its memory behind every hook sees NaN rather than a stranger's data.
What a use of it means is decided in `uses.py`; this file holds the class alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..torch_private import invisible_to_dynamo, wrap

if TYPE_CHECKING:
    from .stream import Stream

__all__ = ["Deferred", "blank", "is_deferred", "make", "shape_of"]

Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class Deferred(Tensor):
    """One step (`_step`) of one slot (`_slot`: 0 output, 1 and 2 states) of a stream (`_source`).

    `_real`: the tensor, once it exists; `_source` is None then.  `_cut`: detached from the graph.  `_of`: the deferred
    tensor of which this one is a view or a detached alias, and `_remake` what makes it from that one.
    """

    _source: Stream | None
    _step: int
    _slot: int
    _real: Tensor | None = None
    _cut: bool = False
    _exact: bool = False
    _of: Deferred | None = None
    _remake: Callable[[Tensor], Tensor] | None = None

    torch_function: Handler
    torch_dispatch: Handler

    @classmethod
    @invisible_to_dynamo
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return Deferred.torch_function(func, args, kwargs or {})

    @classmethod
    @invisible_to_dynamo
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return Deferred.torch_dispatch(func, args, kwargs or {})


def make(blank: Tensor, source: Stream, step: int, slot: int) -> Deferred:
    deferred: Deferred = wrap(Deferred, blank)
    deferred._source = source
    deferred._step = step
    deferred._slot = slot
    return deferred


def blank(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What deferred tensors of this kind are views of."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.full((), float("nan"), dtype=dtype, device=device).expand(shape)


def is_deferred(value: object) -> bool:
    """Whether `value` is a recorded tensor that may not have been computed yet."""
    return type(value) is Deferred


def shape_of(tensor: Tensor) -> torch.Size:
    """`tensor.shape`, without the microsecond that `__torch_function__` takes for a deferred tensor."""
    if type(tensor) is Deferred and tensor._source is not None:
        return tensor._source.shapes[tensor._slot]
    return tensor.shape
