"""Calls on accelerated snnTorch modules: states, outputs, attributes and exceptions are upstream's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("snntorch")

import snntorch as snn
import torch
from snntorch import utils
from torch import Tensor, nn

import sparse_backend
from sparse_backend import ArgumentError, surrogates
from sparse_backend.runtime import runtime_of

Outcome = Callable[[nn.Module], Any]


def twins(make: Callable[[], nn.Module], **options: Any) -> tuple[nn.Module, nn.Module]:
    """The same module stock and accelerated."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(make())
    stock, ours = made  # no deepcopy: only what was constructed is in SpikingNeuron.instances
    sparse_backend.accelerate(ours, **({"gradient": "exact"} | options))
    return stock, ours


def currents(steps: int = 6, shape: tuple[int, ...] = (3, 4), scale: float = 1.5) -> Tensor:
    return torch.rand(steps, *shape, generator=torch.Generator().manual_seed(2)) * scale


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, tuple):
        assert isinstance(b, tuple) and len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
        return
    assert b.shape == a.shape and b.dtype == a.dtype and b.requires_grad == a.requires_grad
    torch.testing.assert_close(b, a)


def assert_same(run: Outcome, make: Callable[[], nn.Module]) -> None:
    stock, ours = twins(make)
    assert_equal(run(stock), run(ours))


@pytest.mark.parametrize("init_hidden", [False, True])
@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("kind", [snn.Leaky, snn.Lapicque])
def test_outputs_and_carried_state(kind: type[nn.Module], output: bool, init_hidden: bool) -> None:
    def run(module: nn.Module) -> tuple[Any, ...]:
        return (*(module(x) for x in currents()), module.mem, module.reset)

    assert_same(run, lambda: kind(beta=0.8, init_hidden=init_hidden, output=output))


def test_explicit_state_and_attributes_are_current() -> None:
    def run(module: nn.Module) -> tuple[Any, ...]:
        mem = module.init_leaky()
        seen = []
        for x in currents():
            spk, mem = module(x, mem)
            seen += [spk, mem, module.reset]
            assert module.mem is mem
        return tuple(seen)

    assert_same(run, lambda: snn.Leaky(0.8))


def test_a_new_shape_starts_from_zeros() -> None:
    def run(module: nn.Module) -> tuple[Any, ...]:
        return (
            module(currents()[0]),
            module(currents(shape=(5, 4))[0]),
            module(currents()[1], torch.ones(2, 4)),
            module.reset,
        )

    assert_same(run, lambda: snn.Leaky(0.8))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 2, 5, 5)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    def run(module: nn.Module) -> tuple[Any, ...]:
        return tuple(module(x) for x in currents(shape=shape))

    assert_same(run, lambda: snn.Leaky(0.8, threshold=0.7))


SURROGATES = {
    "atan": {},
    "fast_sigmoid": {"slope": 10},
    "sigmoid": {"slope": 4},  # upstream's form overflows to NaN far from the threshold with its default of 25
    "triangular": {"threshold": 2},
    "straight_through_estimator": {},
    "SFS": {"slope": 5, "B": 0.2},
}


@pytest.mark.parametrize("factory", SURROGATES)
@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
@pytest.mark.parametrize("reset_delay", [True, False])
def test_gradients_of_a_loop(factory: str, mechanism: str, reset_delay: bool) -> None:
    def make() -> nn.Module:
        lif = snn.Leaky(
            *(torch.rand(4),),
            threshold=torch.rand(4) + 0.5,
            spike_grad=getattr(snn.surrogate, factory)(**SURROGATES[factory]),
            reset_mechanism=mechanism,
            reset_delay=reset_delay,
            learn_beta=True,
            learn_threshold=True,
        )
        return nn.Sequential(nn.Linear(5, 4), lif)

    def run(net: nn.Module) -> tuple[Tensor, ...]:
        x = currents(shape=(3, 5), scale=3).requires_grad_()
        mem, spikes, membranes = torch.full((3, 4), 0.3, requires_grad=True), [], []
        first = mem
        for step in x:
            spk, mem = net[1](net[0](step), mem)
            spikes.append(spk)
            membranes.append(mem)
        loss = (torch.stack(spikes) * torch.linspace(-1, 2, 4)).sum() + torch.stack(membranes).square().mean()
        return torch.autograd.grad(loss, [x, first, *net.parameters()])

    stock, ours = twins(make)
    for a, b in zip(run(stock), run(ours), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_options_changed_between_calls_are_honoured() -> None:
    def run(module: nn.Module) -> tuple[Any, ...]:
        xs, seen = currents(12), []
        for k, x in enumerate(xs):
            if k == 2:
                module.reset_delay = False
            if k == 4:
                module.threshold = torch.tensor(0.6)
            if k == 6:
                module.beta.fill_(0.3)
            if k == 8:
                module.state_quant = lambda mem: mem.round()
            if k == 10:
                module.state_quant = False
            seen.append(module(x))
        return tuple(seen)

    assert_same(run, lambda: snn.Leaky(0.9))


def test_an_unsupported_option_set_later_is_reported() -> None:
    module = snn.Leaky(0.9)
    report = sparse_backend.accelerate(module)
    module.spike_grad = torch.sign
    module(currents()[0])
    assert "sign" in report.warnings[0] and "sign" in str(report)
    module.spike_grad = snn.surrogate.atan()
    module(currents()[0])
    assert not report.warnings


def test_utils_reset_and_detach_hidden() -> None:
    def run(net: nn.Module) -> tuple[Any, ...]:
        snn.SpikingNeuron.instances = [net[1]]  # what follows reaches every neuron ever built
        seen = []
        for x in currents(4, (3, 5)):
            seen.append(net(x))
        snn.Leaky.detach_hidden()
        seen.append(net(currents(4, (3, 5))[0]))
        utils.reset(net)
        seen.append(net(currents(4, (3, 5))[0]))
        return tuple(seen)

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 4), snn.Leaky(0.9, init_hidden=True, output=True))

    assert_same(run, make)


