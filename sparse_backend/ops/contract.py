"""What an implementation of the layer operator takes and gives, apart from how it computes it.

`Layer` is the operator's argument list as an object, `LayerOutputs` and `LayerGradients` its results.
`reference.py`, `cpu.py` and `cuda.py` each offer `forward(layer)` and `backward(layer, outputs, gradients)`
in these terms.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..constants import empty, zeros
from ..neurons import Coefficients, NeuronSpec, decode
from . import events

__all__ = [
    "COEFFICIENTS",
    "NEEDS",
    "Layer",
    "LayerGradients",
    "LayerOutputs",
    "OutputGradients",
    "all_active",
    "scan_form",
]

COEFFICIENTS = tuple(one.name for one in fields(Coefficients))
_CARRIER_BITS = {"membrane": 1, "gain": 2, "synapse": 4}
_FIRST, _LAST = 8, 8 + len(COEFFICIENTS)


def all_active(spec: NeuronSpec, gradient: str, level: float) -> bool:
    """Whether the gradient rule keeps every entry of every layer with this surrogate."""
    exact = gradient == "exact" or (gradient == "sampled" and level <= 0)
    return spec.fires and exact and spec.surrogate.everywhere_active


@dataclass
class Layer:
    """One fused feed + neuron layer over a whole sequence.

    source: dense input `[T, B, N_in]` (with a weight) or current `[T, B, N]` (without); a constant current
    `[B, N]`;
        or, when `in_ptr` is given, the carrier of the layer below, whose spikes are the `in_*` events.
    in_aptr, in_aidx: the carrier's positions; None when the carrier covers every entry (`[T, B, N_in]`).
    weight, bias: `[N, N_in]`, `[N]`.  m0, i0: initial states `[B, N]` (i0 is `[0]` for one pole).
    cuts: uint8 `[T]`, non-zero where the state that enters the step is detached.
    gradient: "none", "exact", "window" (level = half-width) or "sampled" (level = s0, key = the draw).
    learn: bit k is set when coefficient k of `COEFFICIENTS` needs a gradient.
    """

    source: Tensor
    in_ptr: Tensor | None
    in_idx: Tensor | None
    in_val: Tensor | None
    in_aptr: Tensor | None
    in_aidx: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    coefficients: Coefficients
    m0: Tensor
    i0: Tensor
    cuts: Tensor | None
    steps: int
    spec: NeuronSpec
    gradient: str
    level: float
    key: int
    learn: int
    want_spikes: bool
    want_membrane: bool
    # What follows from these, found once because it is asked for a dozen times.
    shape: tuple[int, int, int] = field(init=False)
    """(T, B, N)."""
    inputs: int = field(init=False)
    """N_in."""
    active_dense: bool = field(init=False)
    """Whether every entry is active, so that none is listed."""
    lists_active: bool = field(init=False)
    """Whether the active entries are listed one by one."""
    weight_t: Tensor | None = field(init=False, default=None)
    """W^T as the CPU kernels read it, once they have."""
    ran_by: ModuleType | None = field(init=False, default=None)
    """The implementation that ran it forward, once one has."""

    def __post_init__(self) -> None:
        batch, width = self.m0.shape
        self.shape = (self.steps, batch, width)
        self.inputs = width if self.weight is None else self.weight.shape[1]
        self.active_dense = all_active(self.spec, self.gradient, self.level)
        self.lists_active = self.spec.fires and self.gradient != "none" and not self.active_dense

    @classmethod
    def from_arguments(cls, *args: Any) -> Layer:
        """The operator's flat argument list, in schema order."""
        m0, i0, cuts, steps, neuron, *rest = args[_LAST:]
        coefficients = Coefficients(*args[_FIRST:_LAST])
        values: tuple[Any, ...] = (*args[:_FIRST], coefficients, m0, i0, cuts, steps, decode(neuron), *rest)
        return cls(*values)

    @property
    def packed(self) -> bool:
        """Whether the input is the events of the layer below."""
        return self.in_ptr is not None

    @functools.cached_property
    def density(self) -> float:
        """Fraction of non-zero entries of a packed input."""
        assert self.in_idx is not None
        return self.in_idx.numel() / max(1, self.steps * self.m0.shape[0] * self.inputs)

    @property
    def constant(self) -> bool:
        """Whether the same current flows at every step."""
        return not self.packed and self.source.dim() == 2

    @property
    def exact_reset(self) -> bool:
        """Whether the path through the step's own reset keeps the full surrogate while spikes are sampled.

        That path multiplies derivatives of one neuron at many steps. Products of draws would be biased where
        the draws are spread evenly, and of exploding variance where they are independent; left exact, every
        draw enters linearly and the expectation is the exact gradient.
        """
        return self.gradient == "sampled" and self.level > 0 and self.spec.post != "none"

    @property
    def carrier_dense(self) -> bool:
        """Whether the gradient of the spikes is wanted at every entry: all are active, or `graded` is
        learned."""
        return self.spec.fires and self.gradient != "none" and (self.active_dense or self.learns("graded"))

    def new_carrier(self, out: LayerOutputs) -> Tensor:
        """The carrier of the other outputs: zeros that take no memory. Nothing reads them; the events have
        the values."""
        if self.carrier_dense:
            return zeros(self.m0, self.shape)
        return zeros(self.m0, (out.aidx.numel(),)) if self.lists_active else empty(self.m0)

    def learns(self, name: str) -> bool:
        """Whether the coefficient needs a gradient that is not zero anyway."""
        return bool(self.learn and self.learn >> COEFFICIENTS.index(name) & 1) and self.spec.uses(name)

    @property
    def carriers(self) -> int:
        """The learned decay coefficients, whose sensitivities a forward scan carries: bits of the native
        modules."""
        return sum(bit for name, bit in _CARRIER_BITS.items() if self.learns(name)) if self.learn else 0

    def dense_input(self) -> Tensor:
        """The input as `[T, B, N_in]`, in the dtype of the computation."""
        if self.in_ptr is not None:
            assert self.in_idx is not None and self.in_val is not None
            shape = (self.steps, self.m0.shape[0], self.inputs)
            return events.expand(self.in_ptr, self.in_idx, self.in_val, shape, self.m0.dtype)
        source = self.source.to(self.m0.dtype)
        return source.expand(self.shape) if source.dim() == 2 else source


