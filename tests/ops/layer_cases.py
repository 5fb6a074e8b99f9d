"""Random layers, and the dense autograd through the readable step that every implementation must
reproduce."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec, Surrogate
from sparse_backend.neurons import surrogates as S
from sparse_backend.ops import reference
from sparse_backend.ops.sequence import GradientRule, LayerOutput, LinearFeed, run_layer

SPECS = [
    *(
        NeuronSpec("decay", 1, pre, post)
        for pre in ("none", "subtract", "cut_leak", "wipe")
        for post in ("none", "subtract", "zero")
    ),
    NeuronSpec("decay", 2, "subtract", "none"),
    NeuronSpec("decay", 2, "wipe", "zero"),
    NeuronSpec("euler", 1, "none", "value"),
    NeuronSpec("euler", 1, "none", "subtract_all"),
    NeuronSpec("euler", 2, "none", "value"),
    NeuronSpec("euler", 2, "none", "none"),
    NeuronSpec("euler", 2, "none", "none", fires=False),
    NeuronSpec("decay", 1, "none", "none", fires=False),
]

RULES = [
    (S.atan(2.0), GradientRule("exact")),
    (S.triangle(0.5), GradientRule("exact")),
    (S.fast_sigmoid(5.0), GradientRule("window", 0.3)),
    (S.sigmoid(4.0), GradientRule("sampled", 0.0)),
]


def spec_name(spec: NeuronSpec) -> str:
    return f"{spec.integrator}{spec.poles}-{spec.pre}-{spec.post}{'' if spec.fires else '-silent'}"


@dataclass
class Case:
    """One random layer: leaves that take gradients, and random gradients for every output."""

    spec: NeuronSpec
    feed: LinearFeed | None
    source: Tensor
    neuron: Neuron
    state: tuple[Tensor, ...]
    cuts: Tensor
    steps: int
    g_spikes: Tensor
    g_membrane: Tensor | None
    g_state: Tensor

    @classmethod
    def random(
        cls,
        spec: NeuronSpec,
        surrogate: Surrogate,
        *,
        steps: int = 13,
        batch: int = 3,
        inputs: int = 7,
        width: int = 5,
        density: float = 0.3,
        binary: bool = False,
        per_neuron: bool = False,
        learn: bool = True,
        input_gradient: bool = True,
        membrane_gradient: bool = True,
        constant: bool = False,
        identity: bool = False,
        bias: bool = True,
        cut_rate: float = 0.15,
        dtype: torch.dtype = torch.float64,
    ) -> Case:
        spec = NeuronSpec(spec.integrator, spec.poles, spec.pre, spec.post, spec.fires, surrogate)

        def coefficient(low: float, high: float) -> Tensor:
            value = low + (high - low) * torch.rand(width if per_neuron else (), dtype=dtype)
            return value.requires_grad_(learn)

        slow = (0.3, 0.9) if spec.integrator == "decay" else (0.1, 0.5)
        ranges = (slow, (0.5, 1.0), (0.2, 0.7), (-0.1, 0.1), (0.5, 1.0), (-0.2, 0.1), (0.5, 1.5))
        coefficients = Coefficients(*(coefficient(*bounds) for bounds in ranges))
        columns = width if identity else inputs
        shape = (batch, columns) if constant else (steps, batch, columns)
        source = (torch.rand(shape, dtype=dtype) < density).to(dtype)
        if not binary:
            source = source * (torch.rand(shape, dtype=dtype) + 0.1)
        feed = None
        if not identity:
            weight = (torch.randn(width, inputs, dtype=dtype) * 0.7).requires_grad_()
            feed = LinearFeed(weight, torch.randn(width, dtype=dtype).requires_grad_() if bias else None)
        state = tuple(
            (torch.randn(batch, width, dtype=dtype) * 0.4).requires_grad_() for _ in range(spec.poles)
        )
        return cls(
            spec,
            feed,
            source.requires_grad_(input_gradient),
            Neuron(spec, coefficients),
            state,
            (torch.rand(steps) < cut_rate).to(torch.uint8),
            steps,
            torch.randn(steps, batch, width, dtype=dtype),
            torch.randn(steps, batch, width, dtype=dtype) if membrane_gradient or not spec.fires else None,
            torch.randn(spec.poles, batch, width, dtype=dtype),
        )

    def to(self, device: str) -> Case:
        """A copy with leaves of its own on a device."""

        def moved(value: Tensor) -> Tensor:
            return value.detach().to(device).requires_grad_(value.requires_grad)

        return replace(
            self,
            feed=None
            if self.feed is None
            else LinearFeed(
                moved(self.feed.weight), None if self.feed.bias is None else moved(self.feed.bias)
            ),
            source=moved(self.source),
            neuron=Neuron(self.spec, Coefficients(*map(moved, self.neuron.coefficients.tensors()))),
            state=tuple(map(moved, self.state)),
            cuts=self.cuts.to(device),
            g_spikes=self.g_spikes.to(device),
            g_membrane=None if self.g_membrane is None else self.g_membrane.to(device),
            g_state=self.g_state.to(device),
        )

    def leaves(self) -> dict[str, Tensor]:
        named = {"source": self.source, "m0": self.state[0]}
        if self.spec.poles == 2:
            named["i0"] = self.state[1]
        if self.feed is not None:
            named["weight"] = self.feed.weight
            if self.feed.bias is not None:
                named["bias"] = self.feed.bias
        named |= vars(self.neuron.coefficients)
        return {name: value for name, value in named.items() if value.requires_grad}

    def run(self, rule: GradientRule) -> LayerOutput:
        return run_layer(
            self.source,
            self.feed,
            self.neuron,
            self.state,
            steps=self.steps,
            rule=rule,
            cuts=self.cuts,
            want_spikes=True,
            want_membrane=self.g_membrane is not None,
        )

    def gradients(
        self, spikes: Tensor | None, membrane: Tensor | None, last: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        loss = sum((value * grad).sum() for value, grad in zip(last, self.g_state, strict=True))
        if spikes is not None:
            loss = loss + (spikes * self.g_spikes).sum()
        if membrane is not None and self.g_membrane is not None:
            loss = loss + (membrane * self.g_membrane).sum()
        leaves = self.leaves()
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        pairs = zip(leaves, leaves.values(), found, strict=True)
        return {name: torch.zeros_like(leaf) if grad is None else grad for name, leaf, grad in pairs}

    def trajectory(
        self, spike: Callable[[Tensor], Tensor], reset_spike: Callable[[Tensor], Tensor] | None = None
    ) -> reference.Trajectory:
        """The layer as a differentiable torch loop, with `spike` as spike function."""
        current = (
            self.source if self.source.dim() == 3 else self.source.expand(self.steps, *self.source.shape)
        )
        if self.feed is not None:
            current = torch.nn.functional.linear(current, self.feed.weight, self.feed.bias)
        m0 = self.state[0]
        i0 = self.state[1] if self.spec.poles == 2 else m0.new_empty(0)
        c = self.neuron.coefficients
        return reference.integrate(self.spec, c, current, m0, i0, self.cuts, spike, reset_spike)

    def dense(
        self, spike: Callable[[Tensor], Tensor], reset_spike: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[reference.Trajectory, dict[str, Tensor]]:
        """Trajectory and gradients by autograd through the loop."""
        path = self.trajectory(spike, reset_spike)
        last = (path.m[-1], path.i[-1])[: self.spec.poles]
        spikes = path.s * self.neuron.coefficients.graded if self.spec.fires else None
        return path, self.gradients(spikes, path.m, last)


def relative_error(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want| in the Frobenius norm; absolute where want vanishes."""
    scale = want.norm().item()
    return (got - want).norm().item() / (scale if scale > 1e-12 else 1.0)


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    errors = {name: relative_error(got[name], want[name]) for name in want}
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] <= tolerance, f"{worst}: relative error {errors[worst]:.2e} above {tolerance:.0e}"
