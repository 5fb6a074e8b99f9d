"""Recording one call: which step of which stream it is. The common case, the next step, comes first."""

from __future__ import annotations

from torch import Tensor, nn

from ..torch_private import must_run_now
from .begin import record_new_feed, record_new_sequence, record_new_step
from .capture import Inputs
from .deferred import Deferred
from .layer import Layer
from .neuron_stream import NeuronStream
from .segment import same_modes, thread
from .stream import FeedStream

__all__ = ["record_feed", "record_sequence", "record_step"]


def record_feed(module: nn.Linear, input: Tensor) -> Tensor:
    """One application of a Linear; NotImplemented where upstream's code has to run."""
    segment = thread.segment
    if segment is not None and same_modes(segment):
        if type(input) is Deferred:
            source = input._source
            if source is not None and source.segment is segment and input._slot == 0 and not input._cut:
                stream = source.children.get(id(module))
                if (
                    type(stream) is FeedStream
                    and stream.count == input._step
                    and not (stream.whole or must_run_now(module))
                    and stream.unchanged(module)
                ):
                    segment.acquire()
                    try:
                        if not segment.closed:
                            return stream.advance()
                    finally:
                        segment.release()
        else:
            stream = segment.entries.get(id(module))
            inputs = None if stream is None else stream.source
            if (
                type(stream) is FeedStream
                and stream.count < segment.limit
                and isinstance(inputs, Inputs)
                and inputs.fits(input, segment.grad and input.requires_grad)
                and not (stream.whole or must_run_now(module))
                and stream.unchanged(module)
            ):
                segment.acquire()
                try:
                    if not segment.closed:
                        inputs.append(input, stream.count)
                        return stream.advance()
                finally:
                    segment.release()
    return record_new_feed(module, input)


def record_step(
    module: nn.Module, layer: Layer, input: Tensor, state: tuple[Tensor, ...] | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One time step of a neuron: (output, new state); NotImplemented where upstream's code has to run.

    state: what upstream would start this step from; None for zeros.
    """
    segment = thread.segment
    if segment is not None and type(input) is Deferred and same_modes(segment):
        source = input._source
        if source is not None and source.segment is segment and input._slot == 0 and not input._cut:
            stream = source.children.get(id(module))
            if (
                type(stream) is NeuronStream
                and stream.count == input._step
                and stream.follows(state)
                and not must_run_now(module)
                and (use := stream.use) is not None
                and use.unchanged(module, layer)
            ):
                segment.acquire()
                try:
                    if not segment.closed:
                        return stream.advance_neuron(state[0]._cut)  # type: ignore[index, union-attr]
                finally:
                    segment.release()
    return record_new_step(module, layer, input, state)


def record_sequence(
    module: nn.Module, layer: Layer, input: Tensor, state: tuple[Tensor, ...] | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A neuron over a sequence `[T, B, ...]`: (output `[T, B, ...]`, final state), or NotImplemented."""
    return record_new_sequence(module, layer, input, state)