@dataclass
class LayerOutputs:
    """Results of the forward pass, in schema order; what was not asked for is empty (`[0]`).

    carrier: differentiable; its gradient is dL/dz at the active entries (`[P]`), or everywhere (`[T, B, N]`).
        Its values mean nothing.
    spikes, membrane: `[T, B, N]`.  m_last, i_last: final states `[B, N]`.
    ptr, idx, val: the output spikes.  aptr, aidx: the active entries, `au` the u there.
    sensitivities: `[P, C]` du/dp at the active entries for the C learned decay coefficients, spikes held
    fixed.
    tails: `[2, C, B, N]` the same derivative of the final m and i.  rptr, ridx: where r = 1, if spikes don't
    tell.
    """

    carrier: Tensor
    spikes: Tensor
    membrane: Tensor
    m_last: Tensor
    i_last: Tensor
    ptr: Tensor
    idx: Tensor
    val: Tensor
    aptr: Tensor
    aidx: Tensor
    au: Tensor
    sensitivities: Tensor
    tails: Tensor
    rptr: Tensor
    ridx: Tensor

    @classmethod
    def empty(cls, layer: Layer) -> LayerOutputs:
        """All outputs empty."""
        return cls(*_no_outputs(layer.m0))

    def flat(self) -> tuple[Tensor, ...]:
        return _output_fields(self)


_known: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}


def _no_outputs(like: Tensor) -> tuple[Tensor, ...]:
    found = _known.get((like.dtype, like.device)) if type(like) is Tensor else None
    if found is None:
        value, long, short = (empty(like, dtype) for dtype in (None, torch.int64, torch.int32))
        found = (
            *(value, value, value, value, value, long, short, value),
            *(long, short, value, value, value, long, short),
        )
        if all(type(one) is Tensor for one in (like, value, long, short)):
            _known[like.dtype, like.device] = found
    return found


_output_fields = operator.attrgetter(*(one.name for one in fields(LayerOutputs)))


@dataclass
class OutputGradients:
    """dL/d of the differentiable outputs, or None where nothing came back."""

    carrier: Tensor | None
    spikes: Tensor | None
    membrane: Tensor | None
    m_last: Tensor | None
    i_last: Tensor | None

    def dense_spikes(self, layer: Layer) -> Tensor | None:
        """dL/dz `[T, B, N]` from the outputs that carry it densely, or None."""
        dense = self.spikes
        if self.carrier is not None and layer.carrier_dense:
            dense = self.carrier if dense is None else dense + self.carrier
        return dense

    def use_surrogate(self, layer: Layer) -> bool:
        """Whether a gradient goes through a spike: one came back for it, or a reset hands it on."""
        return self.carrier is not None or self.spikes is not None or layer.spec.post != "none"

    def need_trajectory(self, layer: Layer) -> bool:
        """Whether the reverse scan recomputes u and m: sigma' is used and dense, or a learned decay's
        sensitivities are wanted where none were kept."""
        dense = layer.active_dense or not layer.spec.fires or self.membrane is not None
        return (
            (layer.active_dense and self.use_surrogate(layer))
            or layer.exact_reset
            or (layer.carriers != 0 and dense)
        )


def scan_form(layer: Layer, grads: OutputGradients | None) -> str:
    """The reverse scan's, "recompute" or "events"; as long as no gradients are known, with some at the
    spikes."""
    if grads is None:
        return "recompute" if layer.active_dense or layer.exact_reset else "events"
    return "recompute" if grads.need_trajectory(layer) else "events"


@dataclass
class LayerGradients:
    """dL/d of the differentiable inputs; `coefficients` is `[7, N]`, summed over time and batch."""

    source: Tensor
    weight: Tensor
    bias: Tensor
    coefficients: Tensor
    m0: Tensor
    i0: Tensor

    @classmethod
    def empty(cls, layer: Layer) -> LayerGradients:
        return cls(*[empty(layer.m0)] * len(NEEDS))

    @classmethod
    def for_input(cls, layer: Layer, lam: Tensor) -> LayerGradients:
        """Gradients of the feed, given dL/dI = lam `[T, B, N]`, by dense products."""
        result = cls.empty(layer)
        if layer.weight is None:
            below = lam
        else:
            flat = lam.reshape(-1, lam.shape[-1])
            result.weight = flat.t() @ layer.dense_input().reshape(flat.shape[0], -1)
            if layer.bias is not None:
                result.bias = flat.sum(0)
            below = lam @ layer.weight
        if layer.constant:
            below = below.sum(0)
        elif layer.in_aptr is not None:
            assert layer.in_aidx is not None
            below = events.gather(below, layer.in_aptr, layer.in_aidx)
        result.source = below.to(layer.source.dtype)
        return result

    def flat(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, one.name) for one in fields(self))


NEEDS = {one.name: 1 << bit for bit, one in enumerate(fields(LayerGradients))}
"""Bits of the backward operator's `needs`: the gradients that are wanted."""
