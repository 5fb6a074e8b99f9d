"""Direct use on whole sequences: the results of the unmodified neurons in a loop, and errors with names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sparse_backend import ArgumentError, ArgumentTypeError, functional, surrogates
from sparse_backend.functional import GradientOptions

T, B, INPUTS, N = 18, 3, 7, 5
DOUBLE = torch.float64


def data(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = (torch.rand(T, B, INPUTS, generator=generator, dtype=DOUBLE) < 0.3).to(DOUBLE).requires_grad_()
    weight = (torch.randn(N, INPUTS, generator=generator, dtype=DOUBLE) * scale).requires_grad_()
    return x, weight, torch.full((N,), 0.1, dtype=DOUBLE, requires_grad=True)


def loop(
    cell: Callable[..., tuple[Tensor, Any]], currents: Tensor, state: Any
) -> tuple[Tensor, Any, list[Any]]:
    outputs, states = [], []
    for step in currents:
        out, state = cell(step, state)
        outputs.append(out)
        states.append(state)
    return torch.stack(outputs), state, states


def assert_same(ours: tuple[Tensor, ...], stock: tuple[Tensor, ...], leaves: list[Tensor]) -> None:
    found = []
    for values in (stock, ours):
        loss = sum((v * torch.linspace(-1, 2, v.numel(), dtype=DOUBLE).view(v.shape)).sum() for v in values)
        assert isinstance(loss, Tensor)
        found.append((*values, *torch.autograd.grad(loss, leaves)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
@pytest.mark.parametrize("reset_delay", [True, False])
def test_leaky(mechanism: Any, reset_delay: bool) -> None:
    snn = pytest.importorskip("snntorch")
    x, weight, bias = data()
    beta, threshold, graded = (nn.Parameter(torch.rand(N, dtype=DOUBLE) + low) for low in (0.4, 0.5, 0.7))
    mem0 = torch.rand(B, N, dtype=DOUBLE, requires_grad=True)
    cell = snn.Leaky(
        *(beta, threshold),
        spike_grad=surrogates.atan(),
        reset_mechanism=mechanism,
        reset_delay=reset_delay,
        graded_spikes_factor=graded,
    )
    spikes, _, membranes = loop(cell, linear(x, weight, bias), mem0)
    ours = functional.leaky(
        *(x, weight, bias),
        beta=beta,
        threshold=threshold,
        reset_mechanism=mechanism,
        reset_delay=reset_delay,
        graded_spikes_factor=graded,
        mem0=mem0,
    )
    assert spikes.any()
    assert_same(ours, (spikes, torch.stack(membranes)), [x, weight, bias, beta, threshold, graded, mem0])


@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
def test_lapicque(mechanism: Any) -> None:
    snn = pytest.importorskip("snntorch")
    x, weight, bias = data(scale=4.0)
    circuit = {"R": torch.tensor(2.5, dtype=DOUBLE), "C": torch.tensor(1.7, dtype=DOUBLE)}
    cell = snn.Lapicque(
        **circuit, time_step=0.8, spike_grad=surrogates.atan(), reset_mechanism=mechanism
    ).double()
    spikes, _, membranes = loop(cell, linear(x, weight, bias), torch.zeros(B, N, dtype=DOUBLE))
    # Upstream's module computes with its time step rounded to float32.
    step = float(cell.time_step)
    ours = functional.lapicque(x, weight, bias, **circuit, time_step=step, reset_mechanism=mechanism)
    assert spikes.any()
    assert_same(ours, (spikes, torch.stack(membranes)), [x, weight, bias])


def doubles(*values: float) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(value, dtype=DOUBLE)) for value in values]


def test_lif() -> None:
    norse = pytest.importorskip("norse.torch")
    x, weight, bias = data(scale=4.0)
    p = doubles(150.0, 120.0, 0.05, 0.6, -0.1)
    v0, i0 = (torch.rand(B, N, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    cell = norse.LIFCell(norse.LIFParameters(*p))
    spikes, (v, i), _ = loop(cell, linear(x, weight, bias), norse.LIFFeedForwardState(v0, i0))
    names = ("tau_syn_inv", "tau_mem_inv", "v_leak", "v_th", "v_reset")
    z, state = functional.lif(x, weight, bias, **dict(zip(names, p, strict=True)), v0=v0, i0=i0)
    assert spikes.any()
    assert_same((z, *state), (spikes, v, i), [x, weight, bias, *p, v0, i0])


@pytest.mark.parametrize("method", ["value", "subtract"])
def test_lif_box(method: Any) -> None:
    norse = pytest.importorskip("norse.torch")
    x, weight, bias = data(scale=6.0)
    p = doubles(150.0, 0.05, 0.6, -0.1)
    reset = norse.reset_value if method == "value" else norse.reset_subtract
    cell = norse.LIFBoxCell(norse.LIFBoxParameters(*p, reset_method=reset))
    v0 = torch.zeros(B, N, dtype=DOUBLE)
    spikes, (v,), _ = loop(cell, linear(x, weight, bias), norse.LIFBoxFeedForwardState(v0))
    names = ("tau_mem_inv", "v_leak", "v_th", "v_reset")
    ours = functional.lif_box(x, weight, bias, **dict(zip(names, p, strict=True)), v0=v0, reset_method=method)
    assert spikes.any()
    assert_same(ours, (spikes, v), [x, weight, bias, *p[: 3 if method == "subtract" else 4]])


def test_li() -> None:
    norse = pytest.importorskip("norse.torch")
    x, weight, bias = data()
    p = doubles(150.0, 120.0, 0.05)
    zeros = torch.zeros(B, N, dtype=DOUBLE)
    membranes, (v, i), _ = loop(
        norse.LICell(norse.LIParameters(*p)), linear(x, weight, bias), norse.LIState(zeros + 0.05, zeros)
    )
    out, state = functional.li(x, weight, bias, tau_syn_inv=p[0], tau_mem_inv=p[1], v_leak=p[2])
    assert_same((out, *state), (membranes, v, i), [x, weight, bias, *p])


def test_a_current_needs_no_weight_and_rest_is_the_start() -> None:
    current = torch.rand(T, B, N)
    spikes, membranes = functional.leaky(current, beta=0.5)
    assert torch.equal(membranes[0], current[0]) and spikes.shape == (T, B, N)
    _, (v, _) = functional.li(torch.zeros(T, B, N), v_leak=-0.3)
    torch.testing.assert_close(v, torch.full((B, N), -0.3))


def test_beta_is_clamped_as_upstream_does() -> None:
    current = torch.rand(T, B, N) * 0.01
    for value in (1.3, torch.tensor(1.3)):
        torch.testing.assert_close(functional.leaky(current, beta=value)[1], current.cumsum(0))


def test_the_window_is_the_cut_surrogate() -> None:
    x, weight, bias = data()
    cut = surrogates.atan().windowed(0.3)
    grads = []
    for options in ({"gradient": GradientOptions("window", backward_threshold=0.3)}, {"surrogate": cut}):
        spikes, _ = functional.leaky(x, weight, bias, beta=0.9, **options)
        grads.append(torch.autograd.grad(spikes.sum(), weight)[0])
    torch.testing.assert_close(*grads)
    full = torch.autograd.grad(functional.leaky(x, weight, bias, beta=0.9)[0].sum(), weight)[0]
    assert (grads[0] - full).abs().max() > 1e-3


def sampled(seed: int, level: float | None = None) -> Tensor:
    x, weight, bias = data()
    options = GradientOptions("sampled", budget=0.2, seed=seed, level=level)
    spikes, _ = functional.leaky(x, weight, bias, beta=0.9, gradient=options)
    return torch.autograd.grad((spikes * torch.linspace(-1, 1, N, dtype=DOUBLE)).sum(), weight)[0]


def test_samples_follow_the_seed_and_average_to_the_exact_gradient() -> None:
    assert torch.equal(sampled(3), sampled(3)) and not torch.equal(sampled(3), sampled(4))
    draws = torch.stack([sampled(seed, level=3.0) for seed in range(400)])
    x, weight, bias = data()
    spikes, _ = functional.leaky(x, weight, bias, beta=0.9)
    exact = torch.autograd.grad((spikes * torch.linspace(-1, 1, N, dtype=DOUBLE)).sum(), weight)[0]
    error = draws.std(0) / math.sqrt(len(draws))
    z = ((draws.mean(0) - exact) / error.clamp(min=1e-9))[error > 0]
    assert z.numel() > 20 and z.abs().max() < 5 and z.square().mean() < 2


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": [1.0]}, ArgumentTypeError, "x="),
    ({"x": torch.ones(T, B, INPUTS, dtype=torch.int64)}, ArgumentTypeError, "x has dtype torch.int64"),
    ({"x": torch.ones(T, B, INPUTS, dtype=torch.float16)}, ArgumentTypeError, "x has dtype torch.float16"),
    ({"x": torch.ones(T, INPUTS)}, ArgumentError, r"x has shape \(18, 7\)"),
    ({"x": torch.ones(0, B, INPUTS)}, ArgumentError, "T, B and N_in must be at least 1"),
    ({"x": torch.ones(T, 0, INPUTS)}, ArgumentError, "T, B and N_in must be at least 1"),
    ({"weight": torch.ones(N, INPUTS + 1)}, ArgumentError, r"weight has shape \(5, 8\)"),
    ({"weight": torch.ones(N, INPUTS, dtype=torch.int32)}, ArgumentTypeError, "weight has dtype torch.int32"),
    ({"weight": torch.ones(N, INPUTS, dtype=DOUBLE)}, ArgumentTypeError, "weight has dtype torch.float64"),
    ({"weight": torch.ones(N, INPUTS, device="meta")}, ArgumentError, "weight is on meta"),
    ({"weight": None, "bias": torch.ones(N)}, ArgumentError, "bias is given without weight"),
    ({"bias": torch.ones(N + 1)}, ArgumentError, r"bias has shape \(6,\)"),
    ({"beta": "0.9"}, ArgumentTypeError, "beta='0.9'"),
    ({"x": torch.ones(T, B, INPUTS, dtype=torch.int32)}, ArgumentTypeError, "x has dtype torch.int32"),
    (
        {"x": torch.ones(T, B, N, dtype=torch.bool), "weight": None},
        ArgumentTypeError,
        "x has dtype torch.bool",
    ),
    ({"x": torch.ones(T, B, INPUTS).to_sparse(2)}, ArgumentError, "x is sparse with 1 dense dim"),
    ({"beta": float("nan")}, ArgumentError, "beta=nan"),
    ({"beta": torch.ones(N + 1)}, ArgumentError, r"beta has shape \(6,\)"),
    ({"beta": torch.ones(N, device="meta")}, ArgumentError, "on meta"),
    ({"threshold": -1.0}, ArgumentError, "threshold=-1.0"),
    ({"threshold": float("inf")}, ArgumentError, "threshold=inf"),
    ({"threshold": torch.tensor([1.0] * (N - 1) + [-0.5])}, ArgumentError, "threshold=.*-0.5"),
    ({"reset_mechanism": "half"}, ArgumentError, "reset_mechanism='half'"),
    ({"surrogate": torch.sign}, ArgumentTypeError, "surrogate="),
    ({"mem0": torch.zeros(B, N + 1)}, ArgumentError, r"mem0 has shape \(3, 6\)"),
    ({"mem0": 0.0}, ArgumentTypeError, "mem0=0.0 must be a tensor"),
    ({"gradient": "dense"}, ArgumentError, "gradient='dense'"),
    ({"gradient": 5}, ArgumentTypeError, "gradient=5"),
    ({"gradient": GradientOptions("sampled", level=-1.0)}, ArgumentError, "level=-1.0"),
    ({"gradient": GradientOptions("sampled", budget=2.0)}, ArgumentError, "budget=2.0"),
]


@pytest.mark.parametrize(
    "change, error, words", BAD, ids=[f"{next(iter(b[0]))}-{k}" for k, b in enumerate(BAD)]
)
def test_bad_input_names_the_argument(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {"x": torch.rand(T, B, INPUTS), "weight": torch.rand(N, INPUTS), "beta": 0.9}
    with pytest.raises(error, match=words):
        functional.leaky(**(arguments | change))


@pytest.mark.parametrize("gradient", ["exact", "window"])
@pytest.mark.parametrize("kind", ["sparse", "repeated", "bool", "uint8", "dense sparse"])
def test_spikes_in_other_forms(kind: str, gradient: str) -> None:
    _, weight, bias = data(scale=2.0)
    spikes = torch.rand(T, B, INPUTS) < (0.9 if kind == "dense sparse" else 0.2)
    x, factor = spikes.to(DOUBLE), 1
    if "sparse" in kind:
        given = x.to_sparse()
    elif kind == "repeated":
        factor, found = 2, x.to_sparse()
        indices, values = found.indices().repeat(1, 2), found.values().repeat(2)
        given = torch.sparse_coo_tensor(indices, values, x.shape, check_invariants=True)
    else:
        given = x.to(torch.bool if kind == "bool" else torch.uint8)
    options = GradientOptions(gradient, backward_threshold=0.5 if gradient == "window" else None)  # type: ignore[arg-type]
    ours, dense = (
        functional.leaky(value, weight, bias, beta=0.8, gradient=options) for value in (given, x * factor)
    )
    assert dense[0].any() and ours[0].dtype == DOUBLE
    assert_same(ours, dense, [weight, bias])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_repeated_entries_of_sparse_bytes_are_added_up_in_their_dtype(dtype: torch.dtype) -> None:
    values = torch.tensor([200, 100, 1]).to(dtype)
    x = torch.sparse_coo_tensor(torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 0]]), values, (2, 2, 3))
    weight = torch.randn(N, 3, dtype=DOUBLE, requires_grad=True)
    ours, dense = (functional.leaky(v, weight, beta=0.8) for v in (x, x.to_dense()))
    assert_same(ours, dense, [weight])


@pytest.mark.parametrize("gradient", ["exact", "window"])
def test_lazily_negated_tensors(gradient: str) -> None:
    """As the imaginary part of a conjugate is; torch's own copies of it, if there are any, are not."""
    options = GradientOptions(gradient, backward_threshold=0.5 if gradient == "window" else None)  # type: ignore[arg-type]
    x, weight, bias = (value.detach() for value in data(scale=2.0))
    mem0, g = torch.randn(B, N, dtype=DOUBLE), torch.randn(T, B, N, dtype=DOUBLE)

    def negated(value: Tensor) -> Tensor:
        return torch._neg_view(value)

    results = []
    for negate in (negated, torch.neg):
        leaf = weight.clone().requires_grad_()
        spk, mem = functional.leaky(
            negate(x), leaf, negate(bias), beta=0.8, mem0=negate(mem0), gradient=options
        )
        torch.autograd.backward((spk, mem), (negate(g), negate(g)))
        current = functional.leaky(negate(g), beta=0.8, gradient=options)
        results.append((spk, mem, leaf.grad, *current))
    for lazy, plain in zip(*results, strict=True):
        torch.testing.assert_close(lazy, plain)


def test_sparse_input_with_a_gradient_and_without_a_weight() -> None:
    x = torch.rand(T, B, N, dtype=DOUBLE, requires_grad=True)
    assert_same(functional.leaky(x.to_sparse(), beta=0.8), functional.leaky(x, beta=0.8), [x])
    x, weight, bias = data(scale=2.0)
    # Torch's to_sparse lets the gradient through at the stored entries only.
    given = x.to_sparse()
    ours, dense = (functional.leaky(v, weight, bias, beta=0.8) for v in (given, given.to_dense()))
    assert_same(ours, dense, [x, weight, bias])


def test_bad_time_steps_and_rates() -> None:
    x = torch.rand(T, B, N)
    for dt in (0.0, -1.0, float("nan")):
        with pytest.raises(ArgumentError, match="dt="):
            functional.lif(x, dt=dt)
    with pytest.raises(ArgumentTypeError, match="dt="):
        functional.lif(x, dt="1ms")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="tau_mem_inv="):
        functional.lif(x, tau_mem_inv=None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="reset_method="):
        functional.lif_box(x, reset_method="none")  # type: ignore[arg-type]
