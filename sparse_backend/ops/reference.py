"""The operator in plain torch: the readable definition that every kernel is tested against.

Dense in time and slow, but any device, any dtype, no native code. The derivation is in docs/how-it-works.md;
the
adjoints are named as there: l of m[t], upsilon of u[t], mu of w[t], eta of i[t], lam of the synaptic current.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..neurons import Coefficients, NeuronSpec
from . import events, random
from .contract import Layer, LayerGradients, LayerOutputs, OutputGradients

__all__ = [
    "Trajectory",
    "active_entries",
    "after_spike",
    "backward",
    "forward",
    "integrate",
    "surrogate_value",
]


@dataclass
class Trajectory:
    """Every variable of the step, `[T, B, N]`: `drive` is i', `i` and `m` are the carried states after the
    step."""

    drive: Tensor
    u: Tensor
    s: Tensor
    r: Tensor
    m: Tensor
    i: Tensor
    m_before: Tensor
    i_before: Tensor


def integrate(
    spec: NeuronSpec,
    c: Coefficients,
    current: Tensor,
    m: Tensor,
    i: Tensor,
    cuts: Tensor | None = None,
    spike: Callable[[Tensor], Tensor] | None = None,
    reset_spike: Callable[[Tensor], Tensor] | None = None,
) -> Trajectory:
    """Run the step over `[T, B, N]` currents from states `[B, N]` (i is unused by one-pole neurons).

    With a differentiable `spike` (a `Surrogate`; `reset_spike` where the reset has one of its own), autograd
    through this loop is the dense BPTT of stock libraries.
    """
    fire = spike or (lambda x: (x > 0).to(x.dtype))
    steps: dict[str, list[Tensor]] = {name: [] for name in Trajectory.__dataclass_fields__}
    off = torch.zeros_like(m)
    i = i if spec.poles == 2 else off
    for t, inflow in enumerate(current):
        if cuts is not None and bool(cuts[t]):
            m, i = m.detach(), i.detach()
        m_before, i_before = m, i
        r = (m > c.threshold).to(m.dtype) if spec.uses_previous_spike else off
        if spec.integrator == "decay":
            drive = c.synapse * i + inflow if spec.poles == 2 else inflow
            kept = (1 - r) * m if spec.pre == "cut_leak" else m
            w = c.membrane * kept + c.gain * drive
        elif spec.poles == 2:
            drive = i + inflow
            w = m + c.membrane * ((c.leak - m) + drive)
        else:
            drive = inflow
            w = m + c.membrane * ((drive + c.leak) - m)
        u = w - r * c.threshold if spec.pre == "subtract" else w - r * w if spec.pre == "wipe" else w
        s = fire(u - c.threshold) if spec.fires else off
        own = s if reset_spike is None or not spec.fires else reset_spike(u - c.threshold)
        m = after_spike(spec, c, u, own, r)
        if spec.poles == 2:
            i = drive if spec.integrator == "decay" else drive + (-c.synapse) * drive
        for name, value in zip(steps, (drive, u, s, r, m, i, m_before, i_before), strict=True):
            steps[name].append(value)
    return Trajectory(**{name: torch.stack(values) for name, values in steps.items()})


def after_spike(spec: NeuronSpec, c: Coefficients, u: Tensor, s: Tensor, r: Tensor) -> Tensor:
    """The carried membrane m after the step's own spike s and the previous one's r."""
    if spec.post == "subtract":
        return u - (s - r) * c.threshold
    if spec.post == "zero":
        return u - (s - r) * u
    if spec.post == "value":
        return (1 - s) * u + s * c.reset
    if spec.post == "subtract_all":
        return u - s * c.threshold
    return u


def surrogate_value(spec: NeuronSpec, layer: Layer, x: Tensor) -> Tensor:
    """The derivative used at an active entry with x = u - threshold; sampled entries carry at least the
    level."""
    value = spec.surrogate.derivative(x)
    if layer.gradient == "sampled" and layer.level > 0:
        return torch.where(value.abs() < layer.level, value.sign() * layer.level, value)
    return value


def active_entries(spec: NeuronSpec, layer: Layer, u: Tensor) -> Tensor:
    """Mask `[T, B, N]` of the entries that take part in the backward pass."""
    x = u - layer.coefficients.threshold
    value = spec.surrogate.derivative(x)
    if layer.gradient == "window":
        return (value != 0) & (x.abs() < layer.level)
    if layer.gradient == "exact" or layer.level <= 0:
        return value != 0
    share = (value.abs() * value.new_tensor(layer.level).reciprocal()).clamp(max=1)
    accumulated = random.offsets(layer.key, u.shape[1], u.shape[2], u)
    drawn = []
    for step in share:
        accumulated = accumulated + step
        drawn.append(accumulated >= 1)
        accumulated = accumulated - drawn[-1].to(u.dtype)
    return torch.stack(drawn)


def input_current(layer: Layer) -> Tensor:
    """I = W x + b as `[T, B, N]`."""
    x = layer.dense_input()
    return x if layer.weight is None else functional.linear(x, layer.weight, layer.bias)


def forward(layer: Layer) -> LayerOutputs:
    """See `sparse_backend::layer` in schema.py."""
    spec, c = layer.spec, layer.coefficients
    path = integrate(spec, c, input_current(layer), layer.m0, layer.i0)
    out = LayerOutputs.empty(layer)
    out.m_last = path.m[-1].clone()
    if spec.poles == 2:
        out.i_last = path.i[-1].clone()
    if layer.want_membrane:
        out.membrane = path.m
    if not spec.fires:
        return out
    graded = path.s * c.graded
    if layer.want_spikes:
        out.spikes = graded
    out.ptr, out.idx, out.val = events.compress(graded)
    if layer.lists_active:
        mask = active_entries(spec, layer, path.u)
        out.aptr, out.aidx = events.from_mask(mask)
        out.au = events.gather(path.u, out.aptr, out.aidx)
    out.carrier = layer.new_carrier(out)
    return out


def backward(layer: Layer, out: LayerOutputs, grads: OutputGradients) -> LayerGradients:
    """See `sparse_backend::layer_backward` in schema.py. Recomputes the trajectory instead of keeping it."""
    spec, c = layer.spec, layer.coefficients
    path = integrate(spec, c, input_current(layer), layer.m0, layer.i0)
    zero = torch.zeros_like(layer.m0)
    g_z = _spike_gradient(layer, out, grads)
    slope = torch.zeros_like(path.u)
    if spec.fires:
        value = surrogate_value(spec, layer, path.u - c.threshold)
        if layer.active_dense:
            slope = value
        else:
            ones = events.expand(out.aptr, out.aidx, value.new_empty(0), layer.shape, value.dtype)
            slope = torch.where(ones != 0, value, 0)
    reset_slope = spec.surrogate.derivative(path.u - c.threshold) if layer.exact_reset else slope

    euler = spec.integrator == "euler"
    rho = 1 - c.membrane if euler else c.membrane
    gain = c.membrane if euler else c.gain
    # The state gradients from outside enter after the last step; mu and the synapse's adjoint flow back from
    # there.
    from_m = zero if grads.m_last is None else grads.m_last
    from_i = zero if grads.i_last is None else grads.i_last
    stores: tuple[list[Tensor], ...] = ([], [], [], [], [])
    for t in reversed(range(layer.steps)):
        s, r, u = path.s[t], path.r[t], path.u[t]
        own = zero if grads.membrane is None else grads.membrane[t]
        l_ = own + from_m
        a, d = _partials(spec, c, u, s, r)
        through_spike = slope[t] * c.graded * g_z[t] + reset_slope[t] * d * l_
        upsilon = through_spike + a * l_
        mu = (1 - r) * upsilon if spec.pre == "wipe" else upsilon
        eta = from_i
        lam = gain * mu
        if spec.poles == 2:
            lam = lam + ((1 - c.synapse) * eta if euler else eta)
        kept = (1 - r) if spec.pre == "cut_leak" else 1
        for store, value in zip(stores, (l_, mu, lam, eta, through_spike), strict=True):
            store.append(value)
        from_m = rho * kept * mu
        from_i = (lam if euler else c.synapse * lam) if spec.poles == 2 else zero
        if layer.cuts is not None and bool(layer.cuts[t]):
            from_m, from_i = zero, zero
    l_, mu, lam, eta, through_spike = (torch.stack(v[::-1]) for v in stores)

    result = LayerGradients.for_input(layer, lam)
    result.m0, result.i0 = from_m.clone(), from_i.clone()
    if spec.poles == 1:
        result.i0 = torch.zeros_like(layer.i0)
    per_entry = {
        "membrane": mu * ((c.leak - path.m_before) + path.drive)
        if euler
        else mu * path.m_before * ((1 - path.r) if spec.pre == "cut_leak" else 1),
        "gain": torch.zeros_like(mu) if euler else mu * path.drive,
        "synapse": -eta * path.drive if euler else lam * path.i_before,
        "leak": gain * mu if euler else torch.zeros_like(mu),
        "threshold": _threshold_gradient(spec, path, through_spike, mu, l_),
        "reset": path.s * l_ if spec.post == "value" else torch.zeros_like(mu),
        "graded": path.s * g_z,
    }
    result.coefficients = torch.stack([value.sum((0, 1)) for value in per_entry.values()])
    return result


def _partials(spec: NeuronSpec, c: Coefficients, u: Tensor, s: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """A = dm/du at fixed s, and D = dm/ds."""
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    if spec.post in ("subtract", "subtract_all"):
        return one, zero - c.threshold
    if spec.post == "zero":
        return 1 - (s - r), -u
    if spec.post == "value":
        return 1 - s, c.reset - u
    return one, zero


def _threshold_gradient(
    spec: NeuronSpec, path: Trajectory, through: Tensor, mu: Tensor, l_: Tensor
) -> Tensor:
    total = -through
    if spec.pre == "subtract":
        total = total - path.r * mu
    if spec.post == "subtract":
        total = total - (path.s - path.r) * l_
    elif spec.post == "subtract_all":
        total = total - path.s * l_
    return total


def _spike_gradient(layer: Layer, out: LayerOutputs, grads: OutputGradients) -> Tensor:
    """dL/dz as `[T, B, N]`: what came through the packed carrier, plus what came through dense spikes."""
    total = torch.zeros(layer.shape, dtype=layer.m0.dtype, device=layer.m0.device)
    if grads.carrier is not None and grads.carrier.numel():
        packed = grads.carrier
        total = total + (
            packed
            if layer.carrier_dense
            else events.expand(out.aptr, out.aidx, packed, layer.shape, total.dtype)
        )
    return total if grads.spikes is None else total + grads.spikes
