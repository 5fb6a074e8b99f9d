"""Segments: what one thread has recorded and not executed yet."""

from __future__ import annotations

import math
import threading
from typing import cast

import torch

from .capture import Inputs
from .deferred import Deferred
from .stream import Source, Stream

__all__ = ["Segment", "current", "locate", "same_modes", "start", "thread"]


MOST_STEPS = 4096
"""A segment is executed after so many steps, whether or not anybody has read a value."""
MOST_ENTRIES = 1 << 26
"""Without gradients, also when a layer's sequence would have more entries than this."""
FEWEST_STEPS = 16

_grad_enabled = torch.is_grad_enabled
_inference_enabled = torch.is_inference_mode_enabled


class Segment:
    """Streams in order of first use, and the modes under which they were recorded.

    A stream is fed by an earlier one, at the same step index, and a state comes from a stream's own last
    step: so the streams can be executed one after the other, each over all of its steps.

    limit: the number of steps at which it is executed in any case.  thread: identifier of the one that
    records it, all of whose other segments are closed.  acquire, release: of the lock, which the executing
    thread holds; a third of the time that `with` takes.
    """

    __slots__ = (
        "acquire",
        "closed",
        "entries",
        "grad",
        "inference",
        "limit",
        "lock",
        "release",
        "streams",
        "thread",
    )

    def __init__(self) -> None:
        self.grad = torch.is_grad_enabled()
        self.inference = torch.is_inference_mode_enabled()
        self.streams: list[Stream] = []
        # Streams that are fed by captured real inputs, by module id.
        self.entries: dict[object, Stream] = {}
        self.lock = threading.RLock()
        self.acquire, self.release = self.lock.acquire, self.lock.release
        self.closed = False
        self.limit = MOST_STEPS
        self.thread = threading.get_ident()

    def add(self, stream: Stream) -> None:
        """Take up a new stream."""
        self.streams.append(stream)
        if not self.grad:
            # Stock keeps one step at a time here; a sequence must not need many times its memory.
            most = MOST_ENTRIES // max(1, stream.shapes[0].numel())
            self.limit = min(self.limit, max(FEWEST_STEPS, most))
        parent = stream.parent
        (self.entries if parent is None else parent.children)[stream.key()] = stream

    def steps(self) -> int:
        """The length of the longest stream, in time steps: a time module's call has all of its sequence's."""
        return max((s.shapes[0][0] if s.whole else s.count for s in self.streams), default=0)

    def work(self, steps: int) -> float:
        """Multiply-adds that a feed does in `steps` steps, on average over the feeds."""
        each = [s.multiplications for s in self.streams if s.multiplications]
        return steps * sum(each) / len(each) if each else math.inf

    def unfinished_step(self, tensor: Deferred) -> list[Stream] | None:
        """The streams whose last step belongs to the same time step as `tensor`, in order; None if unclear.

        These are its ancestors and whatever else they feed.
        """
        step = tensor._step
        members: set[Stream] = set()
        todo = [cast(Stream, tensor._source)]
        while todo:
            stream = todo.pop()
            if stream in members or stream.count <= step:
                continue
            if stream.count != step + 1:
                return None
            members.add(stream)
            todo.extend(stream.children.values())
            todo.extend(stream.parents)
        return [stream for stream in self.streams if stream in members]

    def carry_over(self, moving: list[Stream]) -> tuple[Segment, list[tuple[Stream, Stream]]]:
        """A new segment that begins with the last step of the streams in `moving`.

        Returns it with pairs (old, new) of streams; the caller executes this segment and then lets each new
        one continue from its old one.
        """
        fresh = Segment()
        fresh.grad, fresh.inference = self.grad, self.inference
        pairs = []
        for stream in moving:
            if isinstance(stream.source, Inputs):
                source: Source = stream.source.pop(stream.count)
            else:
                parent, slot, cut = stream.source
                source = (cast(Stream, parent.successor), slot, cut)
            moved = stream.pop(fresh, source)
            fresh.add(moved)
            if stream.count:
                pairs.append((stream, moved))
        for stream in self.streams:
            if not stream.count:
                stream.release()
        self.streams = [stream for stream in self.streams if stream.count]
        return fresh, pairs


def locate(deferred: Deferred) -> Stream | None:
    """The stream that produces `deferred`, followed to where a step was moved; None once it is real."""
    stream = deferred._source
    while stream is not None and stream.successor is not None and deferred._step == stream.count:
        stream = deferred._source = stream.successor
        deferred._step = 0
    return stream


def same_modes(segment: Segment) -> bool:
    """Whether the gradient and inference modes are those of the recording."""
    grad = _grad_enabled()
    return grad is segment.grad and (grad or _inference_enabled() is segment.inference)


class _Thread(threading.local):
    segment: Segment | None = None


thread = _Thread()


def current() -> Segment | None:
    """The calling thread's open segment."""
    segment = thread.segment
    return segment if segment is not None and not segment.closed else None


def start(segment: Segment) -> Segment:
    """Make it the calling thread's segment."""
    thread.segment = segment
    return segment
