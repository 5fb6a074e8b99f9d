"""What an executed stream offers to those who hold its steps; dense tensors are made when they are read.

A result has up to three slots: 0 the output, 1 and 2 the states. All methods run under the recorded modes
(see execute.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import DeferredEscapeError, RecordedStepError
from ..ops.sequence import PackedSpikes
from ..torch_private import lazy_clone
from .capture import Capture, Inputs
from .split import split_steps

__all__ = [
    "Failed",
    "FeedResult",
    "InputsResult",
    "MapResult",
    "NeuronResult",
    "Result",
    "StepResult",
    "SumResult",
    "detach_packed",
]

_SELECT_LIMIT = 2
"""Steps read one by one before the sequence is split: each select costs a full-size gradient."""


class Result:
    """Base class: dense sequences, cached, and steps taken from them."""

    step_bytes = 1
    """At most so many are written for each step of this result, as far as they are not kept anyway."""
    exact_links = False
    """Whether a step is itself the link in the autograd graph, so that hooks on it see the whole gradient."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._split: dict[int, tuple[Tensor, ...]] = {}
        self._selected = 0

    def sequence(self, slot: int) -> Tensor:
        """All steps of a slot, `[T, *step]`; not to be written to."""
        raise NotImplementedError

    def stretches(self, slot: int, steps: int, length: int) -> Iterator[Tensor]:
        """The first `steps` of a slot, `length` at a time, each `[length or less, *step]`."""
        yield from self.sequence(slot)[:steps].split(length)

    def packed(self, slot: int) -> PackedSpikes | None:
        """All steps as events `[T, B, N]`, where they exist as such."""
        return None

    def constant(self) -> Tensor | None:
        """The step `[*step]` that all steps are equal to, if it is known."""
        return None

    def step(self, slot: int, index: int) -> Tensor:
        """One step, a tensor that shares no memory with any other."""
        if slot not in self._split:
            sequence = self.sequence(slot)
            if self._selected < _SELECT_LIMIT:
                self._selected += 1
                return sequence[index].clone()
            self._split[slot] = split_steps(lazy_clone(sequence))
        return self._split[slot][index]


class Failed(Result):
    """Stands for a stream whose execution raised."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(0)
        self._cause = cause

    def sequence(self, slot: int) -> Tensor:
        raise RecordedStepError(
            f"this value was recorded, and computing it failed: {type(self._cause).__name__}: {self._cause}"
        ) from self._cause

    def packed(self, slot: int) -> PackedSpikes | None:
        self.sequence(slot)
        return None

    def step(self, slot: int, index: int) -> Tensor:
        return self.sequence(slot)


class InputsResult(Result):
    """Captured real inputs."""

    def __init__(self, inputs: Inputs, steps: int) -> None:
        super().__init__(steps)
        self._inputs = inputs
        self._sequence: Tensor | None = None

    def sequence(self, slot: int) -> Tensor:
        if self._sequence is None:
            self._sequence = self._inputs.sequence(self.steps)
        return self._sequence

    def packed(self, slot: int) -> PackedSpikes | None:
        return self._inputs.packed(self.steps)

    def constant(self) -> Tensor | None:
        return self._inputs.step(0) if self._inputs.constant() else None

    def step(self, slot: int, index: int) -> Tensor:
        return self._inputs.step(index)


class FeedResult(Result):
    """W x + b, computed when somebody reads it; neurons fuse the product instead."""

    def __init__(self, source: Result, slot: int, weight: Capture, bias: Capture | None, steps: int) -> None:
        super().__init__(steps)
        self.source, self.slot, self.weight, self.bias = source, slot, weight, bias
        self._sequence: Tensor | None = None
        self._constant: Tensor | None = None

    def product(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.value(), None if self.bias is None else self.bias.value())

    def sequence(self, slot: int) -> Tensor:
        if self._sequence is None:
            constant = self.constant()
            if constant is not None:
                self._sequence = constant.expand(self.steps, *constant.shape)
            else:
                self._sequence = self.product(self.source.sequence(self.slot)[: self.steps])
        return self._sequence

    def constant(self) -> Tensor | None:
        if self._constant is None:
            source = self.source.constant()
            if source is not None:
                self._constant = self.product(source)
        return self._constant

    def step(self, slot: int, index: int) -> Tensor:
        constant = self.constant()
        if constant is not None:
            return constant.clone()
        if self._sequence is None and self._selected < _SELECT_LIMIT:
            self._selected += 1
            return self.product(self.source.step(self.slot, index))
        return super().step(slot, index)


class MapResult(Result):
    """A step-wise operation without parameters, applied to the whole sequence when somebody reads it.

    apply: from `[T, *step]` to `[T, *new step]`.  apply_packed: the same on events, or None where it has no
    such form.
    """

    def __init__(
        self,
        source: Result,
        slot: int,
        steps: int,
        apply: Callable[[Tensor], Tensor],
        apply_packed: Callable[[PackedSpikes], PackedSpikes] | None,
    ) -> None:
        super().__init__(steps)
        self._source, self._slot = source, slot
        self._apply, self._apply_packed = apply, apply_packed
        self._sequence: Tensor | None = None

    def sequence(self, slot: int) -> Tensor:
        if self._sequence is None:
            self._sequence = self._apply(self._source.sequence(self._slot)[: self.steps])
        return self._sequence

    def packed(self, slot: int) -> PackedSpikes | None:
        if self._apply_packed is None:
            return None
        packed = self._source.packed(self._slot)
        return None if packed is None else self._apply_packed(packed)

    def constant(self) -> Tensor | None:
        constant = self._source.constant()
        return None if constant is None else self._apply(constant.unsqueeze(0)).squeeze(0)


class SumResult(Result):
    """start + the source's steps so far; the last one, mostly the only one read, is a sum over time."""

    def __init__(self, source: Result, slot: int, steps: int, start: Tensor | float) -> None:
        super().__init__(steps)
        self._source, self._slot, self._start = source, slot, start
        self._sequence: Tensor | None = None

    def sequence(self, slot: int) -> Tensor:
        if self._sequence is None:
            self._sequence = self._source.sequence(self._slot)[: self.steps].cumsum(0) + self._start
        return self._sequence

    def step(self, slot: int, index: int) -> Tensor:
        if self._sequence is None and self._selected < _SELECT_LIMIT:
            self._selected += 1
            return self._source.sequence(self._slot)[: index + 1].sum(0) + self._start
        return super().step(slot, index)


