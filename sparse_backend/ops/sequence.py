"""`run_layer`: one feed + neuron layer over a whole sequence, the entry that recording and `functional`
share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..constants import empty
from ..errors import ArgumentError, ArgumentTypeError
from ..neurons import Neuron
from . import backend, events
from .contract import COEFFICIENTS, Layer, LayerOutputs, all_active
from .dense_feed import dense_feed
from .schema import run as run_operator
from .schema import run_to_dense

__all__ = ["GradientRule", "LayerOutput", "LinearFeed", "PackedSpikes", "run_layer"]


@dataclass(frozen=True)
class GradientRule:
    """How the surrogate is used: mode "none", "exact", "window" (level = half-width) or "sampled".

    Under "sampled", level is s0 (0: the surrogate as it is) and key the draw (`ops.random.stream_key`).
    """

    mode: str
    level: float = 0.0
    key: int = 0


@dataclass(frozen=True)
class LinearFeed:
    """I = W x + b; weight `[N, N_in]`, bias `[N]` or None."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass
class PackedSpikes:
    """The spikes of a layer as events, and the carrier through which their gradient returns (see
    contract.py)."""

    carrier: Tensor
    ptr: Tensor
    idx: Tensor
    val: Tensor
    aptr: Tensor | None
    aidx: Tensor | None
    steps: int
    batch: int
    width: int
    dtype: torch.dtype
    _dense: Tensor | None = field(default=None, repr=False)

    @classmethod
    def from_sparse(cls, x: Tensor) -> PackedSpikes:
        """A sparse COO `[T, B, N]` tensor that needs no gradient."""
        steps, batch, width = x.shape
        return cls(empty(x), *events.from_sparse(x), None, None, steps, batch, width, x.dtype)

    def to_dense(self) -> Tensor:
        """The spikes as `[T, B, N]`, differentiable; computed once."""
        if self._dense is None:
            dense = run_to_dense(
                self.carrier,
                self.ptr,
                self.idx,
                self.val,
                self.aptr,
                self.aidx,
                self.steps,
                self.batch,
                self.width,
            )
            self._dense = dense if dense.dtype == self.dtype else dense.to(self.dtype)
        return self._dense


@dataclass
class LayerOutput:
    """What a layer produced.

    spikes: packed, or None when the neuron does not fire.  dense_spikes, membrane: `[T, B, N]` if asked for.
    state: final states, each `[B, N]`.  active_fraction, spike_density: in [0, 1].
    counted: whether the two are known; they are not while a CUDA graph is captured.
    algorithm: the form chosen for each product.  saved_bytes: held for the backward pass beside the inputs.
    """

    spikes: PackedSpikes | None
    dense_spikes: Tensor | None
    membrane: Tensor | None
    state: tuple[Tensor, ...]
    active_fraction: float
    spike_density: float
    counted: bool
    algorithm: dict[str, str]
    saved_bytes: int


def run_layer(
    source: Tensor | PackedSpikes,
    feed: LinearFeed | None,
    neuron: Neuron,
    state: tuple[Tensor, ...],
    *,
    steps: int,
    rule: GradientRule,
    cuts: Tensor | None = None,
    want_spikes: bool = False,
    want_membrane: bool = False,
    spike_dtype: torch.dtype | None = None,
) -> LayerOutput:
    """Run a layer over `steps` time steps.

    source: `[T, B, N_in]` of any dtype, dense or sparse COO, or `[B, N_in]` for an input that is the same at
    every step, or the layer below's spikes.
    state: initial (m,) or (m, i), each `[B, N]`; their dtype is the dtype of the computation (float32 or
    float64).
    cuts: uint8 `[T]`; non-zero where the state that enters the step is detached.
    spike_dtype: dtype of the spikes that are handed on; the dtype of the computation unless given.
    Raises: ArgumentError, ArgumentTypeError.
    """
    _check(source, feed, neuron, state, steps, cuts)
    spec = neuron.spec
    m0 = state[0]
    if isinstance(source, Tensor) and source.is_sparse:
        as_events = feed is not None and source.dim() == 3 and not source.requires_grad
        if source.dtype is not m0.dtype:
            source = source.coalesce()  # repeated entries are added up in their own dtype: one and one is one
        source = PackedSpikes.from_sparse(source.to(m0.dtype)) if as_events else source.to_dense()
    elif isinstance(source, Tensor):
        source = source.resolve_neg()
    i0 = state[1] if spec.poles == 2 else empty(m0)
    weight, bias = (feed.weight, feed.bias) if feed is not None else (None, None)
    packed: tuple[Tensor | None, ...] = (None,) * 5
    if isinstance(source, PackedSpikes):
        tensor, packed = source.carrier, (source.ptr, source.idx, source.val, source.aptr, source.aidx)
    else:
        tensor = source
        found = None
        if tensor.dim() == 3 and weight is not None and not tensor.requires_grad:
            found = backend.compress(tensor.detach())
        if found is not None:
            tensor, packed = empty(m0), (*found, None, None)
        elif weight is not None and (
            tensor.dim() == 2 or not spec.fires or all_active(spec, rule.mode, rule.level)
        ):
            # A constant input is one product, computed and differentiated once; and where lam is dense
            # anyway, torch's own matrix products serve the feed.
            tensor, weight, bias = dense_feed(tensor.to(m0.dtype), weight, bias), None, None
    coefficients = neuron.coefficients.tensors()
    differentiable = torch.is_grad_enabled() and True in [
        value is not None and value.requires_grad for value in (tensor, weight, bias, m0, i0, *coefficients)
    ]
    if not differentiable:
        rule = GradientRule("none")
    learn = sum(
        [1 << bit for bit, value in enumerate(coefficients) if differentiable and value.requires_grad]
    )
    args = (
        *(tensor, *packed, weight, bias, *coefficients, m0, i0, cuts),
        *(steps, spec.encode(), rule.mode, rule.level, rule.key, learn, want_spikes, want_membrane),
    )
    layer, out = run_operator(*args)
    return _describe(layer, out, spike_dtype or m0.dtype)


