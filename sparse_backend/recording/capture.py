"""Tensors as they were when they were recorded: inputs of streams, and what a stream depends on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter

import torch
from torch import Tensor

from ..constants import empty
from ..ops import memory
from ..ops.growing_events import GrowingEvents
from ..ops.sequence import PackedSpikes
from ..torch_private import copy_on_write, place

__all__ = ["Capture", "Inputs", "Run", "recordable"]

MOST_COPIES = 512
BYTES_OF_COPIES = 1 << 26
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def recordable(tensor: Tensor, sparse: bool = False) -> bool:
    """Whether a real tensor can be an input: plain, floating point, not empty, not negated lazily, and dense.

    sparse: a sparse COO `[B, N]` tensor without a gradient will do, too.
    """
    return (
        type(tensor) in _PLAIN
        and (tensor.layout is torch.strided or (sparse and _is_sparse_input(tensor)))
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.numel() > 0
        and not tensor.is_neg()
    )


def _is_sparse_input(tensor: Tensor) -> bool:
    return tensor.is_sparse and tensor.sparse_dim() == tensor.dim() == 2 and not tensor.requires_grad


class Capture:
    """A parameter, buffer or state at one moment.

    `value()` is the tensor itself while nobody has written to it (so that torch's own check for changes
    between forward and backward applies), and its old content, linked to the same place in the autograd
    graph, afterwards; so it is where the tensor has been frozen or unfrozen since.
    """

    __slots__ = ("_alias", "_version", "place", "requires_grad", "tensor")

    def __init__(self, tensor: Tensor, shared: bool = True) -> None:
        """shared: whether anybody else can write to it."""
        alias = copy_on_write(tensor) if shared else tensor
        self.tensor = tensor
        self._alias = tensor.clone() if alias is None else alias
        self.place = place(tensor)
        self.requires_grad = tensor.requires_grad
        # A write to memory shared with the alias moves the tensor; the version counts only without one.
        self._version = -1 if alias is not None or tensor.is_inference() else tensor._version

    @property
    def moves_when_written(self) -> bool:
        """Whether `place` tells of every write."""
        return self._version < 0

    def holds(self, tensor: Tensor | None) -> bool:
        """Whether `tensor` is the captured one, unchanged."""
        held = self.tensor
        return (
            tensor is held
            and place(held) == self.place
            and held.requires_grad is self.requires_grad
            and (self._version < 0 or held._version == self._version)
        )

    def value(self) -> Tensor:
        return self.tensor if self.holds(self.tensor) else self._alias


class Run:
    """Steps one after the other that lie evenly spaced in one tensor; however many, they are one object.

    strides: None where each step is the tensor itself.  spacing: 0 while there is one step.  first: the index
    of the first step.
    """

    __slots__ = ("alias", "count", "first", "spacing", "start", "strides")

    def __init__(self, alias: Tensor, start: int, strides: tuple[int, ...] | None) -> None:
        self.alias, self.start, self.strides = alias, start, strides
        self.count, self.spacing, self.first = 1, 0, 0

    def goes_on(self, other: Run) -> bool:
        """Take up the single step `other`, if it is this one's next."""
        spacing = other.start - self.start if self.count == 1 else self.spacing
        fits = (
            other.alias is self.alias
            and other.strides == self.strides
            and other.start == self.start + self.count * spacing
        )
        if fits:
            self.count, self.spacing = self.count + 1, spacing
        return fits

    def single(self, index: int) -> Run:
        """A step as a run of its own."""
        return Run(self.alias, self.start + index * self.spacing, self.strides)

    def step(self, index: int, shape: torch.Size) -> Tensor:
        if self.strides is None:
            return self.alias
        return self.alias.as_strided(shape, self.strides, self.start + index * self.spacing)


_first = attrgetter("first")


