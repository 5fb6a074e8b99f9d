"""Narrow layers, of which the forward scan takes several batch elements to a row: not a bit may change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from . import cases
from .native_layer import Outputs, _cpu, events_of

FEEDS = ("events", "analog", "current", "constant")


@pytest.fixture(params=_cpu.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _cpu.set_isa(request.param)
    yield request.param
    _cpu.set_isa("auto")


def bits(out: Outputs) -> dict[str, Tensor]:
    results = {name: getattr(out, name) for name in ("u", "carriers", "dense_spikes", "membrane", "m_last")}
    results["i_last"] = out.i_last
    for name in ("spikes", "active", "resets"):
        results[f"{name} ptr"], results[f"{name} idx"] = getattr(out, name)
    return results


def assert_same(actual: Outputs, wanted: Outputs) -> None:
    found = bits(actual)
    for name, value in bits(wanted).items():
        assert torch.equal(found[name].nan_to_num(7.0), value.nan_to_num(7.0)), name


@pytest.mark.parametrize("width", [*range(1, 34), 47, 48, 63, 64, 65])
def test_side_by_side_is_one_by_one(width: int, isa: str) -> None:
    """Dense outputs that lie apart in memory keep the elements apart, contiguous ones do not."""
    for batch in (1, 8, 21, 70, 137):
        seed = 100 * width + batch
        case = cases.make_case(
            seed,
            cases.STRUCTURES[seed % len(cases.STRUCTURES)],
            feed=FEEDS[seed % 4],
            rule=("exact", "window", "sampled")[seed % 3],
            dtype=(torch.float32, torch.float64)[seed % 2],
            shape=(6, batch, width),
        )
        for marked in (False, True):
            wanted = case.native().forward(carriers=5, includes_spikes=marked)
            for threads in (1, 2, 5):
                out = case.native(threads).forward(carriers=5, includes_spikes=marked, contiguous=True)
                assert_same(out, wanted)


@pytest.mark.parametrize("structure", cases.STRUCTURES, ids=cases.structure_id)
def test_narrow_layers_of_every_structure(structure: cases.Structure) -> None:
    case = cases.make_case(11, structure, shape=(9, 75, 10))
    trace = cases.reference(case).trace
    out = case.native().forward(contiguous=True)
    torch.testing.assert_close(out.membrane, torch.stack(trace.m).detach(), rtol=1e-12, atol=1e-12)
    for found, dense in ((out.spikes, trace.s), (out.active, trace.sigma)):
        ptr, idx, _ = events_of(torch.stack(dense))
        assert torch.equal(found[0], ptr)
        assert torch.equal(found[1], idx)


def test_nothing_happens() -> None:
    case = cases.make_case(3, ("decay", 1, "subtract", "none"), rule="window", shape=(5, 70, 20))
    case.coefficients["threshold"] = torch.full((20,), 1e6, dtype=torch.float64)
    out = case.native(2).forward(contiguous=True)
    assert out.spikes[1].numel() == out.active[1].numel() == 0
    assert not out.spikes[0].any()
    assert not out.active[0].any()
    assert not out.dense_spikes.any()