def both_raise(call: Callable[[nn.Module], Any], make: Callable[[], nn.Module]) -> None:
    """Upstream raises, and so does the accelerated module: same type, same message, same call."""
    stock, ours = twins(make)
    ours(currents()[0])
    with pytest.raises(Exception) as expected:
        call(stock)
    with pytest.raises(type(expected.value)) as raised:
        call(ours)
    assert str(raised.value) == str(expected.value)


def test_upstreams_exceptions_are_raised_at_the_call() -> None:
    both_raise(lambda m: m(currents()[0], torch.zeros(3, 4)), lambda: snn.Leaky(0.9, init_hidden=True))
    both_raise(lambda m: m("current"), lambda: snn.Leaky(0.9))
    both_raise(lambda m: m(None), lambda: snn.Leaky(0.9))
    both_raise(lambda m: m(currents()[0], "state"), lambda: snn.Leaky(0.9))
    both_raise(lambda m: m(torch.zeros(3, 5)), lambda: snn.Leaky(torch.rand(4)))
    both_raise(
        lambda m: m(torch.zeros(3, 4, device="meta"), torch.zeros(3, 4)), lambda: snn.Leaky(torch.rand(4))
    )


def linear_and_leaky() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), snn.Leaky(0.9, init_hidden=True))


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3, 6),
        torch.zeros(3, 5, dtype=torch.int64),
        torch.zeros(3, 5, dtype=torch.float64),
        "x",
        None,
    ]
    + [torch.zeros(3, 5, device="meta")],
    ids=["features", "integers", "float64", "text", "none", "device"],
)
def test_bad_input_to_the_feed_raises_upstreams_exception_and_loses_nothing(bad: Any) -> None:
    stock, ours = twins(linear_and_leaky)
    good = currents(3, (3, 5))
    results: list[list[Tensor]] = []
    raised = []
    for net in (stock, ours):
        seen = [net(good[0]), net(good[1])]
        with pytest.raises(Exception) as caught:
            net(bad)
        raised.append(caught.value)
        seen.append(net(good[2]))
        results.append(seen)
    assert type(raised[0]) is type(raised[1]) and str(raised[0]) == str(raised[1])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_integer_weights_raise_upstreams_exception() -> None:
    stock, ours = twins(linear_and_leaky)
    errors = []
    for net in (stock, ours):
        net[0].weight = nn.Parameter(torch.ones(4, 5, dtype=torch.int64), requires_grad=False)
        with pytest.raises(RuntimeError) as caught:
            net(torch.rand(3, 5))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), float("inf")])
def test_a_bad_threshold_is_named_at_the_call(threshold: float) -> None:
    _, net = twins(linear_and_leaky)
    x = currents(3, (3, 5))
    kept = net(x[0])
    net[1].threshold = torch.tensor(threshold)
    with pytest.raises(ArgumentError, match=f"threshold={threshold}.*'1'"):
        net(x[1])
    net[1].threshold = torch.tensor(1.0)
    net(x[1])
    assert torch.isfinite(kept).all()


def test_an_empty_batch_is_what_upstream_makes_of_it() -> None:
    assert_same(lambda net: (net(torch.rand(0, 5)), net(torch.rand(3, 5))), linear_and_leaky)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_what_upstream_makes_of_them(dtype: torch.dtype) -> None:
    assert_same(lambda m: tuple(m(x.to(dtype)) for x in currents()), lambda: snn.Leaky(0.9))


def test_float64_with_our_surrogate_runs_accelerated() -> None:
    def make() -> nn.Module:
        return snn.Leaky(0.9, spike_grad=surrogates.atan()).double()

    stock, ours = twins(make)
    x = currents().double()
    assert_equal(tuple(stock(step) for step in x), tuple(ours(step) for step in x))
    _ = ours.mem.sum().item()
    runtime = runtime_of(ours)
    assert runtime is not None and runtime.totals.steps == len(x)
