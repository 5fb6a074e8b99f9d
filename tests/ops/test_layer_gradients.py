"""Every gradient of the layer operator against dense autograd through the same step, in float64.

Tolerance 1e-10: both sides are float64 sums of at most a few thousand terms, so rounding stays below 1e-12.
"""

from __future__ import annotations

import pytest
import torch
from layer_cases import RULES, SPECS, Case, assert_close, spec_name

from sparse_backend.neurons import NeuronSpec, Surrogate
from sparse_backend.neurons import surrogates as S
from sparse_backend.ops import backend, cpu
from sparse_backend.ops.contract import Layer, LayerGradients, LayerOutputs, OutputGradients
from sparse_backend.ops.sequence import GradientRule, LinearFeed, PackedSpikes, run_layer

TOLERANCE = 1e-10


def check(case: Case, surrogate: Surrogate, rule: GradientRule) -> None:
    out = case.run(rule)
    spike = surrogate.windowed(rule.level) if rule.mode == "window" else surrogate
    path, want = case.dense(spike)
    if case.spec.fires:
        assert out.dense_spikes is not None
        assert torch.equal(out.dense_spikes, path.s * case.neuron.coefficients.graded)
    if out.membrane is not None:
        torch.testing.assert_close(out.membrane, path.m, rtol=1e-12, atol=1e-12)
    assert_close(case.gradients(out.dense_spikes, out.membrane, out.state), want, TOLERANCE)


@pytest.mark.parametrize("per_neuron", [False, True], ids=["scalar", "per-neuron"])
@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
@pytest.mark.parametrize("spec", SPECS, ids=spec_name)
def test_every_spec(
    implementation: str, spec: NeuronSpec, surrogate: Surrogate, rule: GradientRule, per_neuron: bool
) -> None:
    check(Case.random(spec, surrogate, per_neuron=per_neuron), surrogate, rule)
    # Without a gradient into the membrane the learned coefficients come from the carriers at events.
    check(Case.random(spec, surrogate, per_neuron=per_neuron, membrane_gradient=False), surrogate, rule)


@pytest.mark.parametrize("learn", [True, False], ids=["learned", "fixed"])
@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
@pytest.mark.parametrize("spec", SPECS, ids=spec_name)
def test_no_gradient_at_the_spikes(
    implementation: str, spec: NeuronSpec, surrogate: Surrogate, rule: GradientRule, learn: bool
) -> None:
    """A loss on membrane potentials alone: the surrogate matters only where a reset hands a gradient on."""
    for membrane in (True, False):
        case = Case.random(spec, surrogate, learn=learn, membrane_gradient=membrane)
        out = case.run(rule)
        path = case.trajectory(surrogate.windowed(rule.level) if rule.mode == "window" else surrogate)
        want = case.gradients(None, path.m, (path.m[-1], path.i[-1])[: spec.poles])
        assert_close(case.gradients(None, out.membrane, out.state), want, TOLERANCE)


def test_trajectory_is_not_recomputed_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    native = pytest.importorskip("sparse_backend._cpu")
    scans: list[str] = []
    for name in ("backward", "backward_dense"):
        scan = getattr(native, name)
        monkeypatch.setattr(native, name, lambda *args, n=name, run=scan: (scans.append(n), run(*args)))
    reported: list[str] = []
    backward = cpu.backward

    def report(layer: Layer, out: LayerOutputs, grads: OutputGradients, needs: int) -> LayerGradients:
        reported.append(backend.choices(layer, out, grads)["scan"])
        return backward(layer, out, grads, needs)

    monkeypatch.setattr(cpu, "backward", report)
    for spikes in (True, False):
        case = Case.random(SPECS[3], S.atan(2.0), learn=False)
        out = case.run(GradientRule("exact"))
        case.gradients(out.dense_spikes if spikes else None, out.membrane, out.state)
    assert scans == ["backward_dense", "backward"]
    assert reported == ["recompute", "events"]


FEEDS = {
    "events": {"density": 0.1, "input_gradient": False, "binary": True},
    "weighted-events": {"density": 0.1, "input_gradient": False},
    "dense": {"density": 1.0, "input_gradient": False},
    "input-gradient": {"density": 0.5},
    "constant": {"constant": True, "density": 0.8},
    "identity": {"identity": True},
    "identity-constant": {"identity": True, "constant": True},
    "no-bias": {"bias": False, "density": 0.1, "input_gradient": False},
    "silent": {"density": 0.0, "input_gradient": False},
}


@pytest.mark.parametrize("learn", [True, False], ids=["learned", "fixed"])
@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("spec", [SPECS[3], SPECS[8], SPECS[16]], ids=spec_name)
def test_every_feed(
    implementation: str, spec: NeuronSpec, feed: str, surrogate: Surrogate, rule: GradientRule, learn: bool
) -> None:
    for membrane in (True, False):
        case = Case.random(spec, surrogate, learn=learn, membrane_gradient=membrane, **FEEDS[feed])  # type: ignore[arg-type]
        check(case, surrogate, rule)


@pytest.mark.sanitizer
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 64, 300, 3), (300, 2, 17, 33), (40, 5, 129, 257), (7, 33, 1, 8)]
)
@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
def test_odd_shapes(
    implementation: str, shape: tuple[int, int, int, int], surrogate: Surrogate, rule: GradientRule
) -> None:
    steps, batch, inputs, width = shape
    for density in (0.0, 0.02, 0.5, 1.0):
        case = Case.random(
            SPECS[3], surrogate, steps=steps, batch=batch, inputs=inputs, width=width, density=density,
            input_gradient=False, membrane_gradient=False, cut_rate=0.05,
        )  # fmt: skip
        check(case, surrogate, rule)


