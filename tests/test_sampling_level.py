"""The sampling level: found on the first batch, following the budget later, and drawn from the seed alone."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec, Surrogate, surrogates
from sparse_backend.ops.sequence import GradientRule
from sparse_backend.options import Options
from sparse_backend.runtime import LayerRuntime, window_half_width

X = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double() * 2 - 2


def neuron(surrogate: Surrogate, threshold: float | Tensor = 1.0, leak: float = 0.0) -> Neuron:
    return Neuron(
        NeuronSpec(surrogate=surrogate), Coefficients.of(torch.zeros(()), threshold=threshold, leak=leak)
    )


def active(surrogate: Surrogate, level: float, shift: float = 0.0) -> float:
    """The expected active fraction of entries at X + shift."""
    value = surrogate.derivative(X + shift).abs()
    return float((value / level).clamp(max=1).mean() if level else (value > 0).double().mean())


def output(fraction: float, trained: bool = True) -> Any:
    carrier = torch.zeros(1, requires_grad=trained)
    return SimpleNamespace(
        spikes=SimpleNamespace(carrier=carrier),
        active_fraction=fraction,
        counted=True,
        spike_density=0.1,
        algorithm={"dW": "events"},
        saved_bytes=10,
    )


def run(runtime: LayerRuntime, surrogate: Surrogate, shift: float = 0.0) -> tuple[float, int]:
    """One batch: (the active fraction that was accepted, forward passes)."""
    for passes in range(1, 20):
        rule = runtime.rule(neuron(surrogate))
        fraction = active(surrogate, rule.level if rule.mode == "sampled" else 0.0, shift)
        if not runtime.observe(output(fraction), 10, 1_000_000):
            return fraction, passes
    raise AssertionError("calibration does not end")


SMOOTH = [
    surrogates.atan(2.0),
    surrogates.fast_sigmoid(25.0),
    surrogates.fast_sigmoid(100.0),
    surrogates.sigmoid(25.0),
    surrogates.straight_through(),
    surrogates.triangular(1.0),
    surrogates.tanh(2.0),
    surrogates.heavi_erfc(1.0),
]


@pytest.mark.parametrize("surrogate", SMOOTH, ids=str)
@pytest.mark.parametrize("budget", [0.02, 0.05, 0.3])
def test_the_first_batch_is_repeated_until_the_budget_is_met(surrogate: Surrogate, budget: float) -> None:
    runtime = LayerRuntime("layer", 0, Options(budget=budget))
    fraction, passes = run(runtime, surrogate)
    assert budget / 1.6 < fraction < budget * 1.6
    assert passes <= 7
    for _ in range(12):
        fraction, passes = run(runtime, surrogate)
        assert passes == 1  # only the first batch is repeated
    assert fraction == pytest.approx(budget, rel=0.15)


def test_the_level_follows_a_layer_that_wakes_up_in_bounded_steps() -> None:
    surrogate = surrogates.fast_sigmoid(25.0)
    runtime = LayerRuntime("layer", 0, Options())
    run(runtime, surrogate, shift=-3.0)
    levels = [runtime.level]
    for _ in range(15):
        fraction, _ = run(runtime, surrogate, shift=1.0)
        levels.append(runtime.level)
    ratios = [b / a for a, b in itertools.pairwise(levels)]
    assert all(0.5 <= ratio <= 2.0 for ratio in ratios) and max(ratios) > 1.2
    assert fraction == pytest.approx(0.05, rel=0.1)


def test_a_surrogate_within_the_budget_is_used_as_it_is() -> None:
    narrow = surrogates.triangle(1.0).windowed(0.05)
    runtime = LayerRuntime("layer", 0, Options())
    fraction, passes = run(runtime, narrow)
    assert (runtime.level, passes) == (0.0, 1) and 0 < fraction < 0.05
    assert runtime.rule(neuron(narrow)) == GradientRule("exact")
    assert "as it is" in runtime.gradient_text()


def test_a_support_beyond_the_budget_is_sampled_and_released_again() -> None:
    triangle = surrogates.triangle(1.0)
    runtime = LayerRuntime("layer", 0, Options())
    fraction, _ = run(runtime, triangle, shift=1.0)
    assert runtime.level and fraction == pytest.approx(0.05, rel=0.6)
    for _ in range(40):
        run(runtime, triangle, shift=-6.0)  # now nearly nothing lies within its support
    assert runtime.level == 0.0


def test_no_surrogate_no_level() -> None:
    runtime = LayerRuntime("layer", 0, Options())
    assert run(runtime, surrogates.zero()) == (0.0, 1)
    assert runtime.rule(neuron(surrogates.zero())) == GradientRule("exact")


def test_batches_without_a_gradient_change_nothing() -> None:
    runtime = LayerRuntime("layer", 0, Options())
    run(runtime, surrogates.atan())
    level = runtime.level
    for _ in range(3):
        assert not runtime.observe(output(0.0, trained=False), 10, 1000)
    assert runtime.level == level
    assert (runtime.totals.calls, runtime.totals.trained) == (4, 1)


def test_an_empty_or_fully_silent_batch_leaves_the_level_finite() -> None:
    runtime = LayerRuntime("layer", 0, Options())
    for _ in range(200):
        runtime.rule(neuron(surrogates.atan()))
        runtime.observe(output(0.0), 10, 1000)
    assert runtime.level is not None and 0 < runtime.level < math.inf


def test_keys_depend_on_seed_layer_and_call_and_on_nothing_else() -> None:
    def keys(name: str, index: int, seed: int) -> list[int]:
        runtime = LayerRuntime(name, index, Options(seed=seed))
        return [runtime.rule(neuron(surrogates.atan())).key for _ in range(3)]

    torch.manual_seed(0)
    first = keys("lif1", 0, 7)
    torch.manual_seed(1)
    assert keys("lif1", 0, 7) == first
    others = [*first, *keys("lif2", 0, 7), *keys("lif1", 1, 7), *keys("lif1", 0, 8)]
    assert len(set(others)) == 12


def test_the_window_is_a_fifth_of_the_way_from_rest_to_threshold() -> None:
    options = Options(gradient="window")
    assert window_half_width(options, neuron(surrogates.atan(), 2.0)) == pytest.approx(0.4)
    assert window_half_width(options, neuron(surrogates.atan(), torch.tensor([1.0, 3.0]))) == pytest.approx(
        0.4
    )
    assert window_half_width(options, neuron(surrogates.atan(), -50.0, leak=-65.0)) == pytest.approx(3.0)
    given = Options(gradient="window", backward_threshold=0.7)
    assert LayerRuntime("", 0, given).rule(neuron(surrogates.atan())) == GradientRule("window", 0.7)


def test_a_quiet_window_is_noticed_after_a_few_batches() -> None:
    runtime = LayerRuntime("layer", 0, Options(gradient="window"))
    for _ in range(3):
        assert not runtime.quiet
        runtime.rule(neuron(surrogates.atan()))
        runtime.observe(output(0.0002), 10, 1000)
    assert runtime.quiet
    awake = LayerRuntime("layer", 0, Options(gradient="window"))
    for _ in range(3):
        awake.observe(output(0.02), 10, 1000)
    assert not awake.quiet


def test_a_layer_that_does_not_fire_has_no_draw() -> None:
    spec = NeuronSpec("euler", poles=2, fires=False)
    runtime = LayerRuntime("layer", 0, Options())
    assert runtime.rule(Neuron(spec, Coefficients.of(torch.zeros(())))) == GradientRule("exact")
    assert isinstance(nn.Linear(1, 1), nn.Module) and runtime.calls == 0


@pytest.mark.parametrize("entries", [5, 15, 60])
def test_a_handful_of_entries_does_not_drive_the_level_away(entries: int) -> None:
    surrogate = surrogates.atan()
    runtime = LayerRuntime("layer", 0, Options())
    generator = torch.Generator().manual_seed(entries)
    levels = []
    for _ in range(300):
        rule = runtime.rule(neuron(surrogate))
        expected = active(surrogate, rule.level)
        count = int((torch.rand(entries, generator=generator) < expected).sum())
        runtime.observe(output(count / entries), 1, entries)
        levels.append(runtime.level)
    fractions = [active(surrogate, level) for level in levels if level is not None]
    assert 0.02 < sum(fractions) / len(fractions) < 0.2
    assert max(fractions) < 0.7 and min(fractions) > 1e-4
