"""The stream of an operation without a state: a torch function of recorded and real tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from .capture import Capture, Inputs
from .deferred import Deferred
from .operations import Call
from .segment import locate
from .stream import Source, Stream, source_key

if TYPE_CHECKING:
    from .segment import Segment

__all__ = ["Argument", "OperationStream", "Output"]

Argument = Capture | Source
"""A tensor of the call: a parameter, the same at every step; captured real tensors; or an earlier stream."""

Output = tuple[torch.Size, torch.dtype, bool]
"""Shape, dtype and requires_grad of a step's result."""


class OperationStream(Stream):
    """One call per step. `source` is the first of `arguments` that is recorded, else the first one.

    identity: what tells it apart from other operations on the same source.
    """

    __slots__ = ("arguments", "call", "first", "identity", "output")

    def __init__(
        self,
        segment: Segment,
        identity: object,
        call: Call,
        arguments: tuple[Argument, ...],
        output: Output,
        device: torch.device,
    ) -> None:
        self.first = primary(arguments)
        source = cast(Source, arguments[self.first])
        shape, dtype, requires_grad = output
        super().__init__(segment, source, (shape,), (dtype,), device, requires_grad)
        self.identity, self.call, self.arguments, self.output = identity, call, arguments, output

    @property
    def multiplications(self) -> float:
        """As many as there may be: an operation over the whole sequence pays soon."""
        return math.inf if self.requires_grad else 0

    def join(self) -> None:
        """Become known to the segment and to every stream that feeds this one."""
        assert self.segment is not None
        self.segment.add(self)
        for index, argument in enumerate(self.arguments):
            if index != self.first and isinstance(argument, tuple):
                argument[0].children[("argument", id(self), index)] = self

    def replace(self, other: Stream) -> None:
        """Take the place of a stream of a single step, and that step as this one's first."""
        segment, children = self.segment, other.children
        assert segment is not None and other.count == 1 and not isinstance(other.source, Inputs)
        segment.streams.remove(self)
        segment.streams[segment.streams.index(other)] = self
        del other.source[0].children[other.key()]
        for mine, theirs in zip(self.wrappers, other.wrappers, strict=True):
            theirs.hand_over(mine, self)
        self.count, other.count, other.successor = 1, 0, self
        self.children = children
        for child in children.values():
            child.refeed(other, self)
        other.release()

    def refeed(self, old: Stream, new: Stream) -> None:
        super().refeed(old, new)
        self.arguments = tuple(
            (new, *argument[1:]) if isinstance(argument, tuple) and argument[0] is old else argument
            for argument in self.arguments
        )

    @property
    def parents(self) -> list[Stream]:
        return [argument[0] for argument in self.arguments if isinstance(argument, tuple)]

    def reads(self, stream: Stream, slot: int) -> bool:
        return any(isinstance(a, tuple) and a[0] is stream and a[1] == slot for a in self.arguments)

    def accepts(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the next step may be a call with these tensors."""
        return all(map(self._accepts, self.arguments, tensors))

    def _accepts(self, argument: Argument, tensor: Tensor) -> bool:
        if isinstance(argument, Capture):
            return argument.holds(tensor)
        if isinstance(argument, Inputs):
            segment = self.segment
            return argument.fits(tensor, segment is not None and segment.grad and tensor.requires_grad)
        return (
            type(tensor) is Deferred
            and tensor._step == self.count
            and (locate(tensor), tensor._slot, tensor._cut) == argument
        )

    def append(self, tensors: Sequence[Tensor]) -> None:
        """Capture the real tensors of the next step; `accepts` must hold."""
        for argument, tensor in zip(self.arguments, tensors, strict=True):
            if isinstance(argument, Inputs):
                argument.append(tensor, self.count)

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        arguments: list[Argument] = []
        for index, argument in enumerate(self.arguments):
            if index == self.first:
                arguments.append(source)
            elif isinstance(argument, Inputs):
                arguments.append(argument.pop(self.count + 1))
            elif isinstance(argument, Capture):
                arguments.append(argument)
            else:
                parent, slot, cut = argument
                arguments.append((cast(Stream, parent.successor), slot, cut))
        moved = OperationStream(segment, self.identity, self.call, tuple(arguments), self.output, self.device)
        for index, argument in enumerate(arguments):
            if index != moved.first and isinstance(argument, tuple):
                argument[0].children[("argument", id(moved), index)] = moved
        return moved

    def key(self) -> object:
        return (
            self.identity if isinstance(self.source, Inputs) else source_key(self.identity, *self.source[1:])
        )

    def release(self) -> None:
        super().release()
        self.call = self.arguments = None  # type: ignore[assignment]


def primary(arguments: Sequence[object]) -> int:
    """The index of the first argument that is a recorded stream (or a deferred tensor), else of the first."""
    for index, argument in enumerate(arguments):
        if isinstance(argument, tuple) or type(argument) is Deferred:
            return index
    return 0
