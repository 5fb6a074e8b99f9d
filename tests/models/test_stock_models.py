"""Unmodified snnTorch models with the loops users write: stock and accelerated must agree.

float64 with `gradient="exact"`: spikes equal, membranes and gradients to 1e-10 relative (sums of at most 1e5
terms with 1e-16 rounding each). float32: 1e-4, and batch elements whose spikes differ by a borderline flip
are counted apart.
"""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from plans import NeuronPlan, Plan, Result, plans, run, twins
from snntorch import surrogate
from torch import Tensor

import sparse_backend
from sparse_backend.neurons import Surrogate
from sparse_backend.ops.random import offsets, stream_key


def assert_same(got: Result, want: Result, tolerance: float) -> None:
    assert torch.equal(got.spikes, want.spikes)
    scale = want.membranes.abs().max().clamp_min(1.0)
    assert (got.membranes - want.membranes).abs().max() <= tolerance * scale
    for name, gradient in want.gradients.items():
        size = gradient.norm()
        error = (got.gradients[name] - gradient).norm() / (size if size > 1e-9 else 1.0)
        assert error <= tolerance, f"gradient of {name}: relative error {error:.2e}"


def check(
    plan: Plan, dtype: torch.dtype = torch.float64, tolerance: float = 1e-10, **options: object
) -> None:
    stock, fast = twins(plan, dtype)
    report = sparse_backend.accelerate(fast, **{"gradient": "exact", **options})  # type: ignore[arg-type]
    assert all(layer.path == "accelerated" for layer in report.layers), str(report)
    assert_same(run(fast, dtype), run(stock, dtype), tolerance)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans())
@example(plan=Plan(steps=1, batch=1, widths=(1, 1), neurons=(NeuronPlan(),)))
@example(plan=Plan(init_hidden=True, cut_every=3, loss="membranes"))
def test_random_models_and_loops(plan: Plan) -> None:
    check(plan)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans())
def test_random_models_and_windows(plan: Plan) -> None:
    """The window rule equals the stock model that carries the same truncated surrogate."""
    stock, _ = twins(plan, torch.float64, spike_grad=plan.surrogate.windowed(0.3))
    _, fast = twins(plan, torch.float64)
    sparse_backend.accelerate(fast, gradient="window", backward_threshold=0.3)
    assert_same(run(fast, torch.float64), run(stock, torch.float64), 1e-10)


@pytest.mark.parametrize("cut_every", [0, 11])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.2, 1.0])
@pytest.mark.parametrize(
    ("steps", "batch", "widths"),
    [(300, 3, (31, 17, 5)), (50, 64, (64, 33, 10)), (20, 2, (300, 299, 7)), (2, 64, (1, 300, 1))],
)
def test_sizes(steps: int, batch: int, widths: tuple[int, ...], density: float, cut_every: int) -> None:
    check(Plan(widths=widths, steps=steps, batch=batch, density=density, cut_every=cut_every))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans(max_steps=300, max_width=300, max_batch=64))
def test_random_sizes(plan: Plan) -> None:
    check(plan)


FACTORIES = {
    "atan": surrogate.atan(),
    "fast_sigmoid": surrogate.fast_sigmoid(25),
    "sigmoid": surrogate.sigmoid(5),
    "triangular": surrogate.triangular(),
    "straight_through": surrogate.straight_through_estimator(),
    "sfs": surrogate.SFS(25, 0.1),
}


@pytest.mark.parametrize("loss", ["spikes", "membranes"])
@pytest.mark.parametrize("name", FACTORIES)
def test_upstream_surrogates_in_float32(name: str, loss: str) -> None:
    plan = Plan(widths=(40, 30, 10), steps=30, batch=8, density=0.2, loss=loss, seed=4)
    stock, fast = twins(plan, torch.float32, spike_grad=FACTORIES[name])
    sparse_backend.accelerate(fast, gradient="exact")
    got, want = run(fast, torch.float32), run(stock, torch.float32)
    flipped = (got.spikes != want.spikes).flatten(2).any(2).any(0)
    # Summation order may flip a spike that lies within rounding of the threshold; here none does.
    assert int(flipped.sum()) == 0
    assert_same(got, want, 1e-4)


def test_float32_flips_are_borderline_and_rare() -> None:
    """Over many nets in float32, a batch element may diverge only if its membrane came within rounding of
    threshold."""
    elements = flips = 0
    for seed in range(30):
        plan = Plan(widths=(50, 40, 10), steps=40, batch=16, density=0.2, seed=seed)
        stock, fast = twins(plan, torch.float32)
        sparse_backend.accelerate(fast, gradient="exact")
        with torch.no_grad():
            got, want = fast(plan.input(torch.float32), None), stock(plan.input(torch.float32), None)
        for hidden_got, hidden_want in ((got[2], want[2]),):
            flips += int((hidden_got != hidden_want).flatten(2).any(2).any(0).sum())
            elements += plan.batch
    assert flips <= 0.02 * elements


