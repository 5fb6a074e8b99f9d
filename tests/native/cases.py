"""Random layers: every structure of the family, both feeds, with and without initial state and truncation."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .native_layer import Feed, NativeLayer, events_of
from .torch_loop import Spec, Trace, run

Structure = tuple[str, int, str, str]
STRUCTURES: list[Structure] = [
    *[
        ("decay", poles, pre, post)
        for poles in (1, 2)
        for pre in ("none", "subtract", "cut_leak", "wipe")
        for post in ("none", "subtract", "zero")
    ],
    *[("decay", poles, "none", post) for poles in (1, 2) for post in ("value", "subtract_all")],
    *[
        ("euler", poles, "none", post)
        for poles in (1, 2)
        for post in ("none", "subtract", "zero", "value", "subtract_all")
    ],
]
PARAMETERS = {
    "atan": (2.0, 0),
    "fast_sigmoid": (5.0, 0),
    "sigmoid": (4.0, 0),
    "triangular": (1.0, 0),
    "straight_through": (0.0, 0),
    "sfs": (3.0, -0.2),
    "triangle": (0.3, 0),
    "tanh": (1.5, 0),
    "circ": (0.7, 0),
    "heavi_erfc": (1.2, 0),
    "zero": (0.0, 0),
}
RULES = {"exact": 0.0, "window": 0.4, "sampled": 0.5, "none": 0.0}


def structure_id(structure: Structure) -> str:
    return "/".join(str(part) for part in structure)


@dataclass
class Case:
    spec: Spec
    shape: tuple[int, int, int]  # T, B, N
    coefficients: dict[str, Tensor]
    x: Tensor | None  # [T, B, n_in] with weight, else None
    weight: Tensor | None
    bias: Tensor | None
    current: Tensor | None  # [T, B, N] or [B, N]
    m0: Tensor | None
    i0: Tensor | None
    cuts: Tensor | None

    def feed(self) -> Feed:
        if self.x is None:
            return Feed(current=self.current)
        ptr, idx, val = events_of(self.x)
        return Feed(
            events=(ptr, idx, None if bool((val == 1).all()) else val), weight=self.weight, bias=self.bias
        )

    def native(self, threads: int = 1) -> NativeLayer:
        return NativeLayer(
            self.spec, self.coefficients, self.feed(), self.m0, self.i0, self.cuts, self.shape, threads
        )


@dataclass
class Reference:
    """The torch loop of a case with autograd leaves."""

    trace: Trace
    leaves: dict[str, Tensor]
    current: Tensor  # [T, B, N], an autograd leaf or a function of the leaves


def make_case(
    seed: int,
    structure: Structure,
    *,
    surrogate: str = "atan",
    rule: str = "exact",
    dtype: torch.dtype = torch.float64,
    feed: str = "events",
    fires: bool = True,
    shape: tuple[int, int, int] | None = None,
) -> Case:
    """feed: "events" (ones), "analog" (other values), "current" or "constant"."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return (low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)).to(dtype)

    steps, batch, width = shape or (
        draw.randint(1, 12),
        draw.randint(1, 7),
        draw.choice([1, 3, 16, 17, 33, 70]),
    )
    integrator, poles, pre, post = structure
    p0, p1 = PARAMETERS[surrogate]
    key = draw.randrange(-(2**63), 2**63)
    spec = Spec(integrator, poles, pre, post, fires, surrogate, p0, p1, rule=rule, level=RULES[rule], key=key)
    if draw.random() < 0.3 and surrogate != "zero":
        spec = replace(spec, window=0.8)
    ranges = {
        "membrane": (0.2, 0.95),
        "gain": (0.5, 1.5),
        "synapse": (0.2, 0.9),
        "leak": (-0.2, 0.2),
        "threshold": (0.5, 1.2),
        "reset": (-0.3, 0.1),
        "graded": (0.5, 2.0),
    }
    coefficients = {
        name: uniform(*bounds, *([width] if draw.random() < 0.5 else [])) for name, bounds in ranges.items()
    }
    x = weight = bias = current = None
    if feed in ("events", "analog"):
        inputs = draw.choice([1, 5, 40])
        x = (torch.rand(steps, batch, inputs, generator=generator) < draw.choice([0.05, 0.3, 1.0])).to(dtype)
        x = x * normal(steps, batch, inputs) if feed == "analog" else x
        weight = normal(width, inputs) * 0.7
        bias = normal(width) * 0.5 if draw.random() < 0.7 else None
    else:
        current = normal(batch, width) + 0.5 if feed == "constant" else normal(steps, batch, width) + 0.3
    state = draw.random() < 0.6
    m0, i0 = (normal(batch, width), normal(batch, width)) if state else (None, None)
    cuts = torch.rand(steps, generator=generator) < 0.25 if draw.random() < 0.5 else None
    return Case(spec, (steps, batch, width), coefficients, x, weight, bias, current, m0, i0, cuts)


def reference(case: Case) -> Reference:
    steps, batch, width = case.shape
    dtype = case.coefficients["membrane"].dtype
    leaves = {name: value.clone().requires_grad_() for name, value in case.coefficients.items()}
    for name in ("m0", "i0"):
        value = getattr(case, name)
        value = torch.zeros(batch, width, dtype=dtype) if value is None else value.clone()
        leaves[name] = value.requires_grad_()
    if case.x is not None and case.weight is not None:
        leaves["x"], leaves["weight"] = case.x.clone().requires_grad_(), case.weight.clone().requires_grad_()
        current = leaves["x"] @ leaves["weight"].T
        if case.bias is not None:
            leaves["bias"] = case.bias.clone().requires_grad_()
            current = current + leaves["bias"]
    else:
        assert case.current is not None
        leaves["current"] = case.current.clone().requires_grad_()
        current = leaves["current"].expand(steps, batch, width)
    return Reference(run(case.spec, leaves, current, leaves["m0"], leaves["i0"], case.cuts), leaves, current)
