"""A measurement from end to end at a tiny scale: what it says, and that it is silent where a check is red."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console

from benchmarks import measure
from benchmarks.__main__ import main
from benchmarks.check import compare
from benchmarks.floors import Ceilings
from benchmarks.least import least_step
from benchmarks.models import build
from benchmarks.predict import FUNCTIONS
from benchmarks.results import write
from benchmarks.rows import ROWS, Row
from benchmarks.tables import show
from benchmarks.timing import ratio
from sparse_backend.ops import backend

needs_kernels = pytest.mark.skipif(backend.native() is None, reason="the native module is not built")
LIMITS = Ceilings(30e9, 100e9, 200e9, 150e9, 90e9, 32 << 20)
SPIKES = Row((60, 24, 24, 5), 12, 8, 0.05, 0.05)
ROWS_IN_SMALL = {
    "spikes": SPIKES,
    "direct": Row((64, 30, 10), 6, 8, coding="direct", loss="membrane"),
    "rate": Row((256, 10), 5, 4, coding="rate", channels=(3, 4)),
}


@pytest.mark.parametrize("gradient", ["exact", "window", "sampled"])
def test_a_row_is_checked_and_taken_apart(gradient: str) -> None:
    settings = measure.Settings(repeats=5, warm_up=1, memory=False, limits=LIMITS)
    result = measure.measure("tiny", SPIKES, gradient, settings)
    assert result["agrees"]
    for side in ("stock", "accelerated"):
        assert len(result["samples"][side]["step"]) == 5
    low, median, high = (result["ratios"]["stock"]["step"][key] for key in ("low", "median", "high"))
    assert 0 < low <= high and median > 0
    assert result["recording"]["broken_by"] is None
    assert len(result["layers"]) == 3
    show(Console(file=io.StringIO()), result, "tiny")
    json.dumps(result)


@pytest.mark.parametrize("name", ROWS_IN_SMALL)
def test_every_kind_of_row_runs(name: str) -> None:
    settings = measure.Settings(repeats=5, warm_up=1, memory=False)
    result = measure.measure(name, ROWS_IN_SMALL[name], "exact", settings)
    assert result["agrees"], result["agreement"]


def test_input_in_shared_memory() -> None:
    settings = measure.Settings(repeats=5, warm_up=1, memory=False, shared=True)
    result = measure.measure("tiny", SPIKES, "exact", settings)
    assert result["agrees"] and result["shared_input"]
    assert result["recording"]["broken_by"] is None


@needs_kernels
def test_each_layer_has_a_forward_and_a_backward_kernel_with_a_floor() -> None:
    settings = measure.Settings(repeats=5, warm_up=1, memory=False, limits=LIMITS)
    kernels = measure.measure("tiny", SPIKES, "window", settings)["kernels"]
    named = {entry["kernel"]: entry for entry in kernels}
    for name in (
        "compress 60",
        *(f"{way} {n}" for way in ("forward", "backward") for n in ("60-24", "24-5")),
    ):
        assert named[name]["floor"] > 0, name
        assert sum(named[name]["native"].values()) > 0, name


@needs_kernels
@pytest.mark.parametrize("name", ROWS_IN_SMALL)
def test_floors_loss_and_optimizer_are_added_up(name: str) -> None:
    settings = measure.Settings(repeats=5, warm_up=1, memory=False, limits=LIMITS)
    result = measure.measure(name, ROWS_IN_SMALL[name], "exact", settings)
    least = result["least"]
    assert min(least[part] for part in ("operators", "loss", "optimizer")) > 0
    assert least["step"] == least["operators"] + least["loss"] + least["optimizer"]
    printed = io.StringIO()
    show(Console(file=printed, width=200), result, name)
    assert "at most" in printed.getvalue()


def test_products_inside_an_operator_are_not_added_twice() -> None:
    def entry(forms: str, floor: float | None) -> dict[str, object]:
        return {"forms": forms, "floor": floor}

    listed = [entry("events", 2.0), entry("torch", 4.0), entry("torch", None)]
    assert least_step(SPIKES, torch.zeros(8, dtype=torch.long), listed, 1.0)["operators"] == 6.0
    listed[0] = entry("events, gemm", 2.0)
    assert least_step(SPIKES, torch.zeros(8, dtype=torch.long), listed, 1.0)["operators"] == 2.0


def test_a_wrong_gradient_prints_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*args: object, **kwargs: object) -> object:
        models = build(*args, **kwargs)  # type: ignore[arg-type]
        parameter = next(models.fast.parameters())
        parameter.register_hook(lambda grad: grad * 1.01)
        return models

    monkeypatch.setattr(measure, "build", wrong)
    result = measure.measure("tiny", SPIKES, "exact", measure.Settings(repeats=5))
    assert not result["agrees"] and "seconds" not in result and "ratios" not in result
    show(Console(), result, "tiny")
    printed = capsys.readouterr().out
    assert "no speed is shown" in printed and "ms" not in printed


def test_diverged_elements_are_counted_and_left_out() -> None:
    models = build(SPIKES, "exact")
    other = copy.deepcopy(models.stock)
    plain = other.loop

    def flipped(x: torch.Tensor, record_all: bool = False):  # type: ignore[no-untyped-def]
        spikes, membrane = plain(x, record_all)
        if record_all:
            spikes[0][3] = spikes[0][3].clone()
            spikes[0][3][2, 1] = 1 - spikes[0][3][2, 1]
        return spikes, membrane

    other.loop = flipped  # type: ignore[method-assign]
    agreement = compare(models.stock, other, models.x, models.labels)
    assert agreement.diverged == 1
    assert agreement.gradient < 1e-6


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_peak_memory_is_that_of_one_step() -> None:
    row = replace(ROWS["S-small"], active=None, batch=16)
    models = build(row, "window")
    peaks = measure.peak_memory(row, "window", models.stock.state_dict(), 0)
    # Spikes, membrane potentials and surrogate derivatives of two hidden layers at every step.
    assert peaks["stock"] is not None and peaks["stock"] > 2 * 3 * 4 * 100 * 16 * 200
    assert peaks["accelerated"] is not None and peaks["accelerated"] < peaks["stock"]
    kept = measure.peak_memory(row, "window", models.stock.state_dict(), 0, spikes_kept=True)
    assert kept["accelerated"] is not None
    assert kept["accelerated"] > peaks["accelerated"] + 4 * 100 * 16 * 2 * 200, "two layers' dense spikes"


def test_results_name_the_machine(tmp_path: Path) -> None:
    path = write([{"row": "tiny"}], "cpu", tmp_path / "r.json", vars(LIMITS))
    content = json.loads(path.read_text())
    assert content["machine"]["ceilings"]["rows"] == 200e9
    assert content["machine"]["processor"] and content["results"] == [{"row": "tiny"}]


def test_ratio_has_the_range_of_its_repeats() -> None:
    found = ratio([4.0, 6.0, 5.0], [1.0, 2.0, 1.0])
    assert (found.median, found.low, found.high) == (5.0, 3.0, 5.0)
    assert str(found) == "5.0x (3.0-5.0)"


def test_the_gpu_command_can_be_rehearsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    small = ["--config", "C", "--gradient", "exact", "--device", "cpu", "--repeats", "5", "--warm-up", "0"]
    assert main(["gpu", *small, "--output", str(out)]) == 0
    assert json.loads(out.read_text())["results"][0]["row"] == "C"
    assert "accelerated" in capsys.readouterr().out


def test_without_a_gpu_the_gpu_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["gpu"]) == 2
    assert "no GPU" in capsys.readouterr().out


def test_every_native_cuda_function_has_a_group(host_module: ModuleType) -> None:
    """Records of arguments are made by functions too, and do no work."""
    records = {
        "layer",
        "reverse",
        "bit_rows",
        "dense_input",
        "spike_list",
        "active_list",
        "products",
        "expansion",
    }
    functions = {name for name in dir(host_module) if callable(getattr(host_module, name)) and name.islower()}
    assert functions - records == set(FUNCTIONS)
