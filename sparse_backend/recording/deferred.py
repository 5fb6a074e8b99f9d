"""The deferred tensor: it knows its shape, dtype and device, and who will produce it.

It is a view of a single NaN, so that code which reads its memory behind every hook sees NaN rather than a
stranger's data, and C++ sees it descend from a node that refuses gradients, so that none is lost behind
every hook either. What a use of it means is decided in `uses.py`; this file holds the class alone.
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..errors import DeferredEscapeError
from ..torch_private import invisible_to_dynamo, wrap

if TYPE_CHECKING:
    from .stream import Stream

__all__ = [
    "Blank",
    "Deferred",
    "blank",
    "drop_spares",
    "escapes",
    "is_deferred",
    "make",
    "make_cut",
    "shape_of",
]

as_subclass = torch.Tensor.as_subclass

Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class Deferred(Tensor):
    """One step (`_step`) of one slot (`_slot`: 0 output, 1 and 2 states) of a stream (`_source`).

    `_real`: the tensor, once it exists; `_source` is None then.  `_cut`: detached from the graph.  `_of`:
    the deferred tensor of which this one is a view or a detached alias, and `_remake` what makes it from
    that one.  `_before`: the state before it, as far as anybody holds that.  `_origin`: of a final state that
    has become real, the stream that it came from.
    """

    _source: Stream | None
    _step: int
    _slot: int
    _real: Tensor | None = None
    _cut: bool = False
    _exact: bool = False
    _of: Deferred | None = None
    _remake: Callable[[Tensor], Tensor] | None = None
    _before: weakref.ref[Deferred] | None = None
    _origin: weakref.ref[Stream] | None = None

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

    def as_subclass(self, cls: type[Tensor]) -> Any:
        """Not seen by `__torch_function__`."""
        from .materialise import resolve

        return resolve(self).as_subclass(cls)


class _Link(torch.autograd.Function):
    """What every deferred tensor with a gradient descends from, as far as C++ can see.

    Python code that uses one gets the real tensor instead. Code that neither `__torch_function__` nor the
    patch of `Function.apply` sees (TorchScript, a C++ extension, functorch) gets a result that descends from
    here: the gradient cannot be passed on, and must not be lost.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, nan: Tensor) -> Tensor:
        return nan.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise DeferredEscapeError(
            "a gradient arrived at a recorded tensor by a way that passes by __torch_function__ "
            f"({', '.join(escapes) or 'a C-level Function.apply'}). Hand the computed tensor to that code: "
            "sparse_backend.recording.resolve(x), or x.clone()."
        )


escapes: deque[str] = deque(maxlen=8)
"""The latest operations that received a deferred tensor in `__torch_dispatch__`."""


class Blank(NamedTuple):
    """What deferred tensors of one kind are views of, and those put aside for the next step that needs one.

    The latter belong to the native recorder alone (src_cuda/recording/spares.hpp).
    """

    tensor: Tensor
    spares: list[Deferred]


def make(blank: Blank, source: Stream, step: int, slot: int) -> Deferred:
    """A step of a stream, under the modes of its recording; `blank` is one of the stream's own."""
    nan = blank.tensor
    deferred: Deferred = as_subclass(nan, Deferred) if source.requires_grad else wrap(Deferred, nan)
    deferred._source = source
    deferred._step = step
    deferred._slot = slot
    return deferred


def make_cut(blank: Blank, source: Stream, step: int, slot: int) -> Deferred:
    """The same, detached from the graph."""
    deferred: Deferred = wrap(Deferred, blank.tensor)
    deferred._source = source
    deferred._step = step
    deferred._slot = slot
    deferred._cut = True
    return deferred


def _nan(dtype: torch.dtype, device: torch.device, linked: bool) -> Tensor:
    with torch.inference_mode(False), torch.set_grad_enabled(linked):
        nan = torch.full((), float("nan"), dtype=dtype, device=device)
        return _Link.apply(torch.zeros((), requires_grad=True), nan) if linked else nan


@functools.lru_cache(maxsize=32)  # each keeps spares: see spares.cpp
def blank(
    shape: torch.Size, dtype: torch.dtype, device: torch.device, requires_grad: bool, inference: bool
) -> Blank:
    """That of this kind; `inference` is the mode under which deferred tensors are made."""
    with torch.inference_mode(False), torch.set_grad_enabled(requires_grad):
        return Blank(_nan(dtype, device, requires_grad).expand(shape), [])


def drop_spares() -> None:
    """Let go of all that were put aside."""
    blank.cache_clear()


def is_deferred(value: object) -> bool:
    """Whether `value` is a recorded tensor that may not have been computed yet."""
    return type(value) is Deferred


def shape_of(tensor: Tensor) -> torch.Size:
    """`tensor.shape`, without the microsecond that `__torch_function__` takes for a deferred tensor."""
    if type(tensor) is Deferred and tensor._source is not None:
        return tensor._source.shapes[tensor._slot]
    return tensor.shape
