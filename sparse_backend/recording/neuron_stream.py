"""The stream of a neuron: steps with a state that each hands to the next."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..neurons import Coefficients, Neuron, NeuronSpec
from .capture import Capture, Inputs
from .deferred import Deferred
from .layer import Layer
from .stream import Source, Stream, source_key
from .watch import Watch

if TYPE_CHECKING:
    from .segment import Segment

__all__ = ["NeuronStream", "NeuronUse"]


@dataclass
class NeuronUse:
    """A neuron module as it was when its stream began; kept for the next one by a layer that has a `memory`.

    shapes, dtypes: of a step's output and states.  whole: a step is a whole sequence `[T, B, ...]`.
    watch: see Stream.
    """

    layer: Layer
    spec: NeuronSpec
    coefficients: tuple[Capture, ...]
    fingerprint: tuple[object, ...]
    parameters: tuple[Capture, ...]
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    device: torch.device
    whole: bool
    watch: Watch | None

    @property
    def lasting(self) -> bool:
        """Whether it is good for as long as `unchanged` says so, and nothing was computed with a gradient."""
        return all(captured.moves_when_written for captured in self.parameters) and not any(
            captured.tensor.requires_grad for captured in (*self.parameters, *self.coefficients)
        )

    def unchanged(self, module: nn.Module, layer: Layer) -> bool:
        """Whether the module is still as it was."""
        fingerprint = layer.fingerprint(module)
        if fingerprint is not self.fingerprint and fingerprint != self.fingerprint:
            return False
        captures, parameters = self.parameters, layer.parameters(module)
        if len(parameters) != len(captures):
            return False
        # The loop that runs at every step: no generator, no zip.
        index = 0
        for tensor in parameters:
            if not captures[index].holds(tensor):
                return False
            index += 1  # noqa: SIM113
        return True

    def neuron(self) -> Neuron:
        """The neuron with its coefficients as they were."""
        return Neuron(self.spec, Coefficients(*(captured.value() for captured in self.coefficients)))


class NeuronStream(Stream):
    """A neuron: slot 0 is its output, the others its states (m, then i).

    initial: the states that enter the first step, None for zeros.  own_grad: whether the outputs require a
    gradient, whatever the incoming state does.  cuts: the steps whose incoming state is detached.
    want_dense: the output will be read.
    """

    __slots__ = ("cuts", "initial", "module", "own_grad", "use", "want_dense")

    def __init__(
        self,
        segment: Segment,
        source: Source,
        module: nn.Module,
        use: NeuronUse,
        initial: tuple[Capture, ...] | None,
        requires_grad: bool,
        own_grad: bool,
    ) -> None:
        super().__init__(segment, source, use.shapes, use.dtypes, use.device, requires_grad, use.whole)
        self.module, self.use = module, use
        self.initial, self.own_grad = initial, own_grad
        self.cuts: list[int] = []
        self.want_dense = False
        self.watch = use.watch

    def key(self) -> object:
        if self.whole:
            return ("whole", id(self))
        identity = id(self.module)
        return identity if isinstance(self.source, Inputs) else source_key(identity, *self.source[1:])

    def follows(self, state: tuple[Tensor, ...] | None) -> bool:
        """Whether `state` is what the last step returned, all of it detached or none of it."""
        if state is None or len(state) != len(self.shapes) - 1:
            return False
        last, cut, slot = self.count - 1, None, 0
        for value in state:
            slot += 1  # noqa: SIM113
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
        wrappers = self.wrappers
        output, membrane = wrappers[0].take(self, step), wrappers[1].take(self, step)
        if cut:
            self.cuts.append(step)
        self.count = step + 1
        if len(wrappers) == 2:
            return output, (membrane,)
        return output, (membrane, wrappers[2].take(self, step))

    def pop(self, segment: Segment, source: Source) -> Stream:
        last = self.count - 1
        moved = super().pop(segment, source)
        assert isinstance(moved, NeuronStream)
        if self.cuts and self.cuts[-1] == last:
            self.cuts.pop()
            moved.cuts.append(0)
        return moved

    def _sibling(self, segment: Segment, source: Source) -> Stream:
        # Its incoming state is this stream's final state, set by `continue_from` once that is known; where no
        # step is left here, it is this stream's own incoming state.
        return NeuronStream(
            *(segment, source, self.module, self.use, self.initial, self.requires_grad, self.own_grad)
        )

    def continue_from(self, old: Stream) -> None:
        assert old.result is not None
        states = [old.result.step(slot, old.count - 1) for slot in range(1, len(old.shapes))]
        self.initial = tuple(Capture(state) for state in states)

    def earlier_states_held(self) -> tuple[bool, ...]:
        """Per state, whether Python still holds it from a step before the last."""
        return tuple(states.earlier_held() for states in self.wrappers[1:])

    def settle(self) -> None:
        """After the execution: last states become real where held, without keeping the sequence alive."""
        result = self.result
        assert result is not None
        for slot, states in enumerate(self.wrappers[1:], start=1):
            last = states.last_held()
            if last is not None:
                value = result.step(slot, self.count - 1)
                last._real = value.detach() if last._cut else value
                last._exact = result.exact_links
                last._before = states.before_last()
                last._origin = weakref.ref(self)
                last._source = None

    def release(self) -> None:
        super().release()
        self.module = self.use = self.initial = None  # type: ignore[assignment]


def cuts_tensor(stream: NeuronStream, steps: int) -> Tensor | None:
    """uint8 `[T]`, non-zero where the incoming state is detached."""
    if not stream.cuts:
        return None
    cuts = torch.zeros(steps, dtype=torch.uint8)
    cuts[torch.tensor(stream.cuts)] = 1
    return cuts.to(stream.device)