class Inputs:
    """The real inputs of a stream, one per step, all of one shape, dtype and device.

    A step that is a view of a larger tensor costs one alias per larger tensor, not per step: the whole
    sequence is then read where it lies. The same tensor at every step is recognised as constant. Of sparse
    steps, what they hold is copied. Steps in memory that others write to behind torch's back (numpy's, or
    shared with another process, as a DataLoader's workers hand it over) are copied as well, or their events.
    """

    __slots__ = (
        "_alias",
        "_base",
        "_copied",
        "_copies",
        "_events",
        "_place",
        "_runs",
        "by_events",
        "device",
        "dtype",
        "requires_grad",
        "shape",
        "sparse",
    )

    def __init__(self, first: Tensor, requires_grad: bool, by_events: bool = False) -> None:
        """by_events: whether events will do, since a product with weights comes next."""
        self.by_events = by_events
        self.shape = first.shape
        self.dtype = first.dtype
        self.device = first.device
        self.sparse = first.is_sparse
        self.requires_grad = requires_grad
        self._runs: list[Run] = []
        # All steps, instead of runs.
        self._events: GrowingEvents | None = None
        self._base: Tensor | None = None
        self._alias: Tensor | None = None
        self._place = 0
        # Where copied steps go, how many are there, and the tensor that the last one was taken from.
        self._copies: Tensor | None = None
        self._copied: tuple[int, Tensor] = (0, first)

    def fits(self, tensor: Tensor, requires_grad: bool) -> bool:
        return (
            type(tensor) in _PLAIN
            and tensor.shape == self.shape
            and tensor.dtype is self.dtype
            and requires_grad == self.requires_grad
            and tensor.device == self.device
            and not tensor.is_neg()
            and (_is_sparse_input(tensor) if self.sparse else tensor.layout is torch.strided)
        )

    def append(self, tensor: Tensor, index: int) -> None:
        """Capture the step of that index; `fits` must hold. Later ones are forgotten: an interrupt, by Ctrl-C
        for one, may have come before they were recorded."""
        self._keep(index)
        if self.sparse:
            self._add(Run(self._copy_sparse(tensor), 0, None))
            return
        if self._events is not None:
            if GrowingEvents.suits(tensor) and self._events.add(tensor):
                return
            self._end_events()
        if self.requires_grad:
            # Each tensor keeps its own place in the graph (hooks and retain_grad on it work as in stock).
            base: Tensor = tensor
        else:
            base = tensor if tensor._base is None else tensor._base
            if base.dtype is not self.dtype:
                base = tensor
        if base is not self._base or place(base) != self._place:
            linked = self.requires_grad or not base.requires_grad
            self._alias = copy_on_write(base if linked else base.detach())
            if self._alias is None:
                self._base = None
                if self.requires_grad:
                    self._add(Run(tensor.clone(), 0, None))
                else:
                    self._add_copy(tensor, base)
                return
            self._base, self._place = base, place(base)
        assert self._alias is not None
        if self.requires_grad:
            self._add(Run(self._alias, 0, None))
        else:
            self._add(Run(self._alias, int(tensor.storage_offset()), tensor.stride()))

    def _keep(self, steps: int) -> None:
        """Forget all steps but the first."""
        if self._events is not None:
            self._events.steps = min(self._events.steps, steps)
            return
        while self._runs and self._runs[-1].first + self._runs[-1].count > steps:
            self._drop_last()

    def _drop_last(self) -> None:
        run = self._runs[-1]
        run.count -= 1
        if run.count == 1:
            run.spacing = 0
        elif not run.count:
            self._runs.pop()

    def _add(self, step: Run) -> None:
        if self._runs:
            last = self._runs[-1]
            if last.goes_on(step):
                return
            step.first = last.first + last.count
        self._runs.append(step)

    def _last(self) -> Run:
        return self._runs[-1].single(self._runs[-1].count - 1)

    def _add_copy(self, tensor: Tensor, base: Tensor) -> None:
        """Copy a step that numpy or another process may write to, unseen, before the next one.

        Copies lie one behind the other, so that the sequence need not be copied again; from the second step
        that differs only the events of all are kept, if they are few.
        """
        count, previous = self._copied
        if self._runs:
            if base is previous and torch.equal(tensor, self._last().step(0, self.shape)):
                self._add(self._last())
                return
            if self.by_events and self._begin_events(tensor):
                return
        if self._copies is None or count == len(self._copies):
            room = min(MOST_COPIES, max(1, BYTES_OF_COPIES // (tensor.numel() * tensor.element_size())))
            shape = (room, *self.shape)
            on_cpu = self.device.type == "cpu"
            self._copies = memory.empty(shape, self.dtype) if on_cpu else tensor.new_empty(shape)
            count = 0
        copy = self._copies[count]
        copy.copy_(tensor)
        self._copied = (count + 1, base)
        self._add(Run(self._copies, int(copy.storage_offset()), copy.stride()))

    def _begin_events(self, tensor: Tensor) -> bool:
        """Keep the events of the steps so far and of this one, and from now on nothing else; False if they
        are too many."""
        rows = [*self._rows(), tensor]
        if all(map(GrowingEvents.suits, rows)):
            events = GrowingEvents(tensor)
            if all(map(events.add, rows)):
                self._events = events
                self._runs.clear()
                self._copies, self._copied = None, (0, tensor)
                return True
        self.by_events = False
        return False

    def _end_events(self) -> None:
        """Make the steps dense that were kept as events only; several readers may ask at once."""
        events = self._events
        if events is None:
            return
        with events.lock:
            if self._events is None:
                return
            dense = events.dense()
            run = Run(dense, 0, dense.stride()[1:])
            run.count = dense.shape[0]
            run.spacing = dense.stride(0) if run.count > 1 else 0
            self._runs = [run]
            self._events, self.by_events = None, False

    def packed(self, steps: int) -> PackedSpikes | None:
        """The first `steps` inputs as events, if they exist as such."""
        if self.sparse:
            return PackedSpikes.from_sparse(self.sparse_sequence(steps))
        events = self._events
        if events is None:
            return None
        ptr, idx, val = events.lists(steps)
        batch, width = self.shape
        return PackedSpikes(
            *(empty(ptr, self.dtype), ptr, idx, val, None, None), *(steps, batch, width, self.dtype)
        )

    def _copy_sparse(self, tensor: Tensor) -> Tensor:
        """A copy, or the step before where that is the same: torch tells nobody of writes to its parts."""
        if tensor is self._base and self._runs:
            previous = self._runs[-1].alias
            if torch.equal(previous._indices(), tensor._indices()) and torch.equal(
                previous._values(), tensor._values()
            ):
                return previous
        self._base = tensor
        return tensor.detach().clone()

    def pop(self, steps: int) -> Inputs:
        """Take the last of the first `steps` off, as inputs of its own; later ones are forgotten."""
        self._keep(steps)
        if self._events is not None:
            tensor = self._events.drop_last()
            last = Inputs(tensor, self.requires_grad, by_events=True)
            last._runs = [Run(tensor, 0, tensor.stride())]
            return last
        last = Inputs(self._copied[1], self.requires_grad, self.by_events)
        last._base, last._alias, last._place = self._base, self._alias, self._place
        last._runs = [self._last()]
        last.shape = self.shape
        self._drop_last()
        return last

    def constant(self) -> bool:
        """Whether all steps are the same tensor."""
        return self._events is None and len(self._runs) == 1 and self._runs[0].spacing == 0

    def step(self, index: int) -> Tensor:
        self._end_events()
        run = self._runs[bisect_right(self._runs, index, key=_first) - 1]
        return run.step(index - run.first, self.shape)

    def _rows(self) -> Iterator[Tensor]:
        return (run.step(index, self.shape) for run in self._runs for index in range(run.count))

    def sequence(self, steps: int) -> Tensor:
        """The first `steps` inputs, `[T, *shape]`; no copy when they lie evenly spaced in one tensor."""
        if self.sparse:
            return self.sparse_sequence(steps).to_dense()
        self._end_events()
        if self.constant():
            return self.step(0).expand(steps, *self.shape)
        first = self._runs[0]
        # Forwards in one tensor: a view of it is the sequence.
        if first.count >= steps and first.spacing >= 0 and first.strides is not None:
            return first.alias.as_strided((steps, *self.shape), (first.spacing, *first.strides), first.start)
        rows = list(islice(self._rows(), steps))
        if self.requires_grad or self.device.type != "cpu":
            return torch.stack(rows)
        return torch.stack(rows, out=memory.empty((steps, *self.shape), self.dtype))

    def sparse_sequence(self, steps: int) -> Tensor:
        """The first `steps` sparse inputs as one sparse `[T, B, N]` tensor."""
        rows = list(islice(self._rows(), steps))
        counts = torch.tensor([row._nnz() for row in rows], device=self.device)
        step = torch.arange(steps, device=self.device).repeat_interleave(counts)
        indices = torch.cat([step.unsqueeze(0), torch.cat([row._indices() for row in rows], 1)])
        values = torch.cat([row._values() for row in rows])
        return torch.sparse_coo_tensor(indices, values, (steps, *self.shape), check_invariants=False)
