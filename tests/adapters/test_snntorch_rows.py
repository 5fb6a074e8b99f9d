"""snnTorch modules read as data and run as sequences give what the unmodified modules give in a time loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("snntorch")

import snntorch as snn
import torch
from torch import Tensor, nn

from sparse_backend.adapters import Claim, Stock
from sparse_backend.adapters.snntorch import AcceleratedLapicque, AcceleratedLeaky, adapter
from sparse_backend.neurons import Neuron, surrogates
from sparse_backend.ops.sequence import GradientRule, run_layer

T, B, N = 15, 3, 6
DOUBLE = torch.float64


def stock_loop(module: nn.Module, current: Tensor, mem: Tensor) -> tuple[Tensor, Tensor]:
    spikes, membranes = [], []
    for step in current:
        spk, mem = module(step, mem)
        spikes.append(spk)
        membranes.append(mem)
    return torch.stack(spikes), torch.stack(membranes)


def sequence(neuron: Neuron, current: Tensor, mem: Tensor) -> tuple[Tensor, Tensor]:
    out = run_layer(
        *(current, None, neuron, (mem,)),
        steps=len(current),
        rule=GradientRule("exact"),
        want_spikes=True,
        want_membrane=True,
    )
    assert out.dense_spikes is not None and out.membrane is not None
    return out.dense_spikes, out.membrane


def read(module: nn.Module, dtype: torch.dtype = DOUBLE) -> Neuron:
    layer = AcceleratedLeaky.layer if isinstance(module, snn.Leaky) else AcceleratedLapicque.layer
    neuron = layer.neuron(module, torch.empty((), dtype=dtype), torch.Size([N]))
    assert neuron is not None
    return neuron


def gradients(
    loop: Callable[..., Any], leaves: list[Tensor], current: Tensor, mem: Tensor
) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    spikes, membranes = loop(current, mem)
    weights = [torch.randn(x.shape, generator=generator, dtype=DOUBLE) for x in (spikes, membranes)]
    loss = (spikes * weights[0]).sum() + (membranes * weights[1]).sum()
    yield from (spikes, membranes)
    found = torch.autograd.grad(loss, [*leaves, current, mem], allow_unused=True)
    yield from (torch.zeros(()) if value is None else value for value in found)


def assert_same_as_stock(module: nn.Module, leaves: list[Tensor], scale: float = 1.0) -> None:
    torch.manual_seed(3)
    current = (torch.randn(T, B, N, dtype=DOUBLE) * 0.8 * scale).requires_grad_()
    mem = torch.randn(B, N, dtype=DOUBLE).requires_grad_()
    stock = list(gradients(lambda x, m: stock_loop(module, x, m), leaves, current, mem))
    ours = list(gradients(lambda x, m: sequence(read(module), x, m), leaves, current, mem))
    assert 0.02 < stock[0].gt(0).double().mean() < 0.8  # a test in which nothing spikes shows little
    assert torch.equal(stock[0], ours[0])
    for a, b in zip(stock, ours, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
def test_leaky(mechanism: str, reset_delay: bool, per_neuron: bool) -> None:
    torch.manual_seed(0)
    shape = (N,) if per_neuron else ()
    module = snn.Leaky(
        beta=torch.rand(shape) * 1.2,  # some beyond the clamp
        threshold=torch.rand(shape) + 0.5,
        graded_spikes_factor=torch.rand(shape) + 0.5,
        spike_grad=surrogates.fast_sigmoid(5.0),
        learn_beta=True,
        learn_threshold=True,
        learn_graded_spikes_factor=True,
        reset_mechanism=mechanism,
        reset_delay=reset_delay,
    ).double()
    assert_same_as_stock(module, [module.beta, module.threshold, module.graded_spikes_factor])


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.7}, {"R": 5.0, "C": 0.8}, {"beta": 0.8, "R": 2.0}, {"beta": 0.8, "C": 3.0, "time_step": 0.5}],
    ids=str,
)
@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
def test_lapicque(mechanism: str, options: dict[str, float]) -> None:
    given = {name: torch.tensor(value, dtype=DOUBLE) for name, value in options.items()}
    module = snn.Lapicque(
        **given,
        threshold=0.7,
        spike_grad=surrogates.atan(3.0),
        learn_threshold=True,
        reset_mechanism=mechanism,
    ).double()
    assert_same_as_stock(module, [module.threshold], scale=float(module.C / module.time_step))


def test_the_reset_follows_the_state_function_and_not_the_string() -> None:
    module = snn.Leaky(0.9, spike_grad=surrogates.atan()).double()
    module.reset_mechanism = "zero"
    assert read(module).spec.pre == "subtract"
    assert_same_as_stock(module, [])
    module.reset_delay = False  # here upstream does look at the number behind the string
    assert (read(module).spec.pre, read(module).spec.post) == ("subtract", "zero")
    assert_same_as_stock(module, [])


SURROGATES = [
    snn.surrogate.atan(),
    snn.surrogate.atan(alpha=3.5),
    snn.surrogate.fast_sigmoid(slope=10),
    snn.surrogate.sigmoid(slope=4),
    snn.surrogate.triangular(threshold=2),
    snn.surrogate.straight_through_estimator(),
    snn.surrogate.SFS(slope=3, B=0.25),
]


@pytest.mark.parametrize("spike_grad", SURROGATES, ids=lambda f: f.__qualname__)
def test_surrogate_closures_are_read(spike_grad: Callable[[Tensor], Tensor]) -> None:
    claim = adapter.examine(snn.Leaky(0.9, spike_grad=spike_grad))
    assert isinstance(claim, Claim) and claim.surrogate is not None
    x = torch.linspace(-1.5, 1.5, 301, requires_grad=True)
    (expected,) = torch.autograd.grad(spike_grad(x).sum(), x)
    torch.testing.assert_close(claim.surrogate.derivative(x.detach()), expected, rtol=1e-5, atol=1e-6)


def doubled(x: Tensor) -> Tensor:
    return 2 * x


def test_options_that_stay_stock_say_why() -> None:
    class Mine(snn.Leaky):
        pass

    patched = snn.Leaky(0.9)
    patched.forward = lambda *args: None
    shallow = snn.Leaky(0.9)
    shallow.state_function = snn.Leaky(0.9).state_function
    with pytest.warns(UserWarning, match="Inhibition"):
        inhibited = snn.Leaky(0.9, inhibition=True)
    cases = [
        (snn.Leaky(0.9, surrogate_disable=True), "surrogate_disable"),
        (inhibited, "inhibition"),
        (snn.Leaky(0.9, state_quant=doubled), "state_quant"),
        (snn.Leaky(0.9, spike_grad=doubled), "doubled"),
        (snn.Leaky(0.9, spike_grad=snn.surrogate.spike_rate_escape()), "spike_rate_escape"),
        (snn.Leaky(0.9, spike_grad=snn.surrogate.heaviside()), "heaviside"),
        (snn.Leaky(0.9, graded_spikes_factor=0.0, reset_delay=False), "graded_spikes_factor"),
        (Mine(0.9), "Mine is a subclass of Leaky"),
        (patched, "forward"),
        (shallow, "another module"),
        (snn.Synaptic(0.9, 0.8), "Synaptic"),
        (snn.Alpha(0.9, 0.8), "Alpha"),
        (snn.RLeaky(0.9, all_to_all=False), "RLeaky"),
    ]
    for module, expected in cases:
        decision = adapter.examine(module)
        assert isinstance(decision, Stock), module
        assert expected in decision.reason
    assert adapter.examine(nn.Linear(2, 2)) is None


@pytest.mark.parametrize(
    "name, shape", [*itertools.product(["beta", "threshold"], [(B, N), (B, 1), (N + 1,)])]
)
def test_a_coefficient_that_depends_on_the_batch_is_declined(name: str, shape: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"beta": 0.9, "spike_grad": surrogates.atan(), name: torch.rand(shape)}
    module = snn.Leaky(**options)
    assert AcceleratedLeaky.layer.neuron(module, torch.empty(()), torch.Size([N])) is None


def test_coefficients_of_feature_maps_are_spread_over_the_neurons() -> None:
    beta, threshold = torch.rand(4, 1, 1), torch.rand(1, 4, 2, 3)
    module = snn.Leaky(beta, threshold=threshold)
    neuron = AcceleratedLeaky.layer.neuron(module, torch.empty(()), torch.Size([4, 2, 3]))
    assert neuron is not None
    assert torch.equal(neuron.coefficients.membrane, beta.expand(4, 2, 3).flatten())
    assert torch.equal(neuron.coefficients.threshold, threshold.flatten())


def test_float64_with_a_float32_surrogate_is_declined() -> None:
    module = snn.Leaky(0.9)
    layer = AcceleratedLeaky.layer
    assert layer.neuron(module, torch.empty((), dtype=DOUBLE), torch.Size([N])) is None
    assert layer.output_dtype(module, DOUBLE) == torch.float32
    ours = snn.Leaky(0.9, spike_grad=surrogates.atan())
    assert layer.output_dtype(ours, DOUBLE) == DOUBLE