class NeuronResult(Result):
    """An executed neuron.

    shape: of a step, `[B, ...]`, or of the sequence if `whole` (then the only step is `[T, B, ...]`).
    membrane: `[T, B, N]`, kept only if somebody held an earlier membrane.  states: final, each `[B, ...]`.
    """

    def __init__(
        self,
        steps: int,
        shape: torch.Size,
        spikes: PackedSpikes | None,
        membrane: Tensor | None,
        states: tuple[Tensor, ...],
        output_is_membrane: bool,
        whole: bool,
    ) -> None:
        super().__init__(steps)
        self._shape = shape
        self._spikes, self._membrane, self.states = spikes, membrane, states
        self._output_is_membrane = output_is_membrane
        self._whole = whole

    def _dense(self, slot: int) -> Tensor:
        if slot == 0 and not self._output_is_membrane:
            assert self._spikes is not None
            return self._spikes.to_dense()
        if slot <= 1 and self._membrane is not None:
            return self._membrane
        raise DeferredEscapeError(
            f"{'a membrane potential' if slot == 1 else 'a state'} of an earlier time step is read that "
            "nothing in Python seemed to hold when the recorded steps were executed. Keep a reference to it "
            "until it is read, or read it (for instance mem.clone()) before the loop ends."
        )

    def sequence(self, slot: int) -> Tensor:
        dense = self._dense(slot)
        return dense.reshape(1, *self._shape) if self._whole else dense.reshape(self.steps, *self._shape)

    def packed(self, slot: int) -> PackedSpikes | None:
        return self._spikes if slot == 0 else None

    def step(self, slot: int, index: int) -> Tensor:
        if slot > 0 and index == self.steps - 1:
            return lazy_clone(self.states[slot - 1])
        if self._whole:
            return lazy_clone(self.sequence(slot)[0])
        return super().step(slot, index)


class StepResult(Result):
    """A stream that was executed step by step: every step is a tensor of its own and a link in the graph."""

    exact_links = True

    def __init__(self, slots: tuple[list[Tensor], ...]) -> None:
        super().__init__(len(slots[0]))
        self._slots = slots
        self._sequences: dict[int, Tensor] = {}

    def sequence(self, slot: int) -> Tensor:
        if slot not in self._sequences:
            self._sequences[slot] = torch.stack(self._slots[slot])
        return self._sequences[slot]

    def step(self, slot: int, index: int) -> Tensor:
        return self._slots[slot][index]


def detach_packed(packed: PackedSpikes) -> PackedSpikes:
    """The same spikes without their gradient."""
    return replace(packed, carrier=packed.carrier.detach(), _dense=None)
