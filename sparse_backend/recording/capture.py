"""Tensors as they were when they were recorded: inputs of streams, and what a stream depends on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import memory
from ..torch_private import copy_on_write, place

__all__ = ["Capture", "Inputs", "recordable"]

Slice = tuple[Tensor, int, tuple[int, ...]]
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


class Inputs:
    """The real inputs of a stream, one per step, all of one shape, dtype and device.

    A step that is a view of a larger tensor costs one alias per larger tensor, not per step: the whole
    sequence is then read where it lies. The same tensor at every step is recognised as constant. Of sparse
    steps, what they hold is copied.
    """

    __slots__ = (
        "_alias",
        "_base",
        "_copied",
        "_copies",
        "_place",
        "_steps",
        "device",
        "dtype",
        "requires_grad",
        "shape",
        "sparse",
    )

    def __init__(self, first: Tensor, requires_grad: bool) -> None:
        self.shape = first.shape
        self.dtype = first.dtype
        self.device = first.device
        self.sparse = first.is_sparse
        self.requires_grad = requires_grad
        # Per step: a tensor of its own, or (alias, storage offset, strides).
        self._steps: list[Tensor | Slice] = []
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

    def append(self, tensor: Tensor) -> None:
        """Capture one step; `fits` must hold."""
        if self.sparse:
            self._steps.append(self._copy_sparse(tensor))
            return
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
                self._steps.append(tensor.clone() if self.requires_grad else self._copy(tensor, base))
                return
            self._base, self._place = base, place(base)
        assert self._alias is not None
        if self.requires_grad:
            self._steps.append(self._alias)
        else:
            self._steps.append((self._alias, int(tensor.storage_offset()), tensor.stride()))

    def _copy(self, tensor: Tensor, base: Tensor) -> Slice:
        """Copy a step that numpy or another process may write to, unseen, before the next one.

        Copies lie one behind the other, so that the sequence need not be copied again.
        """
        count, previous = self._copied
        if base is previous and self._steps and torch.equal(tensor, self.step(-1)):
            same = self._steps[-1]
            assert not isinstance(same, Tensor)
            return same
        if self._copies is None or count == len(self._copies):
            room = min(MOST_COPIES, max(1, BYTES_OF_COPIES // (tensor.numel() * tensor.element_size())))
            self._copies = torch.empty((room, *self.shape), dtype=self.dtype, device=self.device)
            count = 0
        copy = self._copies[count]
        copy.copy_(tensor)
        self._copied = (count + 1, base)
        return self._copies, int(copy.storage_offset()), copy.stride()

    def _copy_sparse(self, tensor: Tensor) -> Tensor:
        """A copy, or the step before where that is the same: torch tells nobody of writes to its parts."""
        if tensor is self._base and self._steps:
            previous = self._steps[-1]
            assert isinstance(previous, Tensor)
            if torch.equal(previous._indices(), tensor._indices()) and torch.equal(
                previous._values(), tensor._values()
            ):
                return previous
        self._base = tensor
        return tensor.detach().clone()

    def pop(self) -> Inputs:
        """Take the last step off, as inputs of its own."""
        last = Inputs(self._copied[1], self.requires_grad)
        last._base, last._alias, last._place = self._base, self._alias, self._place
        last._steps = [self._steps.pop()]
        last.shape = self.shape
        return last

    def constant(self) -> bool:
        """Whether all steps are the same tensor."""
        first = self._steps[0]
        if isinstance(first, Tensor):
            return all(step is first for step in self._steps)
        return all(
            not isinstance(step, Tensor) and step[0] is first[0] and step[1:] == first[1:]
            for step in self._steps
        )

    def step(self, index: int) -> Tensor:
        step = self._steps[index]
        return step if isinstance(step, Tensor) else step[0].as_strided(self.shape, step[2], step[1])

    def sequence(self, steps: int) -> Tensor:
        """The first `steps` inputs, `[T, *shape]`; no copy when they lie evenly spaced in one tensor."""
        if self.sparse:
            return self.sparse_sequence(steps).to_dense()
        if self.constant():
            return self.step(0).expand(steps, *self.shape)
        slices = [step for step in self._steps[:steps] if not isinstance(step, Tensor)]
        if len(slices) == steps:
            alias, start, strides = slices[0]
            spacing = slices[1][1] - start if steps > 1 else 0
            # An address in arithmetic progression, forwards, in one tensor: a view of it is the sequence.
            if spacing >= 0 and all(
                other is alias and offset == start + index * spacing and stride == strides
                for index, (other, offset, stride) in enumerate(slices)
            ):
                return alias.as_strided((steps, *self.shape), (spacing, *strides), start)
        rows = [self.step(index) for index in range(steps)]
        if self.requires_grad or self.device.type != "cpu":
            return torch.stack(rows)
        return torch.stack(rows, out=memory.empty((steps, *self.shape), self.dtype))

    def sparse_sequence(self, steps: int) -> Tensor:
        """The first `steps` sparse inputs as one sparse `[T, B, N]` tensor."""
        rows = [self.step(index) for index in range(steps)]
        counts = torch.tensor([row._nnz() for row in rows], device=self.device)
        step = torch.arange(steps, device=self.device).repeat_interleave(counts)
        indices = torch.cat([step.unsqueeze(0), torch.cat([row._indices() for row in rows], 1)])
        values = torch.cat([row._values() for row in rows])
        return torch.sparse_coo_tensor(indices, values, (steps, *self.shape), check_invariants=False)