def _describe(layer: Layer, out: LayerOutputs, spike_dtype: torch.dtype) -> LayerOutput:
    steps, batch, width = layer.shape
    entries = max(1, steps * batch * width)
    spec = layer.spec
    spikes = None
    if spec.fires:
        listed = not layer.carrier_dense and out.aptr.numel() > 0
        aptr, aidx = (out.aptr, out.aidx) if listed else (None, None)
        spikes = PackedSpikes(
            out.carrier, out.ptr, out.idx, out.val, aptr, aidx, steps, batch, width, spike_dtype
        )
    dense = out.spikes.to(spike_dtype) if layer.want_spikes and spec.fires else None
    if spikes is not None and dense is not None:
        spikes._dense = dense
    return LayerOutput(
        spikes=spikes,
        dense_spikes=dense,
        membrane=out.membrane if layer.want_membrane else None,
        state=(out.m_last, out.i_last) if spec.poles == 2 else (out.m_last,),
        active_fraction=1.0 if layer.active_dense else out.aidx.numel() / entries,
        spike_density=out.idx.numel() / entries,
        counted=backend.counts(layer),
        algorithm=backend.choices(layer, out),
        saved_bytes=sum([value.nbytes for value in out.flat()[COUNTED_FROM:]])
        + (0 if layer.weight_t is None else layer.weight_t.nbytes),
    )


COUNTED_FROM = tuple(LayerOutputs.__dataclass_fields__).index("ptr")


def _check(
    source: Tensor | PackedSpikes,
    feed: LinearFeed | None,
    neuron: Neuron,
    state: tuple[Tensor, ...],
    steps: int,
    cuts: Tensor | None,
) -> None:
    if steps < 1:
        raise ArgumentError(f"steps={steps}: a sequence needs at least one time step")
    poles = neuron.spec.poles
    if len(state) != poles:
        raise ArgumentError(f"state has {len(state)} tensors; this neuron has {poles}")
    m0 = state[0]
    if m0.dim() != 2 or any(value.shape != m0.shape for value in state):
        raise ArgumentError(f"state shapes {[tuple(v.shape) for v in state]} must all be the same [B, N]")
    if not m0.dtype.is_floating_point:
        raise ArgumentTypeError(f"state has dtype {m0.dtype}; it must be floating point")
    batch, width = m0.shape
    inputs = width
    if feed is not None:
        if feed.weight.dim() != 2 or feed.weight.shape[0] != width:
            raise ArgumentError(f"weight has shape {tuple(feed.weight.shape)}; it must be [N={width}, N_in]")
        if feed.bias is not None and tuple(feed.bias.shape) != (width,):
            raise ArgumentError(f"bias has shape {tuple(feed.bias.shape)}; it must be [N={width}]")
        inputs = feed.weight.shape[1]
    if isinstance(source, PackedSpikes):
        shape: tuple[int, ...] = (source.steps, source.batch, source.width)
    else:
        shape = tuple(source.shape)
    allowed = ((steps, batch, inputs), (batch, inputs))
    if shape not in allowed:
        raise ArgumentError(
            f"source has shape {shape}; it must be {allowed[0]} or, constant in time, {allowed[1]}"
        )
    for name, value in zip(COEFFICIENTS, neuron.coefficients.tensors(), strict=True):
        if value.dim() and tuple(value.shape) != (width,):
            raise ArgumentError(f"{name} has shape {tuple(value.shape)}; it must be a scalar or [N={width}]")
    if cuts is not None and (tuple(cuts.shape) != (steps,) or cuts.dtype != torch.uint8):
        raise ArgumentError(
            f"cuts has shape {tuple(cuts.shape)}, dtype {cuts.dtype}; it must be uint8 [T={steps}]"
        )
    tensors = [*state, *neuron.coefficients.tensors(), *([] if feed is None else [feed.weight])]
    if not isinstance(source, PackedSpikes):
        tensors.append(source)
    devices = {value.device for value in tensors}
    if len(devices) > 1:
        raise ArgumentError(
            f"devices {sorted(map(str, devices))} are mixed; all tensors must be on one device"
        )
