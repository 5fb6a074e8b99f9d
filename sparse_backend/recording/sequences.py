"""`torch.stack` and `torch.cat` of recorded steps: whole sequences, without going through single steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..torch_private import lazy_clone, modes_matter
from .deferred import Deferred
from .execute import under_recorded_modes
from .materialise import executed, resolve
from .stream import Stream

__all__ = ["cat", "stack"]


def stack(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """`torch.stack`, where at least one of `tensors` is deferred."""
    if type(dim) is not int or modes_matter():
        return torch.stack([resolve(t, "torch.stack under a mode") for t in tensors], dim)
    runs = _runs(tensors, "torch.stack")
    if len(runs) == 1 and dim == 0:
        return runs[0](True)
    if len(runs) > 1 and any(not isinstance(t, Tensor) or t.shape != tensors[0].shape for t in tensors):
        return torch.stack([resolve(t) for t in tensors], dim)  # torch says in its own words what is wrong
    rank = len(tensors[0].shape) + 1
    if len(runs) == 1 and -rank <= dim < rank:
        return runs[0](False).movedim(0, dim % rank).contiguous()
    whole = torch.cat([run(False) for run in runs])
    return whole if dim == 0 else whole.movedim(0, dim).contiguous()


def cat(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """`torch.cat`, where at least one of `tensors` is deferred."""
    shape = tensors[0].shape
    rank = len(shape)
    if (
        type(dim) is not int
        or not -rank <= dim < rank
        or modes_matter()
        or any(not isinstance(t, Tensor) or t.shape != shape for t in tensors)
    ):
        return torch.cat([resolve(t, "torch.cat") for t in tensors], dim)
    runs = _runs(tensors, "torch.cat")
    dim %= rank
    if len(runs) == 1 and dim == 0:
        return runs[0](True).flatten(0, 1)
    return torch.cat([run(False).movedim(0, dim).flatten(dim, dim + 1) for run in runs], dim)


Run = Callable[[bool], Tensor]


def _runs(tensors: Sequence[Any], reason: str) -> list[Run]:
    """Functions that give consecutive pieces of the sequence, `[t, *step]`.

    Their argument says whether the piece must be the caller's own, safe to write to.
    """
    # Executing first settles which steps belong together, and which became real.
    streams = [
        executed(t, reason) if type(t) is Deferred and t._of is None else _alias_stream(t, reason)
        for t in tensors
    ]
    runs: list[Run] = []
    index = 0
    while index < len(tensors):
        stream = streams[index]
        end = index + 1
        if stream is None:
            while end < len(tensors) and streams[end] is None:
                end += 1
            part = [resolve(t) for t in tensors[index:end]]
            runs.append(lambda own, part=part: torch.stack(part))  # type: ignore[misc]
        else:
            first = tensors[index]
            while (
                end < len(tensors)
                and streams[end] is stream
                and tensors[end]._slot == first._slot
                and tensors[end]._cut is first._cut
                and tensors[end]._step == first._step + end - index
            ):
                end += 1
            runs.append(_piece(stream, first, end - index))
        index = end
    return runs


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


def _piece(stream: Stream, first: Deferred, length: int) -> Run:
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
