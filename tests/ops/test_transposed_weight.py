"""W^T, which the CPU kernels read in both directions, is made once where it can be."""

from __future__ import annotations

import pytest
import torch
from counted_native import CountedNative
from torch import Tensor

from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec, surrogates
from sparse_backend.ops.sequence import GradientRule, LayerOutput, LinearFeed, run_layer

STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 12, 8, 60, 40, 30


def _two_layers(rule: GradientRule) -> tuple[list[Tensor], LayerOutput, LayerOutput]:
    """Weights and outputs of two layers, driven by few events."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(STEPS, BATCH, INPUTS, generator=generator) < 0.05).float()
    weights = [
        (torch.randn(n, m, generator=generator) * 0.5).requires_grad_()
        for n, m in ((HIDDEN, INPUTS), (OUTPUTS, HIDDEN))
    ]
    spec = NeuronSpec(pre="subtract", surrogate=surrogates.fast_sigmoid(5.0))
    neuron = Neuron(spec, Coefficients.of(x, membrane=torch.tensor(0.9), threshold=torch.tensor(1.0)))
    first = run_layer(
        x, LinearFeed(weights[0]), neuron, (torch.zeros(BATCH, HIDDEN),), steps=STEPS, rule=rule
    )
    assert first.spikes is not None
    second = run_layer(
        *(first.spikes, LinearFeed(weights[1]), neuron, (torch.zeros(BATCH, OUTPUTS),)),
        **{"steps": STEPS, "rule": rule, "want_spikes": True},
    )
    return weights, first, second


@pytest.mark.parametrize("mode", ["window", "exact"])
def test_the_backward_pass_reads_that_of_the_forward_pass(counted_native: CountedNative, mode: str) -> None:
    weights, first, second = _two_layers(GradientRule(mode, 0.3 if mode == "window" else 0.0))
    assert second.dense_spikes is not None
    assert counted_native.calls["transpose_weight"] == 2
    # The first layer's input needs no gradient: under a window nothing reads its weights again.
    kept = [out.saved_bytes for out in (first, second)]
    second.dense_spikes.sum().backward()
    assert counted_native.calls["transpose_weight"] == 2
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in weights)
    padded = counted_native.padded_width(OUTPUTS) * HIDDEN * 4
    assert kept[1] >= padded


def test_a_weight_written_to_in_between_is_an_error(counted_native: CountedNative) -> None:
    weights, _, second = _two_layers(GradientRule("window", 0.3))
    assert second.dense_spikes is not None
    with torch.no_grad():
        weights[1].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second.dense_spikes.sum().backward()


def test_without_a_gradient_none_is_kept(counted_native: CountedNative) -> None:
    with torch.no_grad():
        _, _, second = _two_layers(GradientRule("window", 0.3))
    assert second.spikes is not None
    lists = (second.spikes.ptr, second.spikes.idx, second.spikes.val)
    assert second.saved_bytes == sum(value.nbytes for value in lists)
