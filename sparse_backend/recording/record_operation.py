"""Recording a call of an operation without a state (see operations.py)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..torch_private import has_global_hooks, modes_matter, must_run_now
from . import backoff
from .capture import Capture, Inputs
from .deferred import Deferred
from .materialise import resolve
from .neuron_stream import NeuronStream
from .operation_stream import Argument, OperationStream, Output, primary
from .operations import OPERATIONS, Call, Operand, can_wait
from .place import Place, metadata, place_for, place_on_deferred, restart
from .segment import Segment, current, locate, same_modes
from .stream import Stream, source_key
from .sum_stream import SumStream
from .sums import ADDITIONS

__all__ = ["record_module_call", "record_operation"]

Operation = tuple[tuple[object, ...], tuple[int, ...]]
"""What tells calls apart: function and constants; the parameters among the tensors."""

_CONSTANTS = (int, bool, type(None), str, torch.dtype)
_READ_EVENTS = (torch.conv1d, torch.conv2d)
"""Operations that may run from a neuron's events, so that it need not write its spikes densely."""
_KNOWN_OUTPUTS: dict[object, Output | None] = {}
_MOST_OUTPUTS = 4096


def record_module_call(module: nn.Module, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`function(*args)` as a module computes it from a real input; NotImplemented if it must run now.

    A recorded input needs no module: the call of the function finds it.
    """
    if current() is None and backoff.paused(torch.is_grad_enabled()):
        return NotImplemented
    if must_run_now(module) or has_global_hooks() or torch.compiler.is_compiling():
        return NotImplemented
    recorded = _record(function, args, {}, begins=True)
    return NotImplemented if recorded is None else recorded


def record_operation(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """A call with a deferred tensor among its arguments; None if it has to be computed."""
    return (
        None
        if function not in OPERATIONS or modes_matter()
        else _record(function, args, kwargs, begins=False)
    )


def _record(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], begins: bool
) -> Tensor | None:
    """begins: whether a call without any recorded tensor may be recorded."""
    if not can_wait(function, args, kwargs):
        return None
    described = _describe(function, args, kwargs)
    if described is None or not _together(described[1]):
        return None
    operation, tensors = described
    first = primary(tensors)
    if not begins and type(tensors[first]) is not Deferred:
        return None
    if ADDITIONS.get(function) is False and cast(Deferred, tensors[first])._step == 1:
        _reconsider(_call(function, args, kwargs, tensors), operation, tensors, first)
    place = _place(operation, tensors, first)
    if place is None or not _settle(place, tensors, first):
        return None
    if place.stream is not None and not cast(OperationStream, place.stream).accepts(tensors):
        place = restart(place, "an argument of an operation changed")
        if (
            place is None
            or not (begins or type(place.tensor) is Deferred)
            or not _settle(place, tensors, first)
        ):
            return None
    with place.segment.lock:
        if place.segment.closed:
            return None
        stream = cast("OperationStream | None", place.stream)
        if stream is None:
            call = _call(function, args, kwargs, tensors)
            stream = _begin(place.segment, call, operation, tensors, first)
            if stream is None:
                return None
        stream.append(tensors)
        return stream.advance()


def _describe(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Operation, list[Tensor]] | None:
    """What tells the call apart from others, and its tensors; None if an argument is neither kind."""
    tensors: list[Tensor] = []
    signature: list[object] = [function, len(args), *kwargs]
    # Modules that share a source differ in their parameters; other tensors may differ at each step.
    parameters = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            signature.append(type(value))
            tensors.append(value)
            if type(value) is nn.Parameter:
                parameters.append(id(value))
            continue
        mark = _mark(value)
        if mark is None:
            return None
        signature.append(mark)
    return (tuple(signature), tuple(parameters)), tensors


def _call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[Tensor]
) -> Call:
    numbers = itertools.count()

    def place(value: Any) -> Any:
        if isinstance(value, Tensor):
            return Operand(next(numbers))
        return tuple(value) if type(value) is list else value

    places = tuple(map(place, args)), tuple((name, place(value)) for name, value in kwargs.items())
    return Call(function, *places, tuple(metadata(tensor)[0] for tensor in tensors))


def _mark(value: object) -> object:
    """What tells a constant apart from others that equal it (1, 1.0 and True); None if it is no constant."""
    kind = type(value)
    if kind in _CONSTANTS:
        return (kind, value)
    if kind is float:
        return (kind, repr(value))
    if isinstance(value, (tuple, list)):
        marks = tuple(map(_mark, value))
        return None if None in marks else marks
    return None


def _together(tensors: list[Tensor]) -> bool:
    """Whether what is recorded of them is one time step of the open segment; the rest becomes real."""
    segment = current()
    step = None
    for index, tensor in enumerate(tensors):
        if type(tensor) is not Deferred:
            continue
        stream = locate(tensor)
        if stream is None or stream.segment is None:
            tensors[index] = resolve(tensor)
            continue
        if stream.segment is not segment or not same_modes(segment) or tensor._slot > 1 or stream.whole:
            return False
        if step is not None and tensor._step != step:
            return False
        step = tensor._step
    return True


def _place(operation: Operation, tensors: Sequence[Tensor], first: int) -> Place | None:
    """The place of the call; None where it would be the first of its kind, but not in the first step.

    Equal operations on the same source are numbered: a step may hold several.
    """
    tensor = tensors[first]
    if type(tensor) is not Deferred:
        return place_for((operation, 0), tensor)
    step = tensor._step
    for number in itertools.count():
        stream = _known(operation, number, tensor)
        if stream is None and (step or cast(Stream, locate(tensor)).count > 1):
            return None
        if stream is None or stream.count < step or (stream.count == step and stream.accepts(tensors)):
            return place_on_deferred((operation, number), tensor)
    raise AssertionError


def _known(operation: Operation, number: int, tensor: Tensor) -> OperationStream | None:
    """The stream of the operation on the recorded `tensor` that has this number."""
    if type(tensor) is not Deferred:
        return None
    source = locate(tensor)
    assert source is not None
    found = source.children.get(source_key((operation, number), tensor._slot, tensor._cut))
    return cast("OperationStream | None", found)


def _settle(place: Place, tensors: list[Tensor], first: int) -> bool:
    """Compute those tensors that are no part of the place's segment; whether all of them can be recorded."""
    segment = place.segment
    tensors[first] = place.tensor
    for index, tensor in enumerate(tensors):
        if type(tensor) is Deferred:
            stream = locate(tensor)
            if stream is not None and stream.segment is segment:
                continue
            tensor = tensors[index] = resolve(tensor)
        if (
            type(tensor) not in (Tensor, nn.Parameter)
            or tensor.layout is not torch.strided
            or not tensor.numel()
        ):
            return False
        if tensor.is_inference() and not segment.inference:
            return False
    return True


def _reconsider(call: Call, operation: Operation, tensors: Sequence[Tensor], first: int) -> None:
    """`real + recorded` in the first step looked like the start of a running sum: it is a sum per step."""
    tensor = cast(Deferred, tensors[first])
    source = cast(Stream, locate(tensor))
    if len(call.shapes) > 2 or call.kwargs or _known(operation, 0, tensor) is not None:
        return
    other = tensors[1 - first] if len(tensors) == 2 else call.args[1 - first]
    # Steps do the same in the same order: of several sums, this one is the first that did not go on.
    for sums in source.children.values():
        if (
            isinstance(sums, SumStream)
            and sums.count == 1
            and sums.source == (source, tensor._slot, tensor._cut)
            and _begins_alike(sums.start, other)
        ):
            break
    else:
        return
    segment = cast(Segment, sums.segment)
    start = sums.start_value()
    earlier = [start if index != first else tensor for index in range(len(tensors))]
    stream = _begin(segment, call, operation, cast("list[Tensor]", earlier), first)
    if stream is None:
        return
    with segment.lock:
        stream.append(cast("list[Tensor]", earlier))
        stream.replace(sums)


def _begins_alike(start: Capture | float, other: object) -> bool:
    if isinstance(start, Capture):
        return isinstance(other, Tensor) and type(other) is not Deferred and other.shape == start.tensor.shape
    return _mark(start) == _mark(other)


def _begin(
    segment: Segment, call: Call, operation: Operation, tensors: Sequence[Tensor], first: int
) -> OperationStream | None:
    """Begin an operation's stream; None if it cannot be recorded."""
    arguments: list[Argument] = []
    kinds = []
    device = metadata(tensors[first])[2]
    for tensor in tensors:
        shape, dtype, place = metadata(tensor)
        if place != device:
            return None
        if type(tensor) is Deferred:
            stream = locate(tensor)
            assert stream is not None
            requires_grad = stream.requires_grad and not tensor._cut
            arguments.append((stream, tensor._slot, tensor._cut))
        else:
            requires_grad = segment.grad and tensor.requires_grad
            is_parameter = type(tensor) is nn.Parameter
            arguments.append(Capture(tensor) if is_parameter else Inputs(tensor, requires_grad))
        kinds.append((shape, dtype, requires_grad))
    output = _output((operation[0], tuple(kinds), segment.grad), call, kinds)
    if output is None:
        return None
    number = next(n for n in itertools.count() if _known(operation, n, tensors[first]) is None)
    stream = OperationStream(segment, (operation, number), call, tuple(arguments), output, device)
    stream.join()
    if call.function not in _READ_EVENTS:
        for argument in arguments:
            if isinstance(argument, tuple) and argument[1] == 0 and isinstance(argument[0], NeuronStream):
                argument[0].want_dense = True
    return stream


def _output(key: object, call: Call, kinds: Sequence[Output]) -> Output | None:
    """What a call returns for tensors of these kinds; None unless that is one new floating-point tensor."""
    if key not in _KNOWN_OUTPUTS:
        if len(_KNOWN_OUTPUTS) >= _MOST_OUTPUTS:
            _KNOWN_OUTPUTS.clear()
        _KNOWN_OUTPUTS[key] = _probe(call, kinds)
    return _KNOWN_OUTPUTS[key]


def _probe(call: Call, kinds: Sequence[Output]) -> Output | None:
    tensors = [
        torch.empty(shape, dtype=dtype, device="meta", requires_grad=requires_grad)
        for shape, dtype, requires_grad in kinds
    ]
    try:
        result = call(tensors)
    except Exception:
        return None  # what is wrong with it, torch says when it is called
    if not isinstance(result, Tensor) or result.dtype not in (torch.float32, torch.float64):
        return None
    storages = {tensor.untyped_storage()._cdata for tensor in tensors}
    if result.untyped_storage()._cdata in storages or not result.numel():
        return None
    return result.shape, result.dtype, result.requires_grad
