"""From a deferred tensor to the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import Tensor

from ..errors import RecordedStepError
from .deferred import Deferred
from .execute import execute, under_recorded_modes
from .neuron_stream import NeuronStream
from .segment import locate
from .stream import Stream

__all__ = ["executed", "resolve", "resolve_all"]

T = TypeVar("T")


def resolve(value: T, reason: str = "a recorded value was needed") -> T:
    """The real tensor behind a deferred one; anything else unchanged.

    Raises: RecordedStepError when computing it failed.
    """
    if type(value) is not Deferred:
        return value
    deferred = cast(Deferred, value)
    real = deferred._real
    return cast(T, _materialise(deferred, reason) if real is None else real)


def resolve_all(tree: Any, reason: str = "a recorded value was needed") -> Any:
    """`resolve` in lists, tuples (NamedTuples too) and dicts; a tree without deferred tensors is kept."""
    kind = type(tree)
    if kind is Deferred:
        return resolve(tree, reason)
    if kind is dict:
        return (
            {key: resolve_all(value, reason) for key, value in tree.items()}
            if _any_deferred(tree.values())
            else tree
        )
    if isinstance(tree, (list, tuple)) and _any_deferred(tree):
        values = [resolve_all(value, reason) for value in tree]
        return kind(*values) if hasattr(tree, "_fields") else kind(values)
    return tree


def _any_deferred(values: Any) -> bool:
    return any(
        type(value) is Deferred
        or (isinstance(value, (list, tuple)) and _any_deferred(value))
        or (type(value) is dict and _any_deferred(value.values()))
        for value in values
    )


def executed(deferred: Deferred, reason: str, stepwise: bool = False, dense: bool = True) -> Stream | None:
    """The stream behind `deferred` once it has a result; None if the tensor is real already.

    dense: the output will be read as a whole, so that it need not be rebuilt from its events.
    """
    stream = locate(deferred)
    if stream is None:
        return None
    segment = stream.segment
    if segment is not None:
        if dense and deferred._slot == 0 and isinstance(stream, NeuronStream):
            stream.want_dense = True
        execute(segment, reason, stepwise)
        # An execution that holds the lock in this very thread may have made it real meanwhile.
        stream = locate(deferred)
    if stream is not None and stream.result is None:
        raise RecordedStepError("a recorded value was read while it was being computed")
    return stream


def _materialise(deferred: Deferred, reason: str) -> Tensor:
    original, remake = deferred._of, deferred._remake
    if original is not None and remake is not None:
        base = resolve(original, reason)
        make: Callable[[], Tensor] = lambda: remake(base)  # noqa: E731
        stream = deferred._source
    else:
        stream = executed(deferred, reason)
        if stream is None:
            assert deferred._real is not None
            return deferred._real
        result, slot, step = stream.result, deferred._slot, deferred._step
        assert result is not None
        make = lambda: result.step(slot, step)  # noqa: E731
    assert stream is not None
    real = under_recorded_modes(stream.grad, stream.inference, make)
    if deferred._cut and original is None:
        real = real.detach()
    deferred._real = real
    deferred._before = None if original is None else original._before
    deferred._exact = original is None and stream.result is not None and stream.result.exact_links
    deferred._source = None
    deferred._of = deferred._remake = None
    return real
