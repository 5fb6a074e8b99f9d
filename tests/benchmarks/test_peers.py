"""The peers: the dense program is stock's network to the last gradient; what is missing says so."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from benchmarks import measure
from benchmarks.check import compare
from benchmarks.models import build
from benchmarks.peers import PEERS, Peer, UnavailableError, fused_dense
from benchmarks.rows import Row

ROWS = {
    "spikes": Row((60, 24, 24, 5), 12, 8, 0.05, 0.05),
    "membrane": Row((60, 24, 5), 12, 8, 0.05, 0.05, loss="membrane"),
    "direct": Row((64, 30, 10), 6, 8, coding="direct", loss="membrane"),
    "rate": Row((256, 10), 5, 4, coding="rate", channels=(3, 4)),
    "one step": Row((60, 24, 5), 1, 8, 0.3, 0.05),
}
SETTINGS = measure.Settings(repeats=5, warm_up=1, memory=False, details=False)


@pytest.mark.skipif(shutil.which("g++") is None, reason="the dense program is compiled")
@pytest.mark.parametrize("gradient", ["exact", "window"])
@pytest.mark.parametrize("name", ROWS)
def test_the_dense_program_gives_stocks_gradients(name: str, gradient: str) -> None:
    models = build(ROWS[name], gradient)
    dense = fused_dense.build(models.row, models.stock, gradient)
    agreement = compare(models.stock, dense, models.x, models.labels)
    assert agreement.holds(exact=True), agreement
    again = compare(models.stock, dense, models.x, models.labels)  # on the buffers of the first run
    assert again == agreement


def test_norse_trains_the_same_shapes() -> None:
    pytest.importorskip("norse")
    for row in ROWS.values():
        found = measure.measure("tiny", row, "exact", replace(SETTINGS, peers=("norse",)))
        assert found["peers"]["norse"] | {"note": ""} == {
            "note": "",
            "missing": None,
            "agreement": None,
            "agrees": True,
        }
        assert "norse" in found["seconds"]


def test_a_missing_peer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("no_such_module", False, ""))
    with pytest.raises(UnavailableError, match="no_such_module"):
        PEERS["absent"].build(ROWS["spikes"], build(ROWS["spikes"], "exact").stock, "exact")
    settings = replace(SETTINGS, peers=("absent",))
    found = measure.measure("tiny", ROWS["spikes"], "exact", settings)
    assert "no_such_module" in found["peers"]["absent"]["missing"] and "absent" not in found["seconds"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="the dense program is compiled")
def test_a_wrong_peer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_dense, "BETA", 0.9)
    settings = replace(SETTINGS, peers=("fused dense",))
    found = measure.measure("tiny", ROWS["membrane"], "exact", settings)
    assert not found["peers"]["fused dense"]["agrees"] and "fused dense" not in found["seconds"]
    assert found["agrees"]
