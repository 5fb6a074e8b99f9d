"""Recording a call that is not simply the next step of a known stream: mostly, a new stream begins."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import SparseBackendError
from ..torch_private import address, has_global_hooks, must_run_now
from . import backoff
from .capture import Capture, Inputs, recordable
from .deferred import Deferred
from .layer import Layer
from .materialise import resolve
from .neuron_stream import NeuronStream, NeuronUse
from .place import Place, metadata, open_segment, place_for, restart
from .segment import Segment, current, locate
from .stream import FeedStream, Source, Stream
from .watch import Watch, watch_neuron

__all__ = ["record_new_feed", "record_new_sequence", "record_new_step"]


_MOST_KEPT = 4
"""Uses of a neuron that are kept for the next sequence: training and evaluation, and their last batches."""


def _paused() -> bool:
    """Whether recording pauses here. Asked first: then a call costs next to nothing more than upstream's."""
    return current() is None and backoff.paused(torch.is_grad_enabled())


def _deferrable(module: nn.Module) -> bool:
    """Whether a call of `module` may be put off."""
    return not (must_run_now(module) or has_global_hooks() or torch.compiler.is_compiling())


def _source(place: Place, by_events: bool = False) -> tuple[Source, bool]:
    """The source of a new stream, and whether it requires a gradient. by_events: see `Inputs`."""
    tensor = place.tensor
    if type(tensor) is Deferred:
        stream = cast(Stream, tensor._source)
        return (stream, tensor._slot, tensor._cut), stream.requires_grad and not tensor._cut
    requires_grad = place.segment.grad and tensor.requires_grad
    inputs = Inputs(tensor, requires_grad, by_events)
    inputs.append(tensor, 0)
    return inputs, requires_grad


def record_new_feed(module: nn.Linear, input: Tensor) -> Any:
    """See record.record_feed."""
    if _paused() or not isinstance(input, Tensor) or not _deferrable(module):
        return NotImplemented
    weight = module._parameters.get("weight")
    bias = module._parameters.get("bias", NotImplemented)
    # Parametrized, pruned or functionally called modules hold no plain parameters: their weight is fresh at
    # each access.
    if type(weight) is not nn.Parameter or not (bias is None or type(bias) is nn.Parameter):
        return NotImplemented
    shape, dtype, device = metadata(input)
    if (
        len(shape) < 2
        or weight.dim() != 2
        or shape[-1] != weight.shape[1]
        or (dtype, device) != (weight.dtype, weight.device)
        or (
            bias is not None
            and (bias.shape != weight.shape[:1] or (dtype, device) != (bias.dtype, bias.device))
        )
        or not recordable(weight.data)
    ):
        return NotImplemented
    place = place_for(id(module), input, repeatable=True, sparse=True)
    if place is None:
        return NotImplemented
    if place.stream is not None and not cast(FeedStream, place.stream).unchanged(module):
        place = restart(place, "a parameter was changed")
        if place is None:
            return NotImplemented
    segment, tensor, stream = place
    with segment.lock:
        if segment.closed:  # by another thread that read a step
            return record_new_feed(module, input)
        if stream is None:
            source, requires_grad = _source(place, by_events=True)
            weight_capture = Capture(weight)
            bias_capture = None if bias is None else Capture(bias)
            requires_grad = segment.grad and (
                requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
            )
            stream = FeedStream(
                *(segment, source, module, weight_capture, bias_capture),
                *(torch.Size((*shape[:-1], weight.shape[0])), requires_grad),
            )
            segment.add(stream)
        elif type(tensor) is Deferred:
            if stream.count == tensor._step + 1:
                return stream.again(tensor._step)
        else:
            cast(Inputs, stream.source).append(tensor, stream.count)
        return stream.advance()


def _pending(value: Tensor) -> bool:
    """Whether a state is recorded and not executed yet."""
    if type(value) is not Deferred:
        return False
    stream = locate(value)
    return stream is not None and stream.segment is not None


def record_new_step(module: nn.Module, layer: Layer, input: Tensor, state: tuple[Tensor, ...] | None) -> Any:
    """See record.record_step."""
    if _paused() or not isinstance(input, Tensor) or not _deferrable(module):
        return NotImplemented
    shape, dtype, _ = metadata(input)
    if len(shape) < 2 or dtype not in (torch.float32, torch.float64):
        return NotImplemented
    place = place_for(id(module), input)
    if place is None:
        return NotImplemented
    pending = any([_pending(value) for value in state or ()])
    stream = place.stream
    if isinstance(stream, NeuronStream):
        follows, use = stream.follows(state), stream.use
        if follows and use is not None and use.unchanged(module, layer):
            with place.segment.lock:
                if place.segment.closed:  # by another thread that read a step
                    return record_new_step(module, layer, input, state)
                if type(place.tensor) is not Deferred:
                    cast(Inputs, stream.source).append(place.tensor, stream.count)
                return stream.advance_neuron(cast(Deferred, cast(tuple[Tensor, ...], state)[0])._cut)
        place = restart(
            place, "a neuron's options or parameters were changed" if follows else "a state was set anew"
        )
    elif pending:
        place = restart(place, "a state came from another stream")
    if place is None:
        return NotImplemented
    settled = None if state is None else tuple(resolve(value) for value in state)
    if place.segment.closed:
        # One of those states was in the step just carried over.
        place = place_for(id(module), place.tensor)
        if place is None or place.stream is not None:
            return NotImplemented
    new = _new_neuron(place, module, layer, shape, settled, whole=False)
    return NotImplemented if new is None else new.advance_neuron(cut=False)


