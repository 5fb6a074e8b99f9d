"""Streams: one module used at every step, fed by one source. What is recorded, and how it is executed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..ops.sequence import PackedSpikes
from .capture import Capture, Inputs
from .deferred import Deferred, blank, make
from .watch import Watch, watch_feed
from .wrappers import Wrappers

if TYPE_CHECKING:
    from .results import Result
    from .segment import Segment

__all__ = ["FeedStream", "MapStream", "Source", "Stream", "source_key"]

Source = Inputs | tuple["Stream", int, bool]
"""Captured real inputs, or (an earlier stream, its slot, whether detached from it)."""


class Stream:
    """One module use of a segment.

    segment: None once executed.  count: steps recorded.  shapes, dtypes: of a step, per slot.
    children: streams fed by this one, by module id (plain use of slot 0) or by a tuple that says what is fed.
    wrappers: the deferred tensors of each slot.  successor: the stream of the next segment to which the step
    after the last was moved (see Segment.carry_over).  whole: a step is a whole sequence `[T, B, ...]`
    (Norse's time modules), and there is only one.  grad, inference: the modes of the recording.
    watch: what must be the same for a step to be an ordinary one (see native.py), None if that is not known.
    """

    __slots__ = (
        "__weakref__",
        "blanks",
        "children",
        "count",
        "device",
        "dtypes",
        "grad",
        "inference",
        "requires_grad",
        "result",
        "segment",
        "shapes",
        "source",
        "successor",
        "watch",
        "whole",
        "wrappers",
    )

    def __init__(
        self,
        segment: Segment,
        source: Source,
        shapes: tuple[torch.Size, ...],
        dtypes: tuple[torch.dtype, ...],
        device: torch.device,
        requires_grad: bool,
        whole: bool = False,
    ) -> None:
        self.segment: Segment | None = segment
        self.grad, self.inference = segment.grad, segment.inference
        self.source: Source = source
        self.count = 0
        self.shapes, self.dtypes = shapes, dtypes
        self.requires_grad = requires_grad
        self.whole = whole
        self.device = device
        self.blanks = tuple(
            blank(shape, dtype, device, requires_grad, segment.inference)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        )
        self.wrappers = tuple(Wrappers(nan, slot) for slot, nan in enumerate(self.blanks))
        self.children: dict[object, Stream] = {}
        self.result: Result | None = None
        self.successor: Stream | None = None
        self.watch: Watch | None = None

    @property
    def multiplications(self) -> float:
        """Multiply-adds of a step; 0 for what has no weights."""
        return 0

    @property
    def parent(self) -> Stream | None:
        return None if isinstance(self.source, Inputs) else self.source[0]

    @property
    def parents(self) -> Sequence[Stream]:
        """All streams that feed this one."""
        return () if isinstance(self.source, Inputs) else self.source[:1]

    def reads(self, stream: Stream, slot: int) -> bool:
        """Whether this slot of `stream` feeds this one."""
        return not isinstance(self.source, Inputs) and self.source[:2] == (stream, slot)

    def refeed(self, old: Stream, new: Stream) -> None:
        """Be fed by `new` where it was `old`."""
        if not isinstance(self.source, Inputs) and self.source[0] is old:
            self.source = (new, *self.source[1:])

    def advance(self) -> Deferred:
        """Record one more step of a stateless stream; a captured input has been appended before."""
        step = self.count
        deferred = self.wrappers[0].take(self, step)
        self.count = step + 1
        return deferred

    def again(self, step: int) -> Deferred:
        """The same step of a stateless stream once more."""
        return make(self.blanks[0], self, step, 0)

    def pop(self, segment: Segment, source: Source) -> Stream:
        """Take the last step off, as the first of a stream in another segment."""
        self.count -= 1
        moved = self._sibling(segment, source)
        moved.count = 1
        for mine, theirs in zip(self.wrappers, moved.wrappers, strict=True):
            mine.hand_over(theirs, moved)
        self.successor = moved
        return moved

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        raise NotImplementedError

    def continue_from(self, old: Stream) -> None:
        """Begin where `old`, now executed, ended: this stream was popped from it."""

    def key(self) -> object:
        """The key under which the parent (or the segment, for real inputs) finds this stream."""
        raise NotImplementedError

    def release(self) -> None:
        """Forget everything but the result: no cycle, no captured tensor may outlive the execution."""
        self.segment = None
        self.children = {}
        self.wrappers = ()
        self.source = None  # type: ignore[assignment]
        self.watch = None


def source_key(identity: object, slot: int, cut: bool) -> object:
    return identity if slot == 0 and not cut else (identity, slot, cut)


class FeedStream(Stream):
    """A Linear."""

    __slots__ = ("bias", "module", "weight")

    def __init__(
        self,
        segment: Segment,
        source: Source,
        module: nn.Linear,
        weight: Capture,
        bias: Capture | None,
        shape: torch.Size,
        requires_grad: bool,
    ) -> None:
        tensor = weight.tensor
        super().__init__(segment, source, (shape,), (tensor.dtype,), tensor.device, requires_grad)
        self.module, self.weight, self.bias = module, weight, bias
        self.watch = watch_feed(weight, bias)

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        return FeedStream(
            segment, source, self.module, self.weight, self.bias, self.shapes[0], self.requires_grad
        )

    def key(self) -> object:
        identity = id(self.module)
        return identity if isinstance(self.source, Inputs) else source_key(identity, *self.source[1:])

    @property
    def multiplications(self) -> float:
        weight = self.weight.tensor
        return self.shapes[0].numel() * (weight.shape[1] if weight.dim() > 1 else 1)

    def unchanged(self, module: nn.Module) -> bool:
        """Whether the module's parameters are those captured, untouched."""
        parameters, bias, weight = module._parameters, self.bias, self.weight
        # None: another thread has just read a step, and so executed this stream.
        if weight is None or not weight.holds(parameters.get("weight")):
            return False
        return parameters.get("bias") is None if bias is None else bias.holds(parameters.get("bias"))

    def release(self) -> None:
        super().release()
        self.module = self.weight = self.bias = None  # type: ignore[assignment]


class MapStream(Stream):
    """A step-wise operation without parameters: a change of shape.

    apply, apply_packed: see MapResult.  identity: what tells two operations apart.
    """

    __slots__ = ("apply", "apply_packed", "identity")

    def __init__(
        self,
        segment: Segment,
        source: tuple[Stream, int, bool],
        identity: object,
        apply: Callable[[Tensor], Tensor],
        apply_packed: Callable[[PackedSpikes], PackedSpikes] | None,
        shape: torch.Size,
    ) -> None:
        parent, slot, cut = source
        super().__init__(
            *(segment, source, (shape,), (parent.dtypes[slot],), parent.device),
            *(parent.requires_grad and not cut, parent.whole and slot == 0),
        )
        self.identity, self.apply, self.apply_packed = identity, apply, apply_packed

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        assert not isinstance(source, Inputs)
        return MapStream(segment, source, self.identity, self.apply, self.apply_packed, self.shapes[0])

    def key(self) -> object:
        assert not isinstance(self.source, Inputs)
        return source_key(self.identity, self.source[1], self.source[2])
