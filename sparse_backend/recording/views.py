"""Changes of shape between layers are recorded too; so are `detach` and products with a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..ops.sequence import PackedSpikes
from ..torch_private import modes_matter
from .deferred import Deferred, make_cut
from .place import metadata, place_for
from .segment import current, locate
from .stream import MapStream
from .sum_stream import SumStream

__all__ = ["SCALINGS", "VIEWS", "detached", "scaled"]

Shape = tuple[int, ...]


def detached(tensor: Deferred) -> Deferred:
    """An alias that is not linked to the graph. As the next state it truncates the graph there."""
    stream = locate(tensor)
    assert stream is not None
    alias = make_cut(stream.blanks[tensor._slot], stream, tensor._step, tensor._slot)
    alias._of, alias._remake = tensor, torch.Tensor.detach
    return alias


def _mapped(
    tensor: Deferred,
    identity: object,
    target: torch.Size,
    apply: Callable[[Tensor], Tensor],
    apply_packed: Callable[[PackedSpikes], PackedSpikes] | None,
) -> Deferred | None:
    """A step-wise operation, recorded as a stream of its own; None if it has to be computed.

    identity: equal for equal operations.  apply, apply_packed: see MapResult.
    """
    source = locate(tensor)
    if source is None or source.segment is None or isinstance(source, SumStream) or modes_matter():
        return None
    segment = current()
    if segment is not source.segment or segment.grad is not torch.is_grad_enabled():
        return None
    place = place_for(identity, tensor, repeatable=True)
    if place is None or place.tensor is not tensor:
        return None
    stream = place.stream
    with place.segment.lock:
        if stream is None:
            parent = locate(tensor)
            assert parent is not None
            stream = MapStream(
                *(place.segment, (parent, tensor._slot, tensor._cut), identity, apply, apply_packed, target)
            )
            place.segment.add(stream)
        return stream.again(tensor._step) if stream.count == tensor._step + 1 else stream.advance()


def reshaped(tensor: Deferred, shape: Shape, remake: Callable[[Tensor], Tensor]) -> Deferred | None:
    """The tensor in another shape; None if it has to be computed."""
    source = locate(tensor)
    if source is None:
        return None
    old, target = source.shapes[tensor._slot], torch.Size(shape)
    lead = 2 if source.whole else 1
    keep = tensor._slot == 0 and target[:lead] == old[:lead]
    view = _mapped(
        *(tensor, ("reshape", target), target),
        *(lambda sequence: sequence.reshape(sequence.shape[0], *target), _same if keep else None),
    )
    if view is not None:
        view._of, view._remake = tensor, remake
    return view


def scaled(function: Callable[..., Tensor], tensor: Deferred, args: tuple[Any, ...]) -> Deferred | None:
    """The product with (quotient by) a Python number, the same at every step; None if it must be computed."""
    factor = args[0] if len(args) == 1 else None
    source = locate(tensor)
    if type(factor) not in (int, float) or source is None or tensor._slot > 1:
        return None
    identity = ("scaled", function, repr(factor))
    return _mapped(tensor, identity, source.shapes[tensor._slot], lambda x: function(x, factor), None)


def _same(packed: PackedSpikes) -> PackedSpikes:
    return packed


def _ints(args: tuple[Any, ...]) -> Shape | None:
    if len(args) == 1 and isinstance(args[0], (tuple, list, torch.Size)):
        args = tuple(args[0])
    return cast(Shape, args) if args and all(type(value) is int for value in args) else None


def _inferred(shape: Shape, numel: int) -> Shape | None:
    """The shape with its -1 filled in; None if it does not fit (torch then says so in its own words)."""
    if shape.count(-1) == 1:
        known = -math.prod(shape)
        if known <= 0 or numel % known:
            return None
        shape = tuple(numel // known if value == -1 else value for value in shape)
    return shape if math.prod(shape) == numel and min(shape, default=1) >= 0 else None


def _view(shape: torch.Size, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shape | None:
    wanted = _ints(args or tuple(kwargs.get("shape", kwargs.get("size", ()))))
    return None if wanted is None else _inferred(wanted, shape.numel())


def _flatten(shape: torch.Size, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shape | None:
    start = args[0] if args else kwargs.get("start_dim", 0)
    end = args[1] if len(args) > 1 else kwargs.get("end_dim", -1)
    rank = len(shape)
    if not (type(start) is int and type(end) is int and -rank <= start < rank and -rank <= end < rank):
        return None
    start, end = start % rank, end % rank
    return None if start > end else (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def _unsqueeze(shape: torch.Size, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shape | None:
    dim = args[0] if args else kwargs.get("dim")
    rank = len(shape) + 1
    if type(dim) is not int or not -rank <= dim < rank:
        return None
    dim %= rank
    return (*shape[:dim], 1, *shape[dim:])


def _squeeze(shape: torch.Size, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shape | None:
    dim = args[0] if args else kwargs.get("dim")
    if dim is None:
        return tuple(size for size in shape if size != 1)
    rank = len(shape)
    if type(dim) is not int or not -rank <= dim < rank:
        return None
    return (*shape[: dim % rank], *shape[dim % rank + 1 :]) if shape[dim] == 1 else tuple(shape)


def _handler(
    function: Callable[..., Any], target: Callable[..., Shape | None]
) -> Callable[..., Deferred | None]:
    def handle(tensor: Deferred, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Deferred | None:
        shape = target(metadata(tensor)[0], args, kwargs)
        if shape is None:
            return None
        return reshaped(tensor, shape, lambda real: function(real, *args, **kwargs))

    return handle


_T = torch.Tensor

SCALINGS: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((_T.mul, _T.__mul__, _T.__rmul__, torch.mul, torch.multiply, _T.multiply), torch.mul),
    **dict.fromkeys((_T.div, _T.__truediv__, torch.div, torch.divide, _T.divide), torch.div),
}
"""Function of a tensor and a number -> the same, tensor first."""

VIEWS: dict[Any, Callable[[Deferred, tuple[Any, ...], dict[str, Any]], Deferred | None]] = {
    function: _handler(function, target)
    for target, functions in (
        (_view, (_T.view, _T.reshape, torch.reshape)),
        (_flatten, (_T.flatten, torch.flatten)),
        (_unsqueeze, (_T.unsqueeze, torch.unsqueeze)),
        (_squeeze, (_T.squeeze, torch.squeeze)),
    )
    for function in functions
}
"""Function -> handler(tensor, other arguments, keyword arguments), None where it must be computed."""
