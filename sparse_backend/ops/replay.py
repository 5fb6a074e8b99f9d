"""Gradients that can be differentiated again (`create_graph=True`): the layer replayed through autograd,
dense.

The kernels have no second derivative. Where one is asked for, the same layer runs again as an ordinary torch
loop with the same active entries, so the answer is stock's, at stock's cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import events, reference
from .contract import Layer, LayerOutputs

__all__ = ["gradients"]


class _MaskedSpike(torch.autograd.Function):
    """H(x) forward; backward g * sigma'(x) at the active entries of one step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, active: Tensor | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.active = layer, active
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        slope = reference.surrogate_value(ctx.layer.spec, ctx.layer, x)
        if ctx.active is not None:
            slope = torch.where(ctx.active, slope, 0)
        return grads[0] * slope, None, None


def gradients(
    layer: Layer, out: LayerOutputs, grads: tuple[Tensor | None, ...], wanted: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """dL/d of the tensors in `wanted` (inputs of the layer), themselves differentiable.

    grads: dL/d of (carrier, spikes, membrane, m_last, i_last), None where nothing came back.
    """
    active: list[Tensor | None] = [None] * layer.steps
    if layer.spec.fires and not layer.active_dense:
        mask = events.expand(out.aptr, out.aidx, layer.m0.new_empty(0), layer.shape, layer.m0.dtype) != 0
        active = list(mask)
    steps = iter(active)

    def spike(x: Tensor) -> Tensor:
        fired: Tensor = _MaskedSpike.apply(x, layer, next(steps))
        return fired

    c = layer.coefficients
    reset_spike = layer.spec.surrogate if layer.exact_reset else None
    path = reference.integrate(
        layer.spec, c, _current(layer), layer.m0, layer.i0, layer.cuts, spike, reset_spike
    )
    z = path.s * c.graded
    carrier = z if layer.carrier_dense or not layer.spec.fires else events.gather(z, out.aptr, out.aidx)
    results = zip((carrier, z, path.m, path.m[-1], path.i[-1]), grads, strict=True)
    pairs = [(value, grad) for value, grad in results if grad is not None and value.requires_grad]
    if not pairs:
        return tuple(None for _ in wanted)
    values, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(values, wanted, cotangents, create_graph=True, allow_unused=True)


def _current(layer: Layer) -> Tensor:
    x = layer.dense_input()
    if layer.in_ptr is not None and layer.source.requires_grad:
        carrier = layer.source.to(x.dtype)
        if layer.in_aptr is not None:
            assert layer.in_aidx is not None
            carrier = events.expand(layer.in_aptr, layer.in_aidx, carrier, tuple(x.shape), x.dtype)  # type: ignore[arg-type]
        # The spikes are in x already; the carrier is added for its gradient only.
        x = x + (carrier - carrier.detach())
    return x if layer.weight is None else functional.linear(x, layer.weight, layer.bias)
