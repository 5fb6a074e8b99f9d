"""Medians, gradient differences, tables and the picture, from made-up measurements."""

import io

import pytest
import torch
from rich.console import Console

from sparse_backend.compare import plot, table
from sparse_backend.compare.results import (
    GradientDifference,
    LayerActivity,
    VariantResult,
    gradient_differences,
)


def result(name, options, milliseconds):
    phases = {
        phase: [share * ms / 1000 for ms in milliseconds]
        for phase, share in (("forward", 0.5), ("backward", 0.4), ("optimizer", 0.1))
    }
    return VariantResult(
        name,
        options,
        phases,
        observed=[0],
        wall=2.0,
        memory=3 << 20,
        layers=[LayerActivity("lif1", "Leaky", 0.01, 0.02, *((0.05, 0.04) if options else ()))],
        accuracy=[(1, 0.5, 0.5), (2, 0.75, 1.0)],
    )


def text_of(renderable):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_median_leaves_observed_steps_out():
    assert result("stock", None, [900, 10, 20, 30]).median() == pytest.approx(0.020)
    assert result("stock", None, [900]).median() == pytest.approx(0.9), "nothing else to show"
    assert VariantResult("stock", None).median() is None


def test_saved_and_loaded_alike(tmp_path):
    before = result("default", {"gradient": "sampled"}, [5, 6])
    before.flushes = [(3, "torch.stack at a.py:1")]
    before.save(tmp_path / "r.json")
    assert VariantResult.load(tmp_path / "r.json") == before


def test_gradient_differences():
    g = {"w": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0]), "z": torch.zeros(2)}
    h = {"w": torch.tensor([3.0, 4.5]), "b": torch.tensor([-1.0]), "z": torch.zeros(2)}
    w, b, z = gradient_differences(g, h)
    assert w.relative == pytest.approx(0.1)
    assert (b.relative, b.cosine) == (pytest.approx(2.0), pytest.approx(-1.0))
    assert (z.relative, z.cosine) == (0.0, 1.0)
    with pytest.raises(ValueError, match="different parameters"):
        gradient_differences(g, {"w": torch.zeros(3)})


def test_speed_table_has_ratios_against_the_first():
    text = text_of(table.speed_table([result("stock", None, [9, 100]), result("exact", {}, [9, 25])]))
    step = next(line for line in text.splitlines() if "training step, ms" in line)
    assert [cell.strip() for cell in step.strip("│ ").split("│")] == [
        "training step, ms",
        "100",
        "25.0",
        "4.00x",
    ]


def test_layer_table_shows_change_and_what_stock_cannot_have():
    text = text_of(table.layer_table([result("stock", None, [9, 9]), result("default", {"a": 1}, [9, 9])]))
    assert "1.00% > 2.00%" in text and "5.00% > 4.00%" in text
    assert text.count("active") == 2, "a column for default alone, and the caption"


def test_accuracy_table_without_accuracies_says_so():
    silent = VariantResult("stock", None)
    assert "not found" in text_of(table.accuracy_table([silent]))
    assert "75.00%" in text_of(table.accuracy_table([result("stock", None, [1]), silent]))


def test_gradient_table_names_parameters():
    other = result("exact", {"gradient": "exact"}, [1, 1])
    other.gradients = [GradientDifference("fc1.weight", 2e-7, 1.0)]
    text = text_of(table.gradient_table([result("stock", None, [1, 1]), other]))
    assert "fc1.weight" in text and "2.0e-07" in text and "on average" not in text


@pytest.mark.parametrize("accuracy", [True, False])
def test_picture_is_a_png(tmp_path, accuracy):
    results = [result("stock", None, [9, 100]), result("exact", {}, [9, 25])]
    if not accuracy:
        for each in results:
            each.accuracy = []
    plot.draw(results, "title", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
