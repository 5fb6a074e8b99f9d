"""Streams: one module used at every step, fed by one source. What is recorded, and how it is executed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..neurons import Coefficients, Neuron, NeuronSpec
from ..ops.sequence import PackedSpikes
from .capture import Capture, Inputs
from .deferred import Deferred, blank, make
from .layer import Layer

if TYPE_CHECKING:
    from .results import Result
    from .segment import Segment

__all__ = ["FeedStream", "MapStream", "NeuronStream", "Source", "Stream"]

Source = Inputs | tuple["Stream", int, bool]
"""Captured real inputs, or (an earlier stream, its slot, whether detached from it)."""


class Stream:
    """One module use of a segment.

    segment: None once executed.  count: steps recorded.  shapes, dtypes: of a step, per slot.
    children: streams fed by this one, by module id (plain use of slot 0) or by a tuple that says what is fed.
    successor: the stream of the next segment to which the step after the last was moved (see
    Segment.carry_over). whole: a step is a whole sequence `[T, B, ...]` (Norse's time modules), and there is
    only one. grad, inference: the modes of the recording.
    """

    __slots__ = (
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
        "whole",
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
        self.blanks = [
            blank(shape, dtype, device, requires_grad) for shape, dtype in zip(shapes, dtypes, strict=True)
        ]
        self.children: dict[object, Stream] = {}
        self.result: Result | None = None
        self.successor: Stream | None = None

    @property
    def parent(self) -> Stream | None:
        return None if isinstance(self.source, Inputs) else self.source[0]

    def advance(self) -> Deferred:
        """Record one more step of a stateless stream; a captured input has been appended before."""
        step = self.count
        self.count = step + 1
        return make(self.blanks[0], self, step, 0)

    def again(self, step: int) -> Deferred:
        """The same step of a stateless stream once more."""
        return make(self.blanks[0], self, step, 0)

    def pop(self, segment: Segment, source: Source) -> Stream:
        """Take the last step off, as the first of a stream in another segment."""
        self.count -= 1
        moved = self._sibling(segment, source)
        moved.count = 1
        self.successor = moved
        return moved

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        raise NotImplementedError

    def key(self) -> object:
        """The key under which the parent (or the segment, for real inputs) finds this stream."""
        raise NotImplementedError

    def release(self) -> None:
        """Forget everything but the result: no cycle, no captured tensor may outlive the execution."""
        self.segment = None
        self.children = {}
        self.source = None  # type: ignore[assignment]


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

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        return FeedStream(
            segment, source, self.module, self.weight, self.bias, self.shapes[0], self.requires_grad
        )

    def key(self) -> object:
        plain = isinstance(self.source, Inputs)
        return id(self.module) if plain else source_key(id(self.module), self.source[1], self.source[2])  # type: ignore[index]

    def unchanged(self, module: nn.Module) -> bool:
        """Whether the module's parameters are those captured, untouched."""
        parameters = module._parameters
        weight, bias = parameters.get("weight"), parameters.get("bias")
        if weight is None or not self.weight.holds(weight):
            return False
        return bias is None if self.bias is None else bias is not None and self.bias.holds(bias)

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


class NeuronStream(Stream):
    """A neuron: slot 0 is its output, the others its states (m, then i).

    initial: the states that enter the first step, None for zeros.  held: weak references to the states
    handed out, per state and step.  cuts: the steps whose incoming state is detached.
    own_grad: whether outputs require a gradient whatever the incoming state does.
    """

    __slots__ = (
        "coefficients",
        "cuts",
        "fingerprint",
        "held",
        "initial",
        "layer",
        "module",
        "own_grad",
        "parameters",
        "spec",
        "want_dense",
    )

    def __init__(
        self,
        segment: Segment,
        source: Source,
        module: nn.Module,
        layer: Layer,
        spec: NeuronSpec,
        coefficients: tuple[Capture, ...],
        fingerprint: tuple[object, ...],
        parameters: tuple[Capture, ...],
        initial: tuple[Capture, ...] | None,
        shapes: tuple[torch.Size, ...],
        dtypes: tuple[torch.dtype, ...],
        device: torch.device,
        requires_grad: bool,
        own_grad: bool,
        whole: bool = False,
    ) -> None:
        super().__init__(segment, source, shapes, dtypes, device, requires_grad, whole)
        self.module, self.layer = module, layer
        self.spec, self.coefficients = spec, coefficients
        self.fingerprint, self.parameters = fingerprint, parameters
        self.initial = initial
        self.own_grad = own_grad
        self.held: tuple[list[weakref.ref[Deferred]], ...] = tuple([] for _ in shapes[1:])
        self.cuts: list[int] = []
        self.want_dense = False

    def key(self) -> object:
        if self.whole:
            return ("whole", id(self))
        plain = isinstance(self.source, Inputs)
        return id(self.module) if plain else source_key(id(self.module), self.source[1], self.source[2])  # type: ignore[index]

    def unchanged(self, module: nn.Module, layer: Layer) -> bool:
        """Whether the module is as it was when the stream began."""
        if layer.fingerprint(module) != self.fingerprint:
            return False
        parameters = layer.parameters(module)
        if len(parameters) != len(self.parameters):
            return False
        for captured, tensor in zip(self.parameters, parameters, strict=True):
            if not captured.holds(tensor):
                return False
        return True

    def follows(self, state: tuple[Tensor, ...] | None) -> bool:
        """Whether `state` is what the last step returned, all of it detached or none of it."""
        if state is None or len(state) != len(self.held):
            return False
        last, cut = self.count - 1, None
        for slot, value in enumerate(state, start=1):
            if (
                type(value) is not Deferred
                or value._source is not self
                or value._step != last
                or value._slot != slot
                or (cut is not None and value._cut is not cut)
            ):
                return False
            cut = value._cut
        return not cut or self.own_grad or not self.requires_grad

    def advance_neuron(self, cut: bool) -> tuple[Deferred, tuple[Deferred, ...]]:
        """Record one more step; the caller has checked everything and appended the captured input."""
        step = self.count
        blanks = self.blanks
        output = make(blanks[0], self, step, 0)
        if len(blanks) == 2:
            membrane = make(blanks[1], self, step, 1)
            self.held[0].append(weakref.ref(membrane))
            states: tuple[Deferred, ...] = (membrane,)
        else:
            states = tuple(make(blanks[slot], self, step, slot) for slot in range(1, len(blanks)))
            for held, state in zip(self.held, states, strict=True):
                held.append(weakref.ref(state))
        if cut:
            self.cuts.append(step)
        self.count = step + 1
        return output, states

    def pop(self, segment: Segment, source: Source) -> Stream:
        last = self.count - 1
        moved = super().pop(segment, source)
        assert isinstance(moved, NeuronStream)
        for mine, theirs in zip(self.held, moved.held, strict=True):
            theirs.append(mine.pop())
        if self.cuts and self.cuts[-1] == last:
            self.cuts.pop()
            moved.cuts.append(0)
        return moved

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        # The incoming state is this stream's final state, or (no step left here) its own incoming state;
        # Segment.carry_over sets it once that is known.
        return NeuronStream(
            *(segment, source, self.module, self.layer, self.spec, self.coefficients),
            *(self.fingerprint, self.parameters, self.initial),
            *(self.shapes, self.dtypes, self.device, self.requires_grad, self.own_grad, self.whole),
        )

    def neuron(self) -> Neuron:
        """The neuron with its coefficients as they were when the stream began."""
        return Neuron(self.spec, Coefficients(*(captured.value() for captured in self.coefficients)))

    def earlier_states_held(self) -> tuple[bool, ...]:
        """Per state, whether Python still holds it from a step before the last."""
        return tuple(any(ref() is not None for ref in held[:-1]) for held in self.held)

    def settle(self) -> None:
        """After the execution: last states become real where held, without keeping the sequence alive."""
        assert self.result is not None
        for slot, held in enumerate(self.held, start=1):
            last = held[-1]() if held else None
            if last is not None:
                value = self.result.step(slot, self.count - 1)
                last._real = value.detach() if last._cut else value
                last._exact = self.result.exact_links
                last._source = None

    def release(self) -> None:
        super().release()
        self.module = self.layer = self.initial = None  # type: ignore[assignment]
        self.parameters = self.coefficients = ()
        self.held = ()


def cuts_tensor(stream: NeuronStream, steps: int) -> Tensor | None:
    """uint8 `[T]`, non-zero where the incoming state is detached."""
    if not stream.cuts:
        return None
    cuts = torch.zeros(steps, dtype=torch.uint8)
    cuts[torch.tensor(stream.cuts)] = 1
    return cuts.to(stream.device)
