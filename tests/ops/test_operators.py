"""The operators as torch sees them: schemas, fakes, autograd registration, second derivatives, argument
checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from layer_cases import RULES, SPECS, Case, assert_close, spec_name

from sparse_backend.errors import ArgumentError, ArgumentTypeError, SparseBackendError
from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec
from sparse_backend.neurons import surrogates as S
from sparse_backend.ops import schema
from sparse_backend.ops.contract import NEEDS
from sparse_backend.ops.sequence import GradientRule, LinearFeed, run_layer


@pytest.mark.parametrize("test", ["test_schema", "test_autograd_registration", "test_faketensor"])
@pytest.mark.parametrize("rule", ["exact", "window", "sampled", "none"])
def test_opcheck(implementation: str, test: str, rule: str) -> None:
    case = Case.random(SPECS[3], S.fast_sigmoid(5.0), steps=5, dtype=torch.float32)
    feed = case.feed
    assert feed is not None
    args = (
        *(case.source, None, None, None, None, None, feed.weight, feed.bias),
        *(*case.neuron.coefficients.tensors(), case.state[0], torch.empty(0), None),
        *(case.steps, case.spec.encode(), rule, 0.3, 5, 0b1111111 if rule == "exact" else 0, True, True),
    )
    torch.library.opcheck(schema.layer, args, test_utils=test)


@pytest.mark.parametrize("test", ["test_schema", "test_autograd_registration", "test_faketensor"])
@pytest.mark.parametrize("mode", ["exact", "window"], ids=["dense-carrier", "packed-carrier"])
def test_opcheck_to_dense(implementation: str, test: str, mode: str) -> None:
    case = Case.random(SPECS[3], S.fast_sigmoid(5.0), steps=5, learn=False, dtype=torch.float32)
    spikes = case.run(GradientRule(mode, 0.3)).spikes
    assert spikes is not None and (spikes.aptr is None) == (mode == "exact")
    carrier = spikes.carrier.detach().clone().requires_grad_()
    places = (spikes.ptr, spikes.idx, spikes.val, spikes.aptr, spikes.aidx)
    args = (carrier, *places, spikes.steps, spikes.batch, spikes.width)
    torch.library.opcheck(schema.to_dense, args, test_utils=test)


@pytest.mark.parametrize("test", ["test_schema", "test_faketensor"])
@pytest.mark.parametrize("mode", ["exact", "window"])
def test_opcheck_layer_backward(implementation: str, test: str, mode: str) -> None:
    case = Case.random(SPECS[3], S.fast_sigmoid(5.0), steps=5, learn=False, dtype=torch.float32)
    feed = case.feed
    assert feed is not None
    inputs = (
        *(case.source.detach(), None, None, None, None, None, feed.weight.detach(), None),
        *(*case.neuron.coefficients.tensors(), case.state[0].detach(), torch.empty(0), None),
        *(case.steps, case.spec.encode(), mode, 0.3, 5, 0, False, True),
    )
    saved = schema.layer(*inputs)[5:]
    gradients = (None, None, case.g_membrane, None, None)
    needs = NEEDS["source"] | NEEDS["weight"] | NEEDS["m0"]
    torch.library.opcheck(schema.layer_backward, (*gradients, *inputs, *saved, needs), test_utils=test)


@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
@pytest.mark.parametrize("spec", [SPECS[3], SPECS[5], SPECS[16]], ids=spec_name)
@pytest.mark.parametrize("graded", [True, False])
def test_second_derivatives(
    implementation: str, spec: NeuronSpec, surrogate: S.Surrogate, rule: GradientRule, graded: bool
) -> None:
    """A gradient penalty through two packed layers equals the same penalty through dense spikes and plain
    loops."""
    below = Case.random(spec, surrogate, steps=8, inputs=4, width=5, learn=graded)
    above = Case.random(spec, surrogate, steps=8, inputs=5, width=3, learn=graded)
    leaves = {f"below.{k}": v for k, v in below.leaves().items()}
    leaves |= {f"above.{k}": v for k, v in above.leaves().items() if k != "source"}

    def penalty(hidden: Any, dense: bool) -> dict[str, torch.Tensor]:
        if dense:
            spike = surrogate.windowed(rule.level) if rule.mode == "window" else surrogate
            above.source = below.trajectory(spike).s * below.neuron.coefficients.graded
            path = above.trajectory(spike)
            loss = (path.s * above.neuron.coefficients.graded * above.g_spikes).sum()
        else:
            first = below.run(rule)
            second = run_layer(
                first.spikes, above.feed, above.neuron, above.state, steps=8, rule=rule, cuts=above.cuts,  # type: ignore[arg-type]
                want_spikes=True,
            )  # fmt: skip
            assert second.dense_spikes is not None
            loss = (second.dense_spikes * above.g_spikes).sum()
        first_order = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
        total = sum((grad**2).sum() for grad in first_order if grad is not None)
        assert isinstance(total, torch.Tensor)
        second_order = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(leaves.items(), second_order, strict=True)
        }

    assert_close(penalty(None, dense=False), penalty(None, dense=True), 1e-9)


@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
def test_second_derivatives_where_an_input_descends_from_another(
    implementation: str, surrogate: S.Surrogate, rule: GradientRule
) -> None:
    """Layers that share a weight, a state carried over, one parameter in two places."""
    case = Case.random(SPECS[5], surrogate, steps=6, inputs=5, width=5, learn=False, input_gradient=False)
    assert case.feed is not None
    weight, number, x = case.feed.weight, torch.tensor(0.8, dtype=torch.float64), case.source
    leaves = (weight, number.requires_grad_())
    case.neuron = Neuron(case.spec, replace(case.neuron.coefficients, membrane=number, threshold=number))

    def gradients(dense: bool) -> dict[str, torch.Tensor]:
        case.state = (0.3 * weight[: x.shape[1]],)
        case.source = torch.tanh(torch.nn.functional.linear(x, weight))
        if dense:
            path = case.trajectory(surrogate.windowed(rule.level) if rule.mode == "window" else surrogate)
            spikes, membrane = path.s * case.neuron.coefficients.graded, path.m
        else:
            out = case.run(rule)
            assert out.dense_spikes is not None and out.membrane is not None
            spikes, membrane = out.dense_spikes, out.membrane
        assert case.g_membrane is not None
        loss = (spikes * case.g_spikes).sum() + (membrane * case.g_membrane).sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), leaves)
        return {f"{order} {k}": g for order, each in enumerate((first, second)) for k, g in enumerate(each)}

    assert_close(gradients(dense=False), gradients(dense=True), 1e-9)


def test_second_derivative_of_to_dense(implementation: str) -> None:
    case = Case.random(SPECS[3], S.fast_sigmoid(5.0), steps=5, learn=False, membrane_gradient=False)
    out = run_layer(
        case.source, case.feed, case.neuron, case.state, steps=5, rule=GradientRule("window", 0.3)
    )
    assert out.spikes is not None and out.spikes.aptr is not None
    factor = torch.randn(5, 3, 5, dtype=torch.float64, requires_grad=True)
    loss = (out.spikes.to_dense() * factor).sum()
    (packed,) = torch.autograd.grad(loss, out.spikes.carrier, create_graph=True)
    (found,) = torch.autograd.grad(packed.square().sum(), factor)
    active = torch.zeros_like(found, dtype=torch.bool)
    row = torch.repeat_interleave(torch.arange(15), out.spikes.aptr.diff())
    active[row % 5, row // 5, out.spikes.aidx.long()] = True  # type: ignore[union-attr]
    assert torch.equal(found, torch.where(active, 2 * factor, 0))


def arguments(**changes: Any) -> dict[str, Any]:
    zero = torch.zeros(())
    values: dict[str, Any] = {
        "source": torch.rand(4, 2, 3),
        "feed": LinearFeed(torch.randn(5, 3), torch.randn(5)),
        "neuron": Neuron(NeuronSpec(), Coefficients.of(zero, membrane=0.9, threshold=1.0)),
        "state": (torch.zeros(2, 5),),
        "steps": 4,
        "rule": GradientRule("exact"),
    }
    return values | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 0, "source": torch.rand(0, 2, 3)}, ArgumentError, "steps=0"),
        ({"source": torch.rand(4, 2, 7)}, ArgumentError, r"source has shape \(4, 2, 7\)"),
        ({"state": (torch.zeros(2, 5), torch.zeros(2, 5))}, ArgumentError, "state has 2 tensors"),
        ({"state": (torch.zeros(5),)}, ArgumentError, r"\[B, N\]"),
        ({"state": (torch.zeros(2, 5, dtype=torch.int64),)}, ArgumentTypeError, "int64"),
        ({"feed": LinearFeed(torch.randn(6, 3))}, ArgumentError, "weight has shape"),
        ({"feed": LinearFeed(torch.randn(5, 3), torch.randn(6))}, ArgumentError, "bias has shape"),
        ({"source": torch.rand(4, 2, 3, device="meta")}, ArgumentError, "mixed"),
        ({"cuts": torch.zeros(3, dtype=torch.uint8)}, ArgumentError, "cuts has shape"),
        (
            {
                "neuron": Neuron(
                    NeuronSpec(), Coefficients.of(torch.zeros(()), membrane=torch.rand(4), threshold=1.0)
                )
            },
            ArgumentError,
            r"membrane has shape \(4,\)",
        ),
    ],
)
def test_bad_arguments_are_named(
    changes: dict[str, Any], error: type[SparseBackendError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_layer(**arguments(**changes))


def test_empty_batch_gives_empty_results() -> None:
    out = run_layer(**arguments(source=torch.rand(4, 0, 3), state=(torch.zeros(0, 5),), want_spikes=True))
    assert out.dense_spikes is not None and out.dense_spikes.shape == (4, 0, 5)
    assert out.state[0].shape == (0, 5)


def test_no_gradient_wanted_lists_no_active_entries(implementation: str) -> None:
    with torch.no_grad():
        out = run_layer(**arguments())
    assert out.active_fraction == 0
    assert out.spikes is not None and not out.spikes.carrier.requires_grad
