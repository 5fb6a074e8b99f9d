"""The neuron step once more, as a plain torch loop under autograd: what the kernels must equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MASK = (1 << 64) - 1


def mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def offset(key: int, b: int, n: int) -> float:
    return (mix((key & MASK) ^ mix((b << 32) | n)) >> 40) * 2.0**-24


SIGMAS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "zero": lambda x, p, q: torch.zeros_like(x),
    "atan": lambda x, p, q: p / 2 / (1 + (math.pi / 2 * p * x) ** 2),
    "fast_sigmoid": lambda x, p, q: 1 / (p * x.abs() + 1) ** 2,
    "sigmoid": lambda x, p, q: p * torch.exp(-p * x.abs()) / (torch.exp(-p * x.abs()) + 1) ** 2,
    "triangular": lambda x, p, q: torch.where(x < 0, p, -p).to(x.dtype),
    "straight_through": lambda x, p, q: torch.ones_like(x),
    "sfs": lambda x, p, q: (x > q).to(x.dtype) / (p * x.abs() + 1) ** 2,
    "triangle": lambda x, p, q: p * torch.relu(1 - x.abs()),
    "tanh": lambda x, p, q: 1 - torch.tanh(p * x) ** 2,
    "circ": lambda x, p, q: p / (p**2 + x**2).sqrt() - p * x**2 / (p**2 + x**2) ** 1.5,
    # Upstream takes the square root of pi in float32.
    "heavi_erfc": lambda x, p, q: 2 * torch.exp(-((p * x) ** 2)) / float(torch.tensor(math.pi).sqrt()),
}


class Spike(torch.autograd.Function):
    """H(u - threshold) whose derivative is the tensor given."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, sigma: Tensor) -> Tensor:
        ctx.save_for_backward(sigma)
        return (u > threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        (sigma,) = ctx.saved_tensors
        return grad * sigma, -grad * sigma, None


@dataclass
class Spec:
    integrator: str = "decay"
    poles: int = 1
    pre: str = "none"
    post: str = "none"
    fires: bool = True
    surrogate: str = "atan"
    p0: float = 2.0
    p1: float = 0.0
    window: float = math.inf
    rule: str = "exact"
    level: float = 0.0
    key: int = 0


@dataclass
class Trace:
    """Lists over t of tensors [B, N]."""

    u: list[Tensor] = field(default_factory=list)
    s: list[Tensor] = field(default_factory=list)
    r: list[Tensor] = field(default_factory=list)
    z: list[Tensor] = field(default_factory=list)
    m: list[Tensor] = field(default_factory=list)
    sigma: list[Tensor] = field(default_factory=list)
    i: Tensor | None = None


def kept(spec: Spec, x: Tensor, acc: Tensor) -> tuple[Tensor, Tensor]:
    """sigma' where the rule keeps it, and the advanced sampling accumulator."""
    sigma = SIGMAS[spec.surrogate](x, spec.p0, spec.p1)
    sigma = torch.where(x.abs() < spec.window, sigma, 0)
    if spec.rule == "none" or not spec.fires:
        return torch.zeros_like(x), acc
    if spec.rule == "window":
        return torch.where(x.abs() < spec.level, sigma, 0), acc
    if spec.rule == "sampled" and spec.level > 0:
        large = sigma.abs() >= spec.level
        acc = torch.where(large, acc, acc + sigma.abs() * x.new_tensor(spec.level).reciprocal())
        emit = ~large & (acc >= 1)
        acc = torch.where(emit, acc - 1, acc)
        drawn = torch.where(sigma < 0, -spec.level, spec.level).to(x.dtype)
        return torch.where(large, sigma, torch.where(emit, drawn, 0)), acc
    return sigma, acc


def run(
    spec: Spec, c: dict[str, Tensor], current: Tensor, m0: Tensor, i0: Tensor, cuts: Tensor | None
) -> Trace:
    """current [T, B, N]; m0, i0 [B, N]; cuts bool [T]: states entering a cut step are detached."""
    steps, batch, width = current.shape
    trace, m, i = Trace(), m0, i0
    acc = torch.zeros(batch, width, dtype=current.dtype)
    if spec.rule == "sampled":
        acc = acc.new_tensor([[offset(spec.key, b, n) for n in range(width)] for b in range(batch)])
    theta, decay = c["threshold"], spec.integrator == "decay"
    for t in range(steps):
        if cuts is not None and cuts[t]:
            m, i = m.detach(), i.detach()
        uses_r = spec.pre != "none" or spec.post in ("subtract", "zero")
        r = (m > theta).to(m.dtype).detach() if uses_r else torch.zeros_like(m)
        if decay:
            i_new = c["synapse"] * i + current[t] if spec.poles == 2 else current[t]
            m_in = (1 - r) * m if spec.pre == "cut_leak" else m
            w = c["membrane"] * m_in + c["gain"] * i_new
            i = i_new
        elif spec.poles == 2:
            i_new = i + current[t]
            w = m + c["membrane"] * ((c["leak"] - m) + i_new)
            i = i_new + (-c["synapse"]) * i_new
        else:
            w = m + c["membrane"] * ((current[t] + c["leak"]) - m)
        u = w
        if spec.pre == "subtract":
            u = w - r * theta
        if spec.pre == "wipe":
            u = w - r * w
        sigma, acc = kept(spec, (u - theta).detach(), acc)
        s = Spike.apply(u, theta.expand_as(u), sigma) if spec.fires else torch.zeros_like(u)
        m = u
        if spec.post == "subtract":
            m = u - (s - r) * theta
        if spec.post == "zero":
            m = u - (s - r) * u
        if spec.post == "value":
            m = (1 - s) * u + s * c["reset"]
        if spec.post == "subtract_all":
            m = u - s * theta
        for name, value in (("u", u), ("s", s), ("r", r), ("z", c["graded"] * s), ("m", m), ("sigma", sigma)):
            getattr(trace, name).append(value)
    trace.i = i
    return trace
