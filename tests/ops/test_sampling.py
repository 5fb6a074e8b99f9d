"""Sampled gradients: exact for the values that were drawn, unbiased over seeds, reproducible, within the
budget."""

from __future__ import annotations

import math

import pytest
import torch
from layer_cases import SPECS, Case, assert_close, spec_name
from torch import Tensor

from sparse_backend.neurons import NeuronSpec
from sparse_backend.neurons import surrogates as S
from sparse_backend.ops import events, random, reference
from sparse_backend.ops.contract import Layer
from sparse_backend.ops.schema import layer as layer_operator
from sparse_backend.ops.sequence import GradientRule

LEVELS = {
    S.atan(2.0): 0.5,
    S.fast_sigmoid(25.0): 0.3,
    S.triangular(1.0): 3.0,
    S.sigmoid(10.0): 0.5,
    S.tanh(3.0): 0.5,
}
"""For each surrogate an s0 that keeps some entries for certain, or none (triangular has one magnitude), and
draws others."""
SURROGATES = list(LEVELS)


class _Drawn(torch.autograd.Function):
    """H(x) whose derivative at this call is a given tensor: the stock model with the very values that were
    drawn."""

    @staticmethod
    def forward(ctx: object, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)  # type: ignore[attr-defined]
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None  # type: ignore[attr-defined]


def drawn_values(case: Case, rule: GradientRule) -> Tensor:
    """The surrogate values `[T, B, N]` that the operator drew: zero where it drew nothing."""
    spec, c = case.spec, case.neuron.coefficients
    i0 = case.state[1] if spec.poles == 2 else case.state[0].new_empty(0)
    feed = case.feed
    assert feed is not None
    args = (
        *(case.source.detach(), None, None, None, None, None, feed.weight, feed.bias, *c.tensors()),
        *(
            case.state[0],
            i0,
            case.cuts,
            case.steps,
            spec.encode(),
            rule.mode,
            rule.level,
            rule.key,
            0,
            False,
            False,
        ),
    )
    aptr, aidx, au = layer_operator(*args)[8:11]
    layer = Layer.from_arguments(*args)
    theta = c.threshold if c.threshold.dim() == 0 else c.threshold[aidx.long()]
    values = reference.surrogate_value(spec, layer, au.detach() - theta.detach())
    return events.expand(aptr, aidx, values, layer.shape, values.dtype)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
@pytest.mark.parametrize("spec", [SPECS[3], SPECS[5], SPECS[16]], ids=spec_name)
@pytest.mark.parametrize("membrane_gradient", [True, False])
def test_exact_for_the_values_drawn(
    implementation: str, spec: NeuronSpec, surrogate: S.Surrogate, membrane_gradient: bool
) -> None:
    rule = GradientRule("sampled", LEVELS[surrogate], key=random.stream_key(1, 2, 3))
    case = Case.random(
        spec, surrogate, steps=40, density=0.2, input_gradient=False, membrane_gradient=membrane_gradient
    )
    slopes = iter(drawn_values(case, rule))
    case_values = drawn_values(case, rule)
    assert 0 < (case_values != 0).double().mean() < 0.9
    # A reset that is not detached keeps the full surrogate; spikes that are handed on carry what was drawn.
    reset_spike = None if spec.post == "none" else surrogate
    _, want = case.dense(lambda x: _Drawn.apply(x, next(slopes)), reset_spike)  # type: ignore[arg-type]
    out = case.run(rule)
    assert_close(case.gradients(out.dense_spikes, out.membrane, out.state), want, 1e-10)


# Not on the CUDA kernels: they make the same draws (test_cuda.py), and a thousand runs take long on the host.
@pytest.mark.parametrize("implementation", ["reference", "native"], indirect=True)
@pytest.mark.parametrize("surrogate", SURROGATES[:3], ids=str)
@pytest.mark.parametrize("spec", [SPECS[3], SPECS[5], SPECS[16], SPECS[15]], ids=spec_name)
def test_mean_over_seeds_is_the_exact_gradient(
    implementation: str, spec: NeuronSpec, surrogate: S.Surrogate
) -> None:
    """z-scores of the mean over many draws; 400 draws resolve a bias of a few per cent of the noise."""
    torch.manual_seed(3)
    case = Case.random(
        spec, surrogate, steps=30, batch=4, width=6, density=0.2, input_gradient=False, learn=False,
        membrane_gradient=False, cut_rate=0.0,
    )  # fmt: skip
    exact = case.run(GradientRule("exact"))
    want = case.gradients(exact.dense_spikes, None, exact.state)["weight"]
    draws = []
    for seed in range(400):
        out = case.run(GradientRule("sampled", LEVELS[surrogate], key=random.stream_key(seed, 0, 0)))
        draws.append(case.gradients(out.dense_spikes, None, out.state)["weight"])
    stacked = torch.stack(draws)
    error = stacked.std(0) / math.sqrt(len(draws))
    moving = error > 1e-9
    z = ((stacked.mean(0) - want) / error)[moving]
    # For unbiased draws z is standard normal: its mean square is 1 +- sqrt(2/count), correlated entries widen
    # that.
    assert moving.sum() > 20
    assert z.abs().max() < 4.5
    assert (z**2).mean() < 2.0


def test_native_and_reference_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.random(SPECS[3], S.atan(2.0), steps=50, width=33, batch=5, density=0.2, input_gradient=False)
    rule = GradientRule("sampled", level=0.4, key=random.stream_key(7, 1, 1))
    native = drawn_values(case, rule)
    monkeypatch.setenv("SPARSE_BACKEND_NATIVE", "0")
    torch.testing.assert_close(native, drawn_values(case, rule), rtol=1e-12, atol=1e-12)


def test_same_key_same_gradient_other_key_other_gradient(implementation: str) -> None:
    case = Case.random(SPECS[3], S.atan(2.0), steps=40, input_gradient=False, membrane_gradient=False)

    def weight_gradient(key: int) -> Tensor:
        out = case.run(GradientRule("sampled", 0.4, key))
        return case.gradients(out.dense_spikes, None, out.state)["weight"]

    assert torch.equal(weight_gradient(5), weight_gradient(5))
    assert not torch.equal(weight_gradient(5), weight_gradient(6))


def test_torch_generators_are_left_alone(implementation: str) -> None:
    case = Case.random(SPECS[3], S.atan(2.0), input_gradient=False)
    before = torch.get_rng_state()
    case.run(GradientRule("sampled", 0.4, 9))
    assert torch.equal(before, torch.get_rng_state())


def test_offsets_are_uniform_and_uncorrelated() -> None:
    u = random.offsets(random.stream_key(3, 1, 4), 400, 500, torch.zeros((), dtype=torch.float64))
    assert u.min() >= 0 and u.max() < 1
    # 200,000 numbers: standard errors of mean and of a correlation are 6e-4 and 2.2e-3.
    assert abs(u.mean() - 0.5) < 4e-3
    assert abs(u.var() - 1 / 12) < 2e-3
    centred = u - u.mean()
    for shift in ((0, 1), (1, 0), (1, 1)):
        other = centred.roll(shift, (0, 1))
        assert abs((centred * other).mean() * 12) < 0.015
    assert not torch.equal(u, random.offsets(random.stream_key(3, 1, 5), 400, 500, u))


def test_splitmix_matches_its_published_sequence() -> None:
    """The first outputs of splitmix64 seeded with 1234567 (Vigna's reference implementation)."""
    state, gamma = 1234567, 0x9E3779B97F4A7C15
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [random.mix(state + i * gamma) for i in range(3)] == expected
