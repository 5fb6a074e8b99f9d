"""Executing a segment: stream after stream, each over all of its steps, under the modes of the recording."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from ..ops.reference import after_spike, integrate
from ..ops.sequence import LayerOutput, LinearFeed, PackedSpikes, run_layer
from ..torch_private import below_autograd, in_clean_thread, modes_matter
from . import backoff, reasons
from .capture import Capture, Inputs
from .neuron_stream import NeuronStream, cuts_tensor
from .operation_result import OperationResult
from .operation_stream import OperationStream
from .results import (
    Failed,
    FeedResult,
    InputsResult,
    MapResult,
    NeuronResult,
    Result,
    StepResult,
    SumResult,
    detach_packed,
)
from .segment import Segment, current
from .stream import FeedStream, MapStream, Source, Stream
from .sum_stream import SumStream

__all__ = ["execute", "flush", "under_recorded_modes"]

R = TypeVar("R")


def flush() -> None:
    """Execute everything that the calling thread has recorded."""
    segment = current()
    if segment is not None:
        execute(segment, "flush() was called")


def execute(segment: Segment, reason: str, stepwise: bool = False) -> None:
    """Execute a segment; afterwards every stream in it has a result.

    stepwise: one step at a time, so that every recorded tensor is a link in the autograd graph.
    Does not raise: a failure is kept and raised at every later read.
    """
    with segment.lock:
        if segment.closed:
            return
        segment.closed = True
        steps = segment.steps()
        reasons.note(reason, steps)
        backoff.note(segment.grad, steps, segment.work(steps))
        try:
            under_recorded_modes(segment.grad, segment.inference, lambda: _run(segment, stepwise))
        except Exception as error:
            for stream in segment.streams:
                if stream.result is None:
                    stream.result = Failed(error)
        finally:
            for stream in segment.streams:
                if stream.result is None:
                    stream.result = Failed(KeyboardInterrupt("the execution was interrupted"))
                stream.release()
            segment.streams = []
            segment.entries = {}


def under_recorded_modes(grad: bool, inference: bool, function: Callable[[], R]) -> R:
    """Call `function` as at the time of the recording, whatever modes the reader has set."""
    if below_autograd() or inference != torch.is_inference_mode_enabled() or modes_matter():
        return in_clean_thread(function, grad, inference)
    if grad == torch.is_grad_enabled():
        return function()
    with torch.set_grad_enabled(grad):
        return function()


def _run(segment: Segment, stepwise: bool) -> None:
    if stepwise:
        _run_stepwise(segment)
    else:
        for stream in segment.streams:
            if isinstance(stream, NeuronStream):
                stream.result = _run_neuron(stream)
            elif isinstance(stream, FeedStream):
                stream.result = FeedResult(*_source(stream), stream.weight, stream.bias, stream.count)
            elif isinstance(stream, MapStream):
                stream.result = MapResult(*_source(stream), stream.count, stream.apply, stream.apply_packed)
            elif isinstance(stream, SumStream):
                stream.result = SumResult(*_source(stream), stream.count, stream.start_value())
            elif isinstance(stream, OperationStream):
                stream.result = _operation(stream)
    for stream in segment.streams:
        if isinstance(stream, NeuronStream):
            stream.settle()


def _source(stream: Stream) -> tuple[Result, int]:
    """The result that feeds a stream, and its slot."""
    return _result_of(stream.source, stream.count)


def _result_of(source: Source, steps: int) -> tuple[Result, int]:
    if isinstance(source, Inputs):
        return InputsResult(source, steps), 0
    parent, slot, cut = source
    assert parent.result is not None
    if not cut:
        return parent.result, slot
    return MapResult(
        parent.result, slot, parent.count, torch.Tensor.detach, detach_packed if slot == 0 else None
    ), 0


def _operation(stream: OperationStream) -> OperationResult:
    arguments = [
        argument.value() if isinstance(argument, Capture) else _result_of(argument, stream.count)
        for argument in stream.arguments
    ]
    step_bytes = stream.shapes[0].numel() * stream.dtypes[0].itemsize
    return OperationResult(stream.count, stream.call, arguments, step_bytes, len(stream.children) > 1)


def _run_neuron(stream: NeuronStream) -> Result:
    held = stream.earlier_states_held()
    if not stream.whole and any(held[1:]):
        # Only the membrane exists as a sequence; whoever keeps synaptic currents of earlier steps gets them
        # step by step.
        return _neuron_steps(stream, _rows(_source(stream), stream.count))
    result, slot = _source(stream)
    source: Tensor | PackedSpikes | None
    shape = stream.shapes[1]
    batch = shape[0]
    flat = (batch, shape[1:].numel())
    steps = stream.shapes[0][0] if stream.whole else stream.count
    feed = None
    if isinstance(result, FeedResult) and stream.result is None and _fusable(stream, result):
        feed = LinearFeed(result.weight.value(), None if result.bias is None else result.bias.value())
        slot, result = result.slot, result.source
    source = None if stream.whole else result.constant()
    if source is None:
        packed = result.packed(slot)
        if packed is not None and packed.steps == steps:
            source = packed
        elif stream.whole:
            source = result.sequence(slot)[0]
        else:
            source = result.sequence(slot)[:steps]
    if isinstance(source, Tensor) and feed is None:
        source = source.reshape(-1, *flat) if source.dim() > len(shape) else source.reshape(flat)
    out = _run_layer(stream, source, feed, _initial(stream, flat), steps, held[0] if held else False)
    states = out.state if shape == flat else tuple(state.view(shape) for state in out.state)
    whole_shape = stream.shapes[0]
    membrane = out.membrane
    return NeuronResult(
        *(1 if stream.whole else steps, whole_shape, out.spikes, membrane, states),
        *(stream.use.layer.output_is_membrane, stream.whole),
    )


def _run_layer(
    stream: NeuronStream,
    source: Tensor | PackedSpikes,
    feed: LinearFeed | None,
    initial: tuple[Tensor, ...],
    steps: int,
    membrane_held: bool,
) -> LayerOutput:
    layer = stream.use.layer
    is_membrane = layer.output_is_membrane
    feeds_membrane = any(child.reads(stream, 1) for child in stream.children.values())
    neuron = stream.use.neuron()
    while True:
        out = run_layer(
            *(source, feed, neuron, initial),
            steps=steps,
            rule=layer.rule(stream.module, neuron, stream.requires_grad),
            cuts=cuts_tensor(stream, steps),
            want_spikes=stream.want_dense and not is_membrane,
            want_membrane=is_membrane or membrane_held or feeds_membrane,
            spike_dtype=stream.dtypes[0],
        )
        if not layer.observe(stream.module, out):
            return out


def _fusable(stream: NeuronStream, feed: FeedResult) -> bool:
    """Whether feed and neuron can be one operator: the neuron alone uses the product."""
    parent = stream.parent
    assert parent is not None
    return len(parent.children) == 1 and len(stream.shapes[1]) == 2


def _initial(stream: NeuronStream, flat: tuple[int, int]) -> tuple[Tensor, ...]:
    """The states that enter the first step, each `[B, N]`."""
    if stream.initial is None:
        return tuple(torch.zeros(flat, dtype=dtype, device=stream.device) for dtype in stream.dtypes[1:])
    shapes = stream.shapes[1:]
    values = [captured.value() for captured in stream.initial]
    return tuple(
        value if value.shape == flat == shape else value.expand(shape).reshape(flat)
        for value, shape in zip(values, shapes, strict=True)
    )


def _rows(source: tuple[Result, int], steps: int) -> list[Tensor]:
    result, slot = source
    return [result.step(slot, index) for index in range(steps)]


def _run_stepwise(segment: Segment) -> None:
    for stream in segment.streams:
        if isinstance(stream, NeuronStream):
            if stream.whole:
                stream.result = _run_neuron(stream)
            else:
                stream.result = _neuron_steps(stream, _rows(_source(stream), stream.count))
        elif isinstance(stream, FeedStream):
            feed = FeedResult(*_source(stream), stream.weight, stream.bias, stream.count)
            stream.result = StepResult(([feed.product(x) for x in _rows(_source(stream), stream.count)],))
        elif isinstance(stream, MapStream):
            rows = _rows(_source(stream), stream.count)
            stream.result = StepResult(([stream.apply(row.unsqueeze(0)).squeeze(0) for row in rows],))
        elif isinstance(stream, SumStream):
            rows = _rows(_source(stream), stream.count)
            rows[0] = rows[0] + stream.start_value()
            stream.result = StepResult((list(accumulate(rows)),))
        elif isinstance(stream, OperationStream):
            stream.result = StepResult((_operation(stream).rows(),))


def _neuron_steps(stream: NeuronStream, rows: list[Tensor]) -> Result:
    """The neuron one step at a time, with its own surrogate: all outputs and states are links in the graph.

    As in stock, spikes come from the very membrane tensor that the user sees (unless it is reset after the
    spike), and a reset after the spike from the very spikes.
    """
    shape = stream.shapes[1]
    flat = (shape[0], shape[1:].numel())
    states = _initial(stream, flat)
    slots: tuple[list[Tensor], ...] = tuple([] for _ in stream.shapes)
    neuron, cuts = stream.use.neuron(), set(stream.cuts)
    spec, coefficients = neuron.spec, neuron.coefficients
    for index, row in enumerate(rows):
        if index in cuts:
            states = tuple(state.detach() for state in states)
        current = row.reshape(1, *flat)
        step = integrate(spec, coefficients, current, states[0].reshape(flat), states[-1].reshape(flat))
        u = membrane = output = step.u[0].view(shape)
        if spec.fires:
            spikes = spec.surrogate(u.view(flat) - coefficients.threshold)
            output = (coefficients.graded * spikes).to(stream.dtypes[0]).view(shape)
        if spec.post != "none":
            spikes = output.view(flat).to(u.dtype) / coefficients.graded
            membrane = after_spike(spec, coefficients, u.view(flat), spikes, step.r[0]).view(shape)
        states = (membrane, step.i[0].view(shape))[: spec.poles]
        for slot, value in zip(slots, (output, *states), strict=True):
            slot.append(value)
    return StepResult(slots)
