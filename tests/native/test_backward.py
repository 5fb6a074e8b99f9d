"""Both reverse scans against autograd through the torch loop: every output gradient, every structure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from . import cases
from .native_layer import COEFFICIENTS, events_of, packed

CARRIED = ("membrane", "gain", "synapse")
CARRIERS = 7


def check(
    case: cases.Case,
    *,
    dense: bool,
    seed: int,
    rtol: float,
    with_membrane: bool,
    outer: str,
    learn: tuple[str, ...] = COEFFICIENTS,
) -> None:
    """outer: how the gradient on the spikes arrives: "packed" at the active entries, "dense", or "both"."""
    ref = cases.reference(case)
    spec, dtype = case.spec, ref.current.dtype
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(dtype)

    layer = case.native(threads=2)
    saved = layer.forward(carriers=0 if dense else CARRIERS, includes_spikes=not dense)
    z, m = torch.stack(ref.trace.z), torch.stack(ref.trace.m)
    # Only entries that are listed carry a gradient in packed form.
    g_packed = packed(normal(z), saved.active) if outer != "dense" else None
    g_dense = normal(z) if outer != "packed" else None
    g_total = torch.zeros_like(z) if g_dense is None else g_dense.clone()
    if g_packed is not None:
        rows = torch.repeat_interleave(torch.arange(z.shape[0] * z.shape[1]), saved.active[0].diff())
        g_total[rows % z.shape[0], rows // z.shape[0], saved.active[1].long()] += g_packed
    g_membrane = normal(m) if with_membrane else None
    g_m_last = normal(m[-1])
    g_i_last = normal(m[-1]) if spec.poles == 2 else None
    loss = (z * g_total).sum() + (ref.trace.m[-1] * g_m_last).sum()
    if g_membrane is not None:
        loss = loss + (m * g_membrane).sum()
    if g_i_last is not None and ref.trace.i is not None:
        loss = loss + (ref.trace.i * g_i_last).sum()
    names = [*ref.leaves]
    wanted = torch.autograd.grad(loss, [*ref.leaves.values(), ref.current], allow_unused=True)
    expected = dict(zip([*names, "I"], wanted, strict=True))
    if with_membrane and not dense:
        learn = tuple(name for name in learn if name not in CARRIED)
    low = saved_low = None
    if case.x is not None:
        mask = torch.rand(case.x.shape, generator=generator) < 0.3
        rows_mask = mask.transpose(0, 1).reshape(-1, mask.shape[-1])
        ptr = torch.cat([torch.zeros(1, dtype=torch.int64), rows_mask.sum(1).cumsum(0)])
        low = saved_low = (ptr, rows_mask.nonzero()[:, 1].to(torch.int32))
    got = layer.backward(
        saved,
        dense=dense,
        g_packed=g_packed,
        g_spikes=g_dense,
        g_membrane=g_membrane,
        g_m_last=g_m_last,
        g_i_last=g_i_last,
        low=low,
        learn=learn,
    )

    def close(name: str, actual: Tensor, target: Tensor | None, scale: float = 1.0) -> None:
        target = torch.zeros_like(actual) if target is None else target
        size = max(float(target.abs().max()), scale) if target.numel() else 1.0
        torch.testing.assert_close(
            actual, target, rtol=rtol, atol=rtol * size, msg=lambda text: f"{name}: {text}"
        )

    if expected["I"] is not None:
        close("current", got["current"], expected["I"])
        close("current_sum", got["current_sum"], expected["I"].sum(0))
    close("m0", got["m0"], expected["m0"])
    close("i0", got["i0"], expected["i0"] if spec.poles == 2 else None)
    if case.x is not None:
        close("weight", got["weight"], expected["weight"], 10)
        close(
            "bias", got["bias"], expected["bias"] if case.bias is not None else expected["I"].sum((0, 1)), 10
        )
        if expected["x"] is not None and saved_low is not None:
            close("low", got["low"], packed(expected["x"], saved_low))
    for name in learn:
        actual, target = got[name], expected[name]
        if target is not None and target.dim() == 0:
            actual = actual.sum()
        close(name, actual, target, 10)


@pytest.mark.parametrize("structure", cases.STRUCTURES, ids=cases.structure_id)
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_every_structure(structure: cases.Structure, dense: bool) -> None:
    for seed in range(12):
        case = cases.make_case(
            seed,
            structure,
            rule=["exact", "window", "sampled", "exact"][seed % 4],
            feed=["events", "analog", "current", "constant"][seed // 2 % 4],
        )
        outer = ["packed", "dense", "both"][seed % 3]
        check(case, dense=dense, seed=seed, rtol=1e-10, with_membrane=seed % 5 == 0, outer=outer)


@pytest.mark.parametrize("width", [16, 33, 200, 300, 530])
@pytest.mark.parametrize("gain", [1.0, 0.7])
@pytest.mark.parametrize("pre", ["none", "subtract", "cut_leak", "wipe"])
def test_nothing_learned_but_the_weight(width: int, gain: float, pre: str) -> None:
    """Without coefficient gradients the scans do less; with gain 1 lambda is the membrane's own adjoint."""
    for seed, (poles, outer) in enumerate(((1, "packed"), (2, "packed"), (1, "dense"), (1, "both"))):
        case = cases.make_case(
            seed,
            ("decay", poles, pre, "none"),
            rule=["window", "sampled"][seed % 2],
            feed=["events", "analog"][seed // 2],
            shape=(9, 5, width),
        )
        case.coefficients["gain"] = torch.tensor(gain, dtype=torch.float64)
        for dense in (False, True):
            membrane = outer == "both"
            check(case, dense=dense, seed=seed, rtol=1e-10, with_membrane=membrane, outer=outer, learn=())


@pytest.mark.parametrize(
    "shape",
    [
        (
            2600,
            2,
            20,
        ),  # several chunks per batch element, and blocks of rows within a chunk of the dense scan
        (700, 9, 200),  # two parts of a batch element
        (5, 300, 24),  # many batch elements in a chunk
        (9, 9, 300),  # a wide layer in tiles, the last one narrower
        (40, 1, 200),  # one batch element in tiles
        (3, 2, 1),
    ],
)
@pytest.mark.parametrize("structure", [("decay", 1, "subtract", "none"), ("euler", 2, "none", "value")])
def test_chunks_and_tiles(shape: tuple[int, int, int], structure: cases.Structure) -> None:
    for seed, (rule, feed) in enumerate((("window", "events"), ("sampled", "analog"))):
        case = cases.make_case(seed, structure, rule=rule, feed=feed, shape=shape)
        learn = COEFFICIENTS if seed else ()
        for dense in (False, True):
            check(case, dense=dense, seed=seed, rtol=1e-9, with_membrane=False, outer="packed", learn=learn)


@pytest.mark.parametrize("structure", cases.STRUCTURES, ids=cases.structure_id)
@pytest.mark.parametrize("dense_input", [False, True], ids=["events", "dense"])
def test_trace_form(structure: cases.Structure, dense_input: bool) -> None:
    """dW from innovations and the filtered input, which scalar decays allow, equals the spike form."""
    for seed in range(8):
        # Of a wide layer the trace form is not cut into tiles, as the spike form is.
        shape = (7, 3, 300) if seed == 7 else None
        rule = ["window", "sampled"][seed % 2]
        case = cases.make_case(seed, structure, rule=rule, feed="analog", shape=shape)
        for name in CARRIED:
            case.coefficients[name] = case.coefficients[name].flatten()[0].clone()
        assert case.x is not None
        layer = case.native(threads=2)
        saved = layer.forward()
        generator = torch.Generator().manual_seed(seed)
        g, last, i_last = torch.randn(3, *case.shape, generator=generator, dtype=torch.float64)
        learn = tuple(n for n in COEFFICIENTS if n not in CARRIED)
        outer: dict[str, Any] = {
            "g_packed": packed(g, saved.active),
            "g_m_last": last[0].contiguous(),
            "low": events_of(torch.ones_like(case.x))[:2],
            "learn": learn,
        }
        if case.spec.poles == 2:
            outer["g_i_last"] = i_last[0].contiguous()
        spike = layer.backward(saved, dense=False, form=1, **outer)
        trace = layer.backward(saved, dense=False, form=2, x=case.x if dense_input else None, **outer)
        for name, value in spike.items():
            torch.testing.assert_close(trace[name], value, rtol=1e-10, atol=1e-10, msg=name)
        # A gradient on every membrane: with events the spike form takes over, a dense input is still served.
        outer["g_membrane"] = g
        spike = layer.backward(saved, dense=False, form=1, **outer)
        trace = layer.backward(saved, dense=False, form=2, x=case.x if dense_input else None, **outer)
        torch.testing.assert_close(trace["weight"], spike["weight"], rtol=1e-10, atol=1e-9)


def test_trace_form_needs_scalar_decays() -> None:
    case = cases.make_case(0, ("decay", 1, "subtract", "none"), shape=(5, 2, 17))
    case.coefficients["membrane"] = torch.full((case.shape[2],), 0.9, dtype=torch.float64)
    layer = case.native()
    saved = layer.forward()
    with pytest.raises(ValueError, match="form=2"):
        layer.backward(saved, dense=False, form=2, learn=())


@pytest.mark.parametrize("surrogate", cases.PARAMETERS)
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_every_surrogate(surrogate: str, dense: bool) -> None:
    for seed in range(4):
        case = cases.make_case(seed, ("decay", 1, "subtract", "none"), surrogate=surrogate)
        check(case, dense=dense, seed=seed, rtol=1e-10, with_membrane=False, outer="both")


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_float32(dense: bool) -> None:
    for seed, structure in enumerate(cases.STRUCTURES):
        case = cases.make_case(seed, structure, dtype=torch.float32, shape=(20, 5, 33))
        check(case, dense=dense, seed=seed, rtol=1e-4, with_membrane=False, outer="dense")


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("poles", [1, 2])
def test_leaky_integrator(dense: bool, poles: int) -> None:
    for seed in range(4):
        case = cases.make_case(seed, ("euler", poles, "none", "none"), fires=False)
        check(case, dense=dense, seed=seed, rtol=1e-10, with_membrane=True, outer="dense")
