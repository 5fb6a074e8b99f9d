"""`torch.stack` and `torch.cat` of recorded steps: whole sequences, without going through single steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..torch_private import address, lazy_clone, modes_matter
from .deferred import Deferred
from .execute import under_recorded_modes
from .materialise import executed, resolve
from .native import steps_in_a_row
from .results import NeuronResult
from .stream import Stream

__all__ = ["cat", "stack"]


def stack(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """`torch.stack`, where at least one of `tensors` is deferred."""
    if type(dim) is not int or modes_matter():
        return torch.stack([resolve(t, "torch.stack under a mode") for t in tensors], dim)
    runs = _runs(tensors, "torch.stack")
    if len(runs) == 1 and dim == 0:
        return runs[0].read(True)
    if not _of_one_shape(runs):
        return torch.stack([resolve(t) for t in tensors], dim)  # torch says in its own words what is wrong
    rank = len(tensors[0].shape) + 1
    if len(runs) == 1 and -rank <= dim < rank:
        return runs[0].read(False).movedim(0, dim % rank).contiguous()
    whole = torch.cat([run.read(False) for run in runs])
    return whole if dim == 0 else whole.movedim(0, dim).contiguous()


def cat(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """`torch.cat`, where at least one of `tensors` is deferred."""
    if type(dim) is not int or modes_matter():
        return torch.cat([resolve(t, "torch.cat") for t in tensors], dim)
    runs = _runs(tensors, "torch.cat")
    rank = len(tensors[0].shape) if isinstance(tensors[0], Tensor) else 0
    if not _of_one_shape(runs) or not -rank <= dim < rank:
        return torch.cat([resolve(t) for t in tensors], dim)
    dim %= rank
    if len(runs) == 1 and dim == 0:
        return runs[0].read(True).flatten(0, 1)
    return torch.cat([run.read(False).movedim(0, dim).flatten(dim, dim + 1) for run in runs], dim)


class Run(NamedTuple):
    """A piece of the sequence.

    read: gives it, `[t, *step]`; its argument says whether it must be the caller's own, safe to write to.
    samples: its tensors, of recorded steps, which are all alike, the first.
    """

    read: Callable[[bool], Tensor]
    samples: Sequence[Any]


def _of_one_shape(runs: list[Run]) -> bool:
    """Whether all pieces are of tensors, and these of one shape."""
    samples = [sample for run in runs for sample in run.samples]
    return all(isinstance(t, Tensor) for t in samples) and len({t.shape for t in samples}) == 1


def _runs(tensors: Sequence[Any], reason: str) -> list[Run]:
    """Consecutive pieces of the sequence."""
    runs: list[Run] = []
    index, count = 0, len(tensors)
    while index < count:
        first = tensors[index]
        # Executing settles which of the tensors after it became real.
        stream = _stream(first, reason)
        if stream is None:
            end = index + 1
            while end < count and _stream(tensors[end], reason) is None:
                end += 1
            part = [resolve(t) for t in tensors[index:end]]
            runs.append(Run(lambda own, part=part: torch.stack(part), part))  # type: ignore[misc]
        else:
            end = index + min(steps_in_a_row(tensors, index), stream.count - first._step)
            while end < count and _goes_on(tensors[end], first, stream, end - index, reason):
                end += 1
            runs.append(Run(_piece(stream, first, end - index), (first,)))
        index = end
    return runs


def _stream(tensor: Any, reason: str) -> Stream | None:
    """The executed stream of a step that is not real yet."""
    if type(tensor) is not Deferred or (tensor._of is None and tensor._real is not None):
        return None
    return executed(tensor, reason) if tensor._of is None else _alias_stream(tensor, reason)


def _goes_on(tensor: Any, first: Deferred, stream: Stream, distance: int, reason: str) -> bool:
    """Whether `tensor` is the step of `stream` that lies `distance` steps behind `first`."""
    if type(tensor) is not Deferred:
        return False
    found = _stream(tensor, reason)
    return (
        (found is stream or (found is None and _is_final_state(tensor, stream)))
        and tensor._step == first._step + distance
        and tensor._slot == first._slot
        and tensor._cut is first._cut
    )


def _is_final_state(tensor: Deferred, stream: Stream) -> bool:
    """Whether a state that became real when `stream` was executed is still what it was then."""
    real, result, slot = tensor._real, stream.result, tensor._slot
    return (
        real is not None
        and tensor._origin is not None
        and tensor._origin() is stream
        and isinstance(result, NeuronResult)
        # A copy-on-write alias: whoever wrote to it has moved it.
        and address(real) == address(result.states[slot - 1])
        and real.shape == stream.shapes[slot]
        and real.is_contiguous()
        and real.requires_grad is (result.states[slot - 1].requires_grad and not tensor._cut)
    )


def _alias_stream(tensor: Any, reason: str) -> Stream | None:
    """The stream of a view or alias, unless what it looks at is real (and may have been written to)."""
    if type(tensor) is not Deferred or tensor._real is not None:
        return None
    original = tensor._of
    while original is not None:
        if original._real is not None:
            return None
        original = original._of
    return executed(tensor, reason)


def _piece(stream: Stream, first: Deferred, length: int) -> Callable[[bool], Tensor]:
    start, slot, cut = first._step, first._slot, first._cut

    def piece(own: bool) -> Tensor:
        result = stream.result
        assert result is not None

        def read() -> Tensor:
            if length == 1:
                return result.step(slot, start).unsqueeze(0)
            return result.sequence(slot)

        sequence = under_recorded_modes(stream.grad, stream.inference, read)
        sequence = sequence.detach() if cut else sequence
        if sequence.shape[0] != length:
            sequence = sequence[start : start + length]
            return sequence.clone() if own else sequence
        return lazy_clone(sequence) if own else sequence

    return piece
