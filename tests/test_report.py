"""The report and the statistics: readable as text, as a rich table and as data, and current when read."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

pytest.importorskip("snntorch")

import snntorch as snn
import torch
from torch import Tensor, nn

import sparse_backend


def network(gain: float = 3.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 40), snn.Leaky(0.9, init_hidden=True), nn.Linear(40, 3), snn.Leaky(0.9, init_hidden=True)
    )
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.mul_(gain)
    return net


def train(net: nn.Module, batches: int = 1) -> None:
    for batch in range(batches):
        for layer in net:
            if isinstance(layer, snn.Leaky):
                layer.reset_mem()
        x = torch.rand(20, 16, 6, generator=torch.Generator().manual_seed(batch))
        spikes = torch.stack([net(step) for step in x])
        net.zero_grad()
        spikes.mean().backward()


def rich_text(renderable: Any) -> str:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def test_the_report_as_text_table_and_data() -> None:
    net = network()
    net.append(snn.Alpha(0.9, 0.8, init_hidden=True))
    report = sparse_backend.accelerate(net, budget=0.1)
    data = report.as_dict()
    assert json.loads(json.dumps(data)) == data
    assert [row["path"] for row in data["layers"]] == ["accelerated"] * 4 + ["stock"]
    assert data["options"]["budget"] == 0.1
    for text in (str(report), rich_text(report), rich_text(report.to_rich())):
        assert "2 of 3 neuron layers accelerated" in text
        assert "atan(2)" in text and "sampled, budget 0.1" in text
        assert "snntorch.Alpha has no sparse form yet" in text


def test_names_with_markup_are_shown_as_they_are() -> None:
    net = nn.ModuleDict({"[bold]": snn.Leaky(0.9)})
    assert "[bold]" in rich_text(sparse_backend.accelerate(net))


def test_the_report_shows_the_level_in_force() -> None:
    net = network()
    report = sparse_backend.accelerate(net)
    before = report["1"].gradient
    train(net)
    assert "level" not in before and "level" in report["1"].gradient
    assert f"level {sparse_backend.stats(net)['1'].level:.3g}" in report["1"].gradient


def test_a_quiet_window_is_warned_about_and_a_lively_one_is_not() -> None:
    quiet = network(gain=0.2)
    with torch.no_grad():
        quiet[0].bias.zero_()
        quiet[2].bias.zero_()
    report = sparse_backend.accelerate(quiet, gradient="window", backward_threshold=0.05)
    assert not report.warnings
    train(quiet, 3)
    assert any("quiet start" in text for text in report.warnings)
    assert "quiet start" in str(report) and "quiet start" in rich_text(report)
    assert any(row["warnings"] for row in report.as_dict()["layers"])
    lively = network()
    report = sparse_backend.accelerate(lively, gradient="window")
    train(lively, 3)
    assert not report.warnings


def test_statistics_are_what_happened() -> None:
    net = network()
    sparse_backend.accelerate(net)
    train(net, 4)
    with torch.no_grad():
        for layer in (net[1], net[3]):
            layer.reset_mem()
        spikes = [net(step) for step in torch.rand(5, 16, 6)]
        fraction = torch.stack(spikes).mean().item()
    stats = sparse_backend.stats(net)
    assert [layer.name for layer in stats] == ["1", "3"]
    first, last = stats
    assert (first.calls, first.trained, first.steps) == (5, 4, 85)
    assert first.active_fraction == pytest.approx(0.05, rel=0.4)
    assert first.saved_bytes > 0 and first.algorithms
    assert 0 < first.spike_density < 1 and fraction >= 0
    assert last.spike_density is not None


def test_statistics_count_exactly() -> None:
    lif = snn.Leaky(0.9, spike_grad=sparse_backend.surrogates.triangle(1.0))
    sparse_backend.accelerate(lif, gradient="exact")
    x = torch.rand(10, 4, 7, requires_grad=True)
    spikes, membranes, mem = [], [], lif.reset_mem()
    for step in x:
        spk, mem = lif(step, mem)
        spikes.append(spk)
        membranes.append(mem)
    z, m = torch.stack(spikes), torch.stack(membranes)
    (z.sum() + m.sum()).backward()
    layer = sparse_backend.stats(lif)[""]
    assert layer.spike_density == pytest.approx(z.mean().item())
    assert layer.active_fraction == pytest.approx(((m - 1).abs() < 1).float().mean().item())
    assert layer.level is None


def test_statistics_as_text_table_and_data() -> None:
    net = network()
    assert "no accelerated layer" in str(sparse_backend.stats(net))
    sparse_backend.accelerate(net)
    assert "-" in str(sparse_backend.stats(net))
    train(net)
    stats = sparse_backend.stats(net)
    data = stats.as_dict()
    assert json.loads(json.dumps(data)) == data
    for text in (str(stats), rich_text(stats)):
        assert "1 (1 trained)" in text and "20" in text


def test_statistics_name_the_line_that_broke_a_loop() -> None:
    net = network()
    sparse_backend.accelerate(net)
    for step in torch.rand(6, 16, 6):
        seen = net(step)
        if seen.sum() > 1e9:  # this line reads a value
            raise AssertionError
    flushes = sparse_backend.stats(net).flushes
    assert any("this line reads a value" in flush.line for flush in flushes)
    assert "this line reads a value" in str(sparse_backend.stats(net))


def test_a_layer_that_does_not_fire_has_no_spike_density() -> None:
    norse = pytest.importorskip("norse.torch")
    net = norse.SequentialState(nn.Linear(6, 3), norse.LI())
    sparse_backend.accelerate(net)
    out: Tensor = net(torch.rand(5, 2, 6))[0]
    out.sum().backward()
    layer = sparse_backend.stats(net)["1"]
    assert layer.spike_density is None and layer.active_fraction is None and layer.calls == 1
