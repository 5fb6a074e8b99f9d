"""The stream of a running sum over another stream's steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .capture import Capture
from .stream import Source, Stream, source_key

if TYPE_CHECKING:
    from .segment import Segment

__all__ = ["SumStream"]


class SumStream(Stream):
    """start + the source's steps so far."""

    __slots__ = ("start",)

    def __init__(
        self,
        segment: Segment,
        source: tuple[Stream, int, bool],
        start: Capture | float,
        requires_grad: bool,
    ) -> None:
        parent, slot, _ = source
        super().__init__(
            *(segment, source, (parent.shapes[slot],), (parent.dtypes[slot],), parent.device, requires_grad)
        )
        self.start = start

    def start_value(self) -> Tensor | float:
        return self.start.value() if isinstance(self.start, Capture) else self.start

    def key(self) -> object:
        assert isinstance(self.source, tuple)
        return source_key(("sum", id(self)), self.source[1], self.source[2])

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        assert isinstance(source, tuple)
        return SumStream(segment, source, self.start, self.requires_grad)

    def continue_from(self, old: Stream) -> None:
        assert old.result is not None
        self.start = Capture(old.result.step(0, old.count - 1))

    def release(self) -> None:
        super().release()
        self.start = 0.0
