"""Forward scan against the torch loop: events, dense outputs, final state, for every structure."""

from __future__ import annotations

import pytest
import torch

from . import cases
from .native_layer import Rows, events_of, packed


def assert_rows(actual: Rows, dense: torch.Tensor) -> None:
    ptr, idx, _ = events_of(dense)
    assert torch.equal(actual[0], ptr)
    assert torch.equal(actual[1], idx)


@pytest.mark.parametrize("structure", cases.STRUCTURES, ids=cases.structure_id)
@pytest.mark.parametrize("feed", ["events", "analog", "current", "constant"])
def test_every_structure(structure: cases.Structure, feed: str) -> None:
    for seed in range(4):
        case = cases.make_case(seed, structure, feed=feed)
        trace = cases.reference(case).trace
        out = case.native().forward()
        assert_rows(out.spikes, torch.stack(trace.s))
        assert_rows(out.active, torch.stack(trace.sigma))
        torch.testing.assert_close(out.dense_spikes, torch.stack(trace.z).detach(), rtol=0, atol=0)
        torch.testing.assert_close(out.membrane, torch.stack(trace.m).detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(out.m_last, trace.m[-1].detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            out.u, packed(torch.stack(trace.u).detach(), out.active), rtol=1e-12, atol=1e-12
        )
        if case.spec.poles == 2:
            assert trace.i is not None
            torch.testing.assert_close(out.i_last, trace.i.detach(), rtol=1e-12, atol=1e-12)
        if case.spec.pre != "none" or case.spec.post in ("subtract", "zero"):
            assert_rows(out.resets, torch.stack(trace.r))


@pytest.mark.parametrize("surrogate", cases.PARAMETERS)
@pytest.mark.parametrize("rule", cases.RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_active_entries_of_every_rule(surrogate: str, rule: str, dtype: torch.dtype) -> None:
    case = cases.make_case(
        7,
        ("decay", 1, "subtract", "none"),
        surrogate=surrogate,
        rule=rule,
        dtype=dtype,
        feed="current",
        shape=(30, 4, 70),
    )
    trace = cases.reference(case).trace
    out = case.native().forward()
    sigma = torch.stack(trace.sigma)
    if rule in ("exact", "sampled") and surrogate in ("sigmoid", "tanh", "heavi_erfc"):
        # exp of two libraries differs in the last bit, which can move a draw by one step, or 1 - tanh^2
        # to zero.
        difference = (out.active[0].diff() - events_of(sigma)[0].diff()).abs().sum()
        assert difference <= 0.02 * sigma.count_nonzero() + 2
    else:
        assert_rows(out.active, sigma)


def test_spike_only_entries_are_marked() -> None:
    case = cases.make_case(
        3, ("decay", 1, "subtract", "none"), rule="window", feed="current", shape=(20, 3, 33)
    )
    trace = cases.reference(case).trace
    out = case.native().forward(includes_spikes=True)
    spikes, sigma = torch.stack(trace.s).detach(), torch.stack(trace.sigma)
    assert_rows(out.active, spikes + sigma.abs())
    only_spiked = packed(((spikes > 0) & (sigma == 0)).double(), out.active) > 0
    assert only_spiked.any() and (~only_spiked).any()
    assert torch.equal(out.u.isinf(), only_spiked)


@pytest.mark.parametrize("integrator", ["decay", "euler"])
@pytest.mark.parametrize("poles", [1, 2])
def test_leaky_integrator_never_spikes(integrator: str, poles: int) -> None:
    case = cases.make_case(1, (integrator, poles, "none", "none"), fires=False, shape=(9, 3, 17))
    trace = cases.reference(case).trace
    out = case.native().forward()
    assert out.spikes[1].numel() == 0 and out.active[1].numel() == 0
    torch.testing.assert_close(out.membrane, torch.stack(trace.m).detach(), rtol=1e-12, atol=1e-12)


def test_current_and_threshold_arithmetic_is_torchs() -> None:
    """float32 spikes equal, bit for bit: no fused multiply-add, upstream's order of operations."""
    for seed, structure in enumerate(cases.STRUCTURES):
        case = cases.make_case(seed, structure, dtype=torch.float32, feed="current", shape=(40, 4, 70))
        trace = cases.reference(case).trace
        out = case.native().forward()
        assert torch.equal(out.membrane, torch.stack(trace.m).detach()), structure
        assert torch.equal(out.dense_spikes, torch.stack(trace.z).detach()), structure


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("width", [63, 64, 65, 127, 128, 129, 255, 256, 257, 1000])
@pytest.mark.parametrize("feed", ["events", "analog", "current"])
def test_tiles_of_neurons_change_nothing(feed: str, width: int, batch: int) -> None:
    """Threads decide how wide layers are cut; not a bit may depend on it."""
    structure = cases.STRUCTURES[width % len(cases.STRUCTURES)]
    case = cases.make_case(width, structure, feed=feed, rule="sampled", shape=(7, batch, width))
    trace = cases.reference(case).trace
    first = case.native().forward(carriers=5)
    assert_rows(first.spikes, torch.stack(trace.s))
    assert_rows(first.active, torch.stack(trace.sigma))
    for threads in (2, 3, 4, 5, 16):
        out = case.native(threads).forward(carriers=5)
        for name in ("spikes", "active", "resets"):
            for actual, wanted in zip(getattr(out, name), getattr(first, name), strict=True):
                assert torch.equal(actual, wanted), (name, threads)
        for name in ("u", "carriers", "dense_spikes", "membrane", "m_last", "i_last"):
            actual, wanted = getattr(out, name), getattr(first, name)
            assert torch.equal(actual.nan_to_num(7.0), wanted.nan_to_num(7.0)), (name, threads)


@pytest.mark.parametrize("density", [0.01, 0.5])
def test_weights_that_outgrow_the_cache_are_fed_by_tiles(density: float) -> None:
    generator = torch.Generator().manual_seed(5)
    x = (torch.rand(3, 8, 1200, generator=generator) < density).float()
    weight = torch.randn(300, 1200, generator=generator) / 8
    case = cases.make_case(0, ("decay", 1, "subtract", "none"), dtype=torch.float32, shape=(3, 8, 300))
    case.x, case.weight, case.bias = x, weight, None
    out = case.native().forward()
    ordered = torch.zeros(3, 8, 300)
    for j in range(1200):  # the order in which events are added
        ordered += x[:, :, j, None] * weight[:, j]
    case.x, case.weight, case.current = None, None, ordered
    assert torch.equal(out.membrane, case.native().forward().membrane)
