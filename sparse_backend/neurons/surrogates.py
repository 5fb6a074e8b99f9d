"""Surrogate derivatives: what stands in for the derivative of the Heaviside step in the backward pass.

A `Surrogate` is data (a formula's name and its numbers), so that kernels on any device compute the same
value. It is
callable too, and then is a spike function for stock snnTorch: `snn.Leaky(beta,
spike_grad=surrogates.atan(2.0))`. Unlike upstream's closures it keeps the dtype of its input, which is what
makes float64 comparisons possible.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError

__all__ = [
    "FORMULAS",
    "Surrogate",
    "atan",
    "circ",
    "fast_sigmoid",
    "heavi_erfc",
    "sfs",
    "sigmoid",
    "straight_through",
    "tanh",
    "triangle",
    "triangular",
    "zero",
]


@dataclass(frozen=True)
class Formula:
    """derivative(x, *params) with x = u - threshold; `support` is the half-width of |x| beyond which it is
    zero, `jumps` the x at which it is not continuous."""

    parameters: tuple[str, ...]
    derivative: Callable[..., Tensor]
    support: Callable[..., float] = field(default=lambda *_: math.inf)
    jumps: Callable[..., tuple[float, ...]] = field(default=lambda *_: ())


def _circ(x: Tensor, alpha: float) -> Tensor:
    norm = torch.sqrt(alpha**2 + x * x)
    return alpha * (1 / norm - x * x / norm**3)


def _sigmoid(x: Tensor, slope: float) -> Tensor:
    # Upstream divides exp(-kx) by (exp(-kx) + 1)^2, which is inf/inf far below threshold; this form is even
    # in x.
    e = torch.exp(-slope * x.abs())
    return slope * e / (e + 1) ** 2


_ROOT_PI = 1.7724539041519165  # sqrt(pi) as Norse has it: rounded to float32


FORMULAS: dict[str, Formula] = {
    "atan": Formula(("alpha",), lambda x, a: a / 2 / (1 + (math.pi / 2 * a * x) ** 2)),
    "fast_sigmoid": Formula(("slope",), lambda x, k: 1 / (k * x.abs() + 1) ** 2),
    "sigmoid": Formula(("slope",), _sigmoid),
    "triangular": Formula(
        ("height",), lambda x, h: torch.where(x < 0, h, -h).to(x.dtype), jumps=lambda h: (0.0,)
    ),
    "straight_through": Formula((), lambda x: torch.ones_like(x)),
    "sfs": Formula(
        ("slope", "bound"),
        lambda x, k, b: (x > b).to(x.dtype) / (k * x.abs() + 1) ** 2,
        jumps=lambda k, b: (b,),
    ),
    "triangle": Formula(("alpha",), lambda x, a: a * torch.relu(1 - x.abs()), support=lambda a: 1.0),
    "tanh": Formula(("alpha",), lambda x, a: 1 - torch.tanh(a * x) ** 2),
    "circ": Formula(("alpha",), _circ),
    "heavi_erfc": Formula(("alpha",), lambda x, a: 2 * torch.exp(-((a * x) ** 2)) / _ROOT_PI),
    "zero": Formula((), torch.zeros_like, support=lambda: 0.0),
}


@dataclass(frozen=True)
class Surrogate:
    """A surrogate derivative as data.

    kind: a key of `FORMULAS`.  params: its numbers, in the formula's order.
    window: half-width in membrane units beyond which the derivative is cut to zero (the paper's `B_th`), or
    inf.
    Raises: ArgumentError for an unknown kind, a wrong count or a non-finite number.
    """

    kind: str
    params: tuple[float, ...] = ()
    window: float = math.inf

    def __post_init__(self) -> None:
        formula = FORMULAS.get(self.kind)
        if formula is None:
            raise ArgumentError(f"kind={self.kind!r} must be one of {', '.join(FORMULAS)}")
        if len(self.params) != len(formula.parameters):
            raise ArgumentError(
                f"params={self.params!r}: {self.kind} takes {formula.parameters or 'no parameters'}"
            )
        for name, value in zip(formula.parameters, self.params, strict=True):
            if not math.isfinite(value):
                raise ArgumentError(f"{name}={value!r} of surrogate {self.kind} must be finite")
        if not self.window > 0:
            raise ArgumentError(f"window={self.window!r} must be positive")

    def derivative(self, x: Tensor) -> Tensor:
        """sigma'(x), x = u - threshold, any shape; same shape and dtype."""
        value = FORMULAS[self.kind].derivative(x, *self.params)
        return torch.where(x.abs() < self.window, value, 0) if math.isfinite(self.window) else value

    @property
    def support(self) -> float:
        """Half-width of |u - threshold| beyond which the derivative is exactly zero (inf if there is
        none)."""
        return min(self.window, FORMULAS[self.kind].support(*self.params))

    @functools.cached_property
    def everywhere_active(self) -> bool:
        """Whether no entry can be ruled out: the support is unbounded on both sides."""
        return math.isinf(self.support) and self.kind != "sfs"

    @property
    def jumps(self) -> tuple[float, ...]:
        """The u - threshold at which the derivative jumps: there rounding decides its value."""
        formula = FORMULAS[self.kind]
        inside = tuple(x for x in formula.jumps(*self.params) if abs(x) < self.window)
        if math.isinf(self.window):
            return inside
        edges = (-self.window, self.window)
        cut = formula.derivative(torch.tensor(edges, dtype=torch.float64), *self.params).tolist()
        return (*inside, *(edge for edge, value in zip(edges, cut, strict=True) if value != 0))

    def windowed(self, backward_threshold: float) -> Surrogate:
        """The same derivative, cut to zero where |u - threshold| >= backward_threshold (the paper's
        estimator)."""
        return Surrogate(self.kind, self.params, min(self.window, backward_threshold))

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes H(x) of x's dtype with this surrogate as derivative, for stock modules."""
        return _Spike.apply(x, self)

    def __str__(self) -> str:
        numbers = ", ".join(f"{value:g}" for value in self.params)
        cut = f", window {self.window:g}" if math.isfinite(self.window) else ""
        return f"{self.kind}({numbers}{cut})"


class _Spike(torch.autograd.Function):
    """H(x) forward, g * sigma'(x) backward; differentiable twice as upstream's surrogates are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.derivative(x), None


def atan(alpha: float = 2.0) -> Surrogate:
    """alpha/2 / (1 + (pi/2 alpha x)^2); snntorch.surrogate.atan, the default of snnTorch."""
    return Surrogate("atan", (float(alpha),))


def fast_sigmoid(slope: float = 25.0) -> Surrogate:
    """1 / (slope |x| + 1)^2; snntorch.surrogate.fast_sigmoid, and `super` of Norse with its own slope."""
    return Surrogate("fast_sigmoid", (float(slope),))


def sigmoid(slope: float = 25.0) -> Surrogate:
    """slope e / (1 + e)^2, e = exp(-slope |x|); snntorch.surrogate.sigmoid where that does not overflow."""
    return Surrogate("sigmoid", (float(slope),))


def triangular(threshold: float = 1.0) -> Surrogate:
    """+threshold below, -threshold at and above the threshold; snntorch.surrogate.triangular as upstream
    writes it."""
    return Surrogate("triangular", (float(threshold),))


def straight_through() -> Surrogate:
    """1 everywhere; snntorch.surrogate.straight_through_estimator."""
    return Surrogate("straight_through")


def sfs(slope: float = 25.0, bound: float = 1.0) -> Surrogate:
    """1 / (slope |x| + 1)^2 where x > bound; snntorch.surrogate.SFS, one-sided as upstream writes it."""
    return Surrogate("sfs", (float(slope), float(bound)))


def triangle(alpha: float = 0.3) -> Surrogate:
    """alpha relu(1 - |x|); norse.torch.functional.threshold.triangle_fn."""
    return Surrogate("triangle", (float(alpha),))


def tanh(alpha: float = 100.0) -> Surrogate:
    """1 - tanh(alpha x)^2; norse.torch.functional.threshold.heavi_tanh_fn."""
    return Surrogate("tanh", (float(alpha),))


def circ(alpha: float = 100.0) -> Surrogate:
    """alpha (1/n - x^2/n^3), n = sqrt(alpha^2 + x^2); norse.torch.functional.threshold.heavi_circ_fn."""
    return Surrogate("circ", (float(alpha),))


def heavi_erfc(alpha: float = 100.0) -> Surrogate:
    """2/sqrt(pi) exp(-(alpha x)^2); norse.torch.functional.threshold.heavi_erfc_fn."""
    return Surrogate("heavi_erfc", (float(alpha),))


def zero() -> Surrogate:
    """No gradient through the spike; what a neuron without spikes has."""
    return Surrogate("zero")