def record_new_sequence(
    module: nn.Module, layer: Layer, input: Tensor, state: tuple[Tensor, ...] | None
) -> Any:
    """See record.record_sequence."""
    if _paused() or not isinstance(input, Tensor) or not _deferrable(module):
        return NotImplemented
    settled = (
        None
        if state is None
        else tuple(resolve(value, "a state was used by another stream") for value in state)
    )
    shape, dtype, _ = metadata(input)
    if len(shape) < 3 or dtype not in (torch.float32, torch.float64):
        return NotImplemented
    place = None
    if type(input) is Deferred:
        source = locate(input)
        if (
            source is not None
            and source.segment is not None
            and source.count == 1
            and source.segment is open_segment()
        ):
            place = Place(source.segment, input, None)
        else:
            input = resolve(input, "a recorded value was used out of step")
    if place is None:
        segment = open_segment() if recordable(input) else None
        if segment is None or (input.is_inference() and not segment.inference):
            return NotImplemented
        place = Place(segment, input, None)
    new = _new_neuron(place, module, layer, shape, settled, whole=True)
    if new is None:
        return NotImplemented
    ancestor = new.parent
    while ancestor is not None and not ancestor.whole:
        ancestor.whole = True
        ancestor = ancestor.parent
    return new.advance_neuron(cut=False)


def _watch(module: nn.Module, layer: Layer, parameters: tuple[Capture, ...]) -> Watch | None:
    names = getattr(layer, "attributes", None)
    return None if names is None else watch_neuron(module, names, layer.absent, parameters)


def _new_neuron(
    place: Place,
    module: nn.Module,
    layer: Layer,
    shape: torch.Size,
    state: tuple[Tensor, ...] | None,
    whole: bool,
) -> NeuronStream | None:
    """Begin a neuron's stream; None if it cannot be recorded."""
    _, dtype, device = metadata(place.tensor)
    state_shape = shape[1:] if whole else shape
    segment = place.segment
    for value in state or ():
        fits = value.numel() == 1 or value.shape == state_shape
        if not (recordable(value) and fits and value.dtype is dtype and value.device == device):
            return None
        if value.is_inference() and not segment.inference:
            return None
    use = _use_of(module, layer, segment, shape, dtype, device, whole)
    if use is None or (state is not None and len(state) != use.spec.poles):
        return None
    source, source_grad = _source(place)
    own_grad = segment.grad and (
        source_grad or any(captured.tensor.requires_grad for captured in use.coefficients)
    )
    requires_grad = own_grad or (segment.grad and any(value.requires_grad for value in state or ()))
    initial = None if state is None else tuple(map(Capture, state))
    stream = NeuronStream(segment, source, module, use, initial, requires_grad, own_grad)
    with segment.lock:
        if segment.closed:  # by another thread that read a step
            return None
        segment.add(stream)
    return stream


def _use_of(
    module: nn.Module,
    layer: Layer,
    segment: Segment,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    whole: bool,
) -> NeuronUse | None:
    """The neuron as it is, if possible as the last sequence found it; None if it cannot be recorded.

    shape, dtype, device: of a step's input, under `whole` of the sequence.
    """
    kept = layer.memory(module)
    key = (shape, dtype, device, whole, segment.grad, segment.inference)
    if kept is not None:
        known: NeuronUse | None = kept.get(key)
        if known is not None and known.unchanged(module, layer) and known.lasting:
            return known
    use = _read(module, layer, shape, dtype, device, whole)
    if kept is not None and use is not None and use.lasting:
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        kept[key] = use
    return use


def _read(
    module: nn.Module,
    layer: Layer,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    whole: bool,
) -> NeuronUse | None:
    state_shape = shape[1:] if whole else shape
    try:
        neuron = layer.neuron(module, torch.zeros((), dtype=dtype, device=device), state_shape[1:])
    except SparseBackendError:
        return None
    if neuron is None:
        return None
    parameters = tuple(map(Capture, layer.parameters(module)))
    memory = {address(captured.tensor) for captured in parameters}
    poles = neuron.spec.poles
    return NeuronUse(
        layer=layer,
        spec=neuron.spec,
        # What is not the module's own was computed for this purpose alone.
        coefficients=tuple(
            Capture(value, shared=address(value) in memory) for value in neuron.coefficients.tensors()
        ),
        fingerprint=layer.fingerprint(module),
        parameters=parameters,
        shapes=(shape, *[state_shape] * poles),
        dtypes=(layer.output_dtype(module, dtype), *[dtype] * poles),
        device=device,
        whole=whole,
        watch=_watch(module, layer, parameters),
    )