def test_two_training_steps_with_adam_follow_stock() -> None:
    plan = Plan(widths=(30, 20, 10), steps=20, batch=8)
    stock, fast = twins(plan, torch.float64)
    sparse_backend.accelerate(fast, gradient="exact")
    for net in (stock, fast):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            spikes, membranes, _ = net(plan.input(torch.float64), None)
            (spikes.sum(0).var() + membranes.pow(2).mean()).backward()
            optimizer.step()
            with torch.no_grad():
                net(plan.input(torch.float64), None)
    for (name, a), (_, b) in zip(fast.named_parameters(), stock.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)


def test_sampled_gradients_repeat_with_the_seed() -> None:
    plan = Plan(widths=(40, 30, 10), steps=50, batch=8, density=0.2)

    def gradients(seed: int) -> dict[str, torch.Tensor]:
        _, fast = twins(plan, torch.float32)
        sparse_backend.accelerate(fast, seed=seed)
        return run(fast, torch.float32).gradients

    first, again, other = gradients(1), gradients(1), gradients(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


class _Drawn(torch.autograd.Function):
    """H(x) with a given derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


class Sampler:
    """A `spike_grad` for a stock Leaky that samples as the documentation says: systematic along time."""

    def __init__(self, surrogate: Surrogate, level: float, key: int) -> None:
        self.surrogate, self.level, self.key = surrogate, level, key
        self.calls = 0
        self.accumulated: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls % 2:  # Leaky asks twice a step; the first time for its reset, which it detaches
            return (x > 0).to(x.dtype)
        if self.accumulated is None:
            batch, width = x.shape
            self.accumulated = offsets(self.key, batch, width, x.detach())
        value = self.surrogate.derivative(x.detach())
        self.accumulated = self.accumulated + (value.abs() / self.level).clamp(max=1)
        taken = self.accumulated >= 1
        self.accumulated = self.accumulated - taken.to(x.dtype)
        slope = torch.where(taken, value.sign() * value.abs().clamp(min=self.level), 0)
        return _Drawn.apply(x, slope)


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_a_sampled_gradient_is_stocks_with_the_values_that_were_drawn(reset: str) -> None:
    neuron = NeuronPlan(reset=reset, learn_beta=True, learn_threshold=True)
    plan = Plan(
        widths=(40, 30, 10), neurons=(neuron, neuron), steps=50, batch=8, density=0.2, loss="hidden", seed=3
    )
    stock, fast = twins(plan, torch.float64)
    report = sparse_backend.accelerate(fast, seed=9, budget=0.1)
    run(fast, torch.float64)  # the first batch finds the levels
    for index, lif in enumerate(stock.neurons):
        name = f"neurons.{index}"
        runtime = report[name].runtime
        assert runtime is not None and runtime.level is not None
        key = stream_key(9, zlib.crc32(name.encode()) << 20 | index, runtime.calls)
        lif.spike_grad = Sampler(plan.surrogate, runtime.level, key)  # type: ignore[assignment]
    got, want = run(fast, torch.float64), run(stock, torch.float64)
    assert_same(got, want, 1e-10)
    exact = run(twins(plan, torch.float64)[0], torch.float64)
    name = "feeds.0.weight"
    assert (exact.gradients[name] - want.gradients[name]).norm() > 0.02 * exact.gradients[name].norm()


def test_sampled_mean_over_seeds_is_the_stock_gradient() -> None:
    """End to end: the mean over 300 seeds is the exact gradient within its own standard error."""
    plan = Plan(widths=(20, 15, 5), steps=40, batch=6, density=0.3, loss="spikes")
    stock, _ = twins(plan, torch.float64)
    want = run(stock, torch.float64).gradients["feeds.0.weight"]
    draws = []
    for seed in range(300):
        _, fast = twins(plan, torch.float64)
        sparse_backend.accelerate(fast, gradient="sampled", budget=0.1, seed=seed)
        draws.append(run(fast, torch.float64).gradients["feeds.0.weight"])
    stacked = torch.stack(draws)
    error = stacked.std(0) / len(draws) ** 0.5
    z = ((stacked.mean(0) - want) / error)[error > 1e-9]
    assert z.numel() > 100
    assert z.abs().max() < 4.5
    # Entries share the draws of the layer above, so the mean of z^2 has only a few degrees of freedom.
    assert (z**2).mean() < 3