@pytest.mark.parametrize("inputs", [1, 2, 5])
@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
@pytest.mark.parametrize("spec", [SPECS[3], SPECS[8], SPECS[16]], ids=spec_name)
def test_few_dense_inputs(
    implementation: str, spec: NeuronSpec, surrogate: Surrogate, rule: GradientRule, inputs: int
) -> None:
    """With fewer inputs than a row has vectors, filtering them (the trace form) is the cheapest way to dW."""
    for membrane in (True, False):
        case = Case.random(
            spec, surrogate, inputs=inputs, width=50, density=1.0, input_gradient=False,
            membrane_gradient=membrane,
        )  # fmt: skip
        check(case, surrogate, rule)


def two_layers(rule: GradientRule, below: Case, above: Case, *, packed: bool) -> dict[str, torch.Tensor]:
    """Gradients of a two-layer net whose hidden spikes are also read by a regulariser."""
    first = below.run(rule)
    assert first.spikes is not None and first.dense_spikes is not None
    source: PackedSpikes | torch.Tensor = first.spikes if packed else first.dense_spikes
    second = run_layer(
        source,
        above.feed,
        above.neuron,
        above.state,
        steps=above.steps,
        rule=rule,
        cuts=above.cuts,
        want_spikes=True,
    )
    assert second.dense_spikes is not None
    loss = (second.dense_spikes * above.g_spikes).sum() + (second.state[0] * above.g_state[0]).sum()
    loss = loss + (first.dense_spikes.mean(0) ** 2).sum()
    leaves = {f"below.{k}": v for k, v in below.leaves().items()} | {
        f"above.{k}": v for k, v in above.leaves().items() if k != "source"
    }
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }


@pytest.mark.sanitizer
@pytest.mark.parametrize("graded", [False, True], ids=["unit-spikes", "graded-spikes"])
@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
@pytest.mark.parametrize("spec", [SPECS[0], SPECS[5], SPECS[16]], ids=spec_name)
def test_hidden_spikes_travel_packed(
    implementation: str, spec: NeuronSpec, surrogate: Surrogate, rule: GradientRule, graded: bool
) -> None:
    below = Case.random(spec, surrogate, steps=20, batch=3, inputs=9, width=11, learn=graded)
    above = Case.random(spec, surrogate, steps=20, batch=3, inputs=11, width=6, learn=graded, per_neuron=True)
    assert_close(
        two_layers(rule, below, above, packed=True), two_layers(rule, below, above, packed=False), TOLERANCE
    )


# The upper layer in one tile of neurons, in several, with few batch elements in several, and with one step.
@pytest.mark.parametrize(
    ("steps", "batch", "widths"), [(21, 9, (37, 50)), (7, 9, (37, 150)), (5, 2, (20, 70)), (1, 19, (33, 18))]
)
def test_an_input_gradient_is_wanted_everywhere(
    implementation: str, steps: int, batch: int, widths: tuple[int, int]
) -> None:
    surrogate, rule = S.atan(2.0), GradientRule("exact")
    below = Case.random(SPECS[3], surrogate, steps=steps, batch=batch, inputs=9, width=widths[0], learn=False)
    above = Case.random(
        SPECS[3], surrogate, steps=steps, batch=batch, inputs=widths[0], width=widths[1], learn=False
    )
    assert_close(
        two_layers(rule, below, above, packed=True), two_layers(rule, below, above, packed=False), TOLERANCE
    )


def test_packed_spikes_are_not_written_densely(implementation: str) -> None:
    case = Case.random(SPECS[3], S.fast_sigmoid(25.0), learn=False)
    out = run_layer(
        case.source, case.feed, case.neuron, case.state, steps=case.steps, rule=GradientRule("window", 0.1)
    )
    assert out.dense_spikes is None and out.membrane is None
    assert out.spikes is not None and out.spikes.carrier.dim() == 1
    want = case.run(GradientRule("window", 0.1))
    assert want.dense_spikes is not None
    assert torch.equal(out.spikes.to_dense(), want.dense_spikes)


def test_threads_do_not_change_a_bit() -> None:
    """Event forms only: torch's own matrix products, which dense forms use, promise no such thing."""
    if backend.native() is None:
        pytest.skip("the native CPU module was not built")
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        case = Case.random(
            SPECS[3], S.atan(2.0), steps=30, batch=13, inputs=50, width=37, density=0.05,
            input_gradient=False, membrane_gradient=False, dtype=torch.float32,
        )  # fmt: skip
        out = case.run(GradientRule("sampled", 0.2, 77))
        found.append(case.gradients(out.dense_spikes, None, out.state))
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(value, other[name]), name


def test_weight_is_read_without_a_copy_of_the_input() -> None:
    case = Case.random(SPECS[3], S.atan(2.0), density=0.1, input_gradient=False)
    feed = LinearFeed(case.feed.weight.t().contiguous().t(), case.feed.bias)  # type: ignore[union-attr]
    for source in (case.source, case.source.transpose(0, 1).contiguous().transpose(0, 1)):
        out = run_layer(source, feed, case.neuron, case.state, steps=case.steps, rule=GradientRule("exact"))
        want = case.run(GradientRule("exact"))
        assert out.spikes is not None and want.spikes is not None
        assert torch.equal(out.spikes.idx, want.spikes.idx)


@pytest.mark.parametrize("spec", [SPECS[3], SPECS[5], SPECS[16]], ids=spec_name)
def test_sampling_at_level_zero_keeps_every_entry(implementation: str, spec: NeuronSpec) -> None:
    """The level before a first batch has set it."""
    case = Case.random(spec, S.atan(2.0))
    out = case.run(GradientRule("sampled", 0.0, 5))
    _, want = case.dense(S.atan(2.0))
    assert_close(case.gradients(out.dense_spikes, out.membrane, out.state), want, 1e-10)
