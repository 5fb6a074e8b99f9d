"""`compare` from end to end, on a small script in real child processes."""

import json
import subprocess
import sys

import pytest
from scripts import FREE_FUNCTION, INTEGRATOR, TRAIN

pytest.importorskip("snntorch")


def compare(folder, *args):
    command = [sys.executable, "-m", "sparse_backend", "compare", *map(str, args)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_three_runs_side_by_side(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    done = compare(tmp_path, "--output", "out", "train.py", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout, "no control codes where there is no terminal"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "comparison.png",
        "results.json",
        *(f"{name}.log" for name in ("stock", "default", "exact")),
    }
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    stock, default, exact = data["variants"]
    for variant in (stock, default, exact):
        assert [len(series) for series in variant["phases"].values()] == [6, 6, 6]
        assert min(min(series) for series in variant["phases"].values()) > 0
        assert variant["memory"] is None or variant["memory"] >= 0
        assert [layer["name"] for layer in variant["layers"]] == ["lif1", "lif2"]
        assert [epoch for epoch, _, _ in variant["accuracy"]] == [1, 2]
    assert stock["gradients"] is None and not stock["reports"]
    assert "2 of 2 neuron layers accelerated" in default["reports"][0]
    assert [g["name"] for g in exact["gradients"]] == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert max(g["relative"] for g in exact["gradients"]) < 1e-5
    assert max(g["relative"] for g in default["gradients"]) > 1e-5, "sampled: it did not run exact"
    for layer, same in zip(stock["layers"], exact["layers"], strict=True):
        assert layer["first_spikes"] == pytest.approx(same["first_spikes"])
        assert layer["first_active"] is None and same["first_active"] == 1.0
    assert [a[:2] for a in stock["accuracy"]] == [a[:2] for a in exact["accuracy"]]


def test_layers_called_from_a_free_function(tmp_path):
    (tmp_path / "loop.py").write_text(FREE_FUNCTION)
    done = compare(tmp_path, "--variants", "stock,exact", "--output", "out", "loop.py")
    assert done.returncode == 0, done.stdout + done.stderr
    _, exact = json.loads((tmp_path / "out" / "results.json").read_text())["variants"]
    assert len(exact["phases"]["forward"]) == 4
    assert max(g["relative"] for g in exact["gradients"]) < 1e-5
    assert "not found" in done.stdout, "the script prints no accuracy"
    assert "AcceleratedLinear AcceleratedLeaky" in (tmp_path / "out" / "exact.log").read_text()
    assert "Linear Leaky" in (tmp_path / "out" / "stock.log").read_text()


def test_an_integrator_is_not_a_layer_without_spikes(tmp_path):
    pytest.importorskip("norse")
    (tmp_path / "quiet.py").write_text(INTEGRATOR)
    done = compare(tmp_path, "--variants", "stock,exact", "--output", "out", "quiet.py")
    assert done.returncode == 0, done.stdout + done.stderr
    for variant in json.loads((tmp_path / "out" / "results.json").read_text())["variants"]:
        assert [(layer["name"], layer["first_spikes"]) for layer in variant["layers"]] == [("1", 0.0)]


def test_failing_script_shows_its_traceback(tmp_path):
    (tmp_path / "broken.py").write_text(
        "import torch\n\ndef f():\n    raise RuntimeError('no data here')\n\nf()\n"
    )
    done = compare(tmp_path, "--output", "out", "broken.py")
    assert done.returncode == 1
    assert 'broken.py", line 4, in f' in done.stdout and "RuntimeError: no data here" in done.stdout
    assert "the stock run ended with exit code 1" in done.stdout


def test_script_that_trains_nothing(tmp_path):
    (tmp_path / "idle.py").write_text("print('epoch 1 accuracy 0.5')\n")
    done = compare(tmp_path, "--variants", "stock", "--output", "out", "idle.py")
    assert done.returncode == 1 and "no training step was seen" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--variants", "stock,fast", "x.py"], "at most once"),
        (["--variants", "stock,stock", "x.py"], "at most once"),
        (["absent.py"], "there is no script 'absent.py'"),
        (["--budget", "2", "x.py"], "budget=2.0 must lie in (0, 1]"),
    ],
)
def test_wrong_usage(tmp_path, args, message):
    (tmp_path / "x.py").write_text("")
    done = compare(tmp_path, *args)
    assert done.returncode == 2 and message in done.stderr
