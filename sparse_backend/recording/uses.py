"""What a use of a deferred tensor means: answered, recorded, or computed. Given to `Deferred` on import."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import DeferredEscapeError
from ..torch_private import writes
from .deferred import Deferred, escapes
from .materialise import executed, resolve, resolve_all
from .metadata import ANSWERS
from .record_operation import record_operation
from .segment import locate
from .sequences import cat, stack
from .sum_stream import SumStream
from .sums import ADDITIONS, added
from .views import SCALINGS, VIEWS, detached, scaled

__all__: list[str] = []

_T: Any = torch.Tensor


def _torch_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    first = args[0] if args else None
    writes_to_first = ADDITIONS.get(func)
    if writes_to_first is not None and len(args) == 2 and not kwargs:
        total = added(first, args[1], writes_to_first)
        if total is not None:
            return total
    if type(first) is Deferred:
        if first._real is None and locate(first) is not None:
            answer = ANSWERS.get(func)
            if answer is not None:
                return answer(first, args[1:], kwargs)
            view = VIEWS.get(func)
            if view is not None:
                recorded = view(first, args[1:], kwargs)
                if recorded is not None:
                    return recorded
            scaling = SCALINGS.get(func)
            if scaling is not None and not kwargs:
                recorded = scaled(scaling, first, args[1:])
                if recorded is not None:
                    return recorded
            special = _SPECIAL.get(func)
            if special is not None:
                return special(func, first, args, kwargs)
        elif len(args) == 1 and func in ANSWERS and first._real is not None:
            # What `reset_mem` asks of the last sequence's state, at the beginning of each.
            return func(first._real, **kwargs)
        elif func in _LINKS and not _exact(first):
            return _link_of_computed(func, first, args, kwargs)
    elif isinstance(first, (list, tuple)) and func in _SEQUENCES and "out" not in kwargs:
        return _sequence(func, args, kwargs)
    operation = record_operation(func, args, kwargs)
    if operation is not None:
        return operation
    if func is torch.autograd.grad:
        return _autograd_grad(args, kwargs)
    return _compute(func, first, args, kwargs)


def _compute(func: Any, first: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function on real tensors."""
    reason = f"used by {getattr(func, '__qualname__', None) or getattr(func, '__name__', func)}"
    result = func(*resolve_all(args, reason), **resolve_all(kwargs, reason))
    if type(first) is Deferred and result is first._real:
        return first
    return result


def _sequence(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if set(kwargs) - {"dim", "axis"} or len(args) + len(kwargs) > 2:
        return _compute(func, None, args, kwargs)
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    return _SEQUENCES[func](args[0], dim)


def _detach(func: Any, tensor: Deferred, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    if isinstance(tensor._source, SumStream):
        return _compute(func, tensor, args, kwargs)  # an alias must see what is added later
    return detached(tensor)


def _dropout(func: Any, tensor: Deferred, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Without effect it returns its argument itself."""
    p, training = (kwargs.get(name, default) for name, default in (("p", 0.5), ("training", True)))
    if len(args) == 1 and 0 <= p <= 1 and (not training or p == 0):
        return tensor
    return _compute(func, tensor, args, kwargs)


def _detach_in_place(func: Any, tensor: Deferred, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    if tensor._of is not None:
        return _compute(func, tensor, args, kwargs)
    tensor._cut = True
    return tensor


def _link(func: Any, tensor: Deferred, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A hook on a tensor that is not computed yet: execute step by step, which makes it a link."""
    executed(tensor, f"used by {func.__name__}", stepwise=True)
    if tensor._source is not None and not _exact(tensor):
        return _link_of_computed(func, tensor, args, kwargs)
    return _compute(func, tensor, args, kwargs)


def _exact(tensor: Deferred) -> bool:
    """Whether the real tensor is what later steps were computed from."""
    return tensor._exact or (
        tensor._source is not None and tensor._source.result is not None and tensor._source.result.exact_links
    )


def _link_of_computed(func: Any, tensor: Deferred, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not resolve(tensor).requires_grad:
        return _compute(func, tensor, args, kwargs)
    raise DeferredEscapeError(
        f"{getattr(func, '__name__', func)} on a recorded tensor whose sequence has been executed: the "
        "gradient that arrives here would be only a part of it. Call it before anything reads a value of "
        "this loop, or run the loop with the stock model (sparse_backend.restore)."
    )


def _autograd_grad(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
    for tensor in (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ()):
        if type(tensor) is Deferred and not _exact(tensor):
            if tensor._real is None and locate(tensor) is not None:
                executed(tensor, "used by torch.autograd.grad", stepwise=True)
            if not _exact(tensor):
                _link_of_computed(torch.autograd.grad, tensor, args, kwargs)
    return _compute(torch.autograd.grad, None, args, kwargs)


def _torch_dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that `__torch_function__` never saw, below autograd.

    The value is right; its place in the graph is that of `deferred._Link`, which refuses a gradient.
    """
    name = str(func)
    if writes(func):
        raise DeferredEscapeError(
            f"{name} writes to a recorded tensor by a way that passes by __torch_function__. Hand over the "
            "computed tensor: sparse_backend.recording.resolve(x), or x.clone()."
        )
    escapes.append(name)
    reason = f"used by {name}, below autograd"
    return func(*_resolve_below(args, reason), **_resolve_below(kwargs, reason))


def _resolve_below(tree: Any, reason: str) -> Any:
    if type(tree) is Deferred:
        return resolve(tree, reason).detach()
    if isinstance(tree, dict):
        return {key: _resolve_below(value, reason) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_resolve_below(value, reason) for value in tree)
    return tree


_SEQUENCES = {torch.stack: stack, torch.cat: cat, torch.concat: cat, torch.concatenate: cat}
_LINKS = {_T.register_hook, _T.retain_grad}
_SPECIAL: dict[Any, Any] = {
    _T.detach: _detach,
    torch.detach: _detach,
    _T.data.__get__: _detach,
    _T.detach_: _detach_in_place,
    torch.detach_: _detach_in_place,
    **dict.fromkeys(_LINKS, _link),
    torch.nn.functional.dropout: _dropout,
}
Deferred.torch_function = staticmethod(_torch_function)
Deferred.torch_dispatch = staticmethod(_torch_dispatch)
