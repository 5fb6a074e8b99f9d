"""accelerate, restore and accelerated: what is swapped, what stays, and what happens on errors."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

pytest.importorskip("snntorch")

import snntorch as snn
import torch
from torch import Tensor, nn

import sparse_backend
from sparse_backend import ArgumentError, ArgumentTypeError, UnsupportedLayerError, surrogates
from sparse_backend.accelerate import is_accelerated


class Net(nn.Module):
    """Linear, Leaky, Linear, Leaky in a loop over time: `[T, B, 6]` -> spikes, membranes `[T, B, 3]`."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        options = {"beta": 0.9, "spike_grad": surrogates.fast_sigmoid(5.0)} | options
        self.fc1, self.lif1 = nn.Linear(6, 8), snn.Leaky(**options)
        self.fc2, self.lif2 = nn.Linear(8, 3), snn.Leaky(**options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes, membranes = [], []
        for step in x:
            spk1, mem1 = self.lif1(self.fc1(step), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(12, 4, 6, generator=torch.Generator().manual_seed(1)) * 2


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def grads(net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    spikes, membranes = net(x)
    (membranes.square().mean() + spikes.mean()).backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def assert_stock(net: nn.Module, kinds: list[type]) -> None:
    assert [type(module) for module in net.modules()] == kinds
    assert not any(key.startswith("_sparse") for module in net.modules() for key in vars(module))


def test_classes_are_swapped_and_swapped_back(net: Net, x: Tensor) -> None:
    kinds = [type(module) for module in net.modules()]
    stock = grads(net, x)
    keys, names = list(net.state_dict()), [name for name, _ in net.named_parameters()]
    report = sparse_backend.accelerate(net, gradient="exact")
    assert [row.path for row in report] == ["accelerated"] * 4
    assert isinstance(net.lif1, snn.Leaky) and isinstance(net.fc1, nn.Linear)
    assert type(net.lif1) is not snn.Leaky and type(net) is Net
    assert list(net.state_dict()) == keys and [name for name, _ in net.named_parameters()] == names
    for a, b in zip(stock, grads(net, x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7)
    sparse_backend.restore(net)
    assert_stock(net, kinds)
    for a, b in zip(stock, grads(net, x), strict=True):
        assert torch.equal(a, b)


def test_restore_in_the_middle_of_a_loop_leaves_ordinary_tensors(net: Net, x: Tensor) -> None:
    sparse_backend.accelerate(net)
    expected = copy.deepcopy(net)
    sparse_backend.restore(expected)
    for step in x[:5]:
        for model in (net, expected):
            model.lif1(model.fc1(step))
    sparse_backend.restore(net)
    assert type(net.lif1.mem) is Tensor and type(net.lif1.reset) is Tensor
    torch.testing.assert_close(net.lif1.mem, expected.lif1.mem)
    a, b = net.lif1(net.fc1(x[5]))[0], expected.lif1(expected.fc1(x[5]))[0]
    assert type(a) is Tensor and torch.equal(a, b)


def test_a_second_call_updates_the_options(net: Net, x: Tensor) -> None:
    sparse_backend.accelerate(net, budget=0.02)
    kinds = [type(module) for module in net.modules()]
    grads(net, x)
    assert sparse_backend.stats(net)["lif1"].level is not None
    report = sparse_backend.accelerate(net, gradient="window", backward_threshold=0.3)
    assert [type(module) for module in net.modules()] == kinds
    assert report["lif1"].gradient == "window ±0.3"
    sparse_backend.restore(net)
    sparse_backend.restore(net)  # nothing left to undo
    assert type(net.lif1) is snn.Leaky


def test_the_same_options_again_leave_the_sampling_as_it_is(net: Net, x: Tensor) -> None:
    sparse_backend.accelerate(net)
    grads(net, x)
    level = sparse_backend.stats(net)["lif1"].level
    sparse_backend.accelerate(net)
    assert sparse_backend.stats(net)["lif1"].level == level


def test_only_models_with_neurons_are_touched() -> None:
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    report = sparse_backend.accelerate(plain)
    assert not report.layers and "no neuron" in str(report)
    assert type(plain[0]) is nn.Linear
    assert not is_accelerated(plain[0])


def test_a_neuron_alone_is_a_model() -> None:
    lif = snn.Leaky(0.9)
    report = sparse_backend.accelerate(lif)
    assert report[""].path == "accelerated" and "(model)" in str(report)
    sparse_backend.restore(lif)
    assert type(lif) is snn.Leaky


def test_stock_layers_keep_their_class_and_say_why() -> None:
    net = nn.Sequential(nn.Linear(3, 3), snn.Leaky(0.9), nn.Linear(3, 3), snn.Synaptic(0.9, 0.8))
    report = sparse_backend.accelerate(net)
    assert type(net[3]) is snn.Synaptic
    assert report["3"].path == "stock" and "Synaptic" in report["3"].reason
    assert "1 of 2 neuron layers" in str(report)


def test_a_feed_whose_weight_is_computed_stays_stock() -> None:
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), snn.Leaky(0.9), nn.Bilinear(2, 2, 2)
    )
    report = sparse_backend.accelerate(net)
    assert report["0"].path == "stock" and report["0"].feed
    assert len(report) == 2


def test_a_linear_inside_a_neuron_is_part_of_it() -> None:
    net = nn.ModuleDict(
        {"fc": nn.Linear(3, 3), "lif": snn.Leaky(0.9), "rec": snn.RLeaky(0.9, linear_features=3)}
    )
    report = sparse_backend.accelerate(net)
    assert [row.name for row in report] == ["fc", "lif", "rec"]
    assert type(net["rec"].recurrent) is nn.Linear


def test_a_model_built_under_inference_mode(x: Tensor) -> None:
    with torch.inference_mode():
        net = Net()
        expected = net(x)
        sparse_backend.accelerate(net)
        for a, b in zip(expected, net(x), strict=True):
            torch.testing.assert_close(b, a)


def test_strict_raises_before_anything_is_changed(net: Net) -> None:
    net.extra = snn.Alpha(0.9, 0.8)
    kinds = [type(module) for module in net.modules()]
    with pytest.raises(UnsupportedLayerError, match=r"'extra'.*Alpha"):
        sparse_backend.accelerate(net, strict=True)
    assert_stock(net, kinds)
    del net.extra
    assert len(sparse_backend.accelerate(net, strict=True).accelerated) == 4


def test_an_error_half_way_undoes_the_first_half(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [type(module) for module in net.modules()]
    from sparse_backend.runtime import LayerRuntime

    configure = LayerRuntime.configure

    def fail(self: LayerRuntime, name: str, *args: Any) -> None:
        if name == "lif2":
            raise RuntimeError("half way")
        configure(self, name, *args)

    monkeypatch.setattr(LayerRuntime, "configure", fail)
    with pytest.raises(RuntimeError, match="half way"):
        sparse_backend.accelerate(net)
    assert_stock(net, kinds)


def test_the_context_manager_restores_also_after_an_exception(net: Net, x: Tensor) -> None:
    kinds = [type(module) for module in net.modules()]
    with sparse_backend.accelerated(net, gradient="exact") as report:
        assert report.options.gradient == "exact" and is_accelerated(net.lif1)
    assert_stock(net, kinds)
    with pytest.raises(ZeroDivisionError), sparse_backend.accelerated(net):
        net(x)
        _ = 1 / 0
    assert_stock(net, kinds)


def test_the_context_manager_inside_an_accelerated_model_gives_the_options_back(net: Net, x: Tensor) -> None:
    report = sparse_backend.accelerate(net, budget=0.1)
    grads(net, x)
    before, stats = report["lif1"].gradient, sparse_backend.stats(net).as_dict()["layers"]
    with sparse_backend.accelerated(net, gradient="exact"):
        grads(net, x)
    assert is_accelerated(net.lif1)
    assert "level" in before and report["lif1"].gradient == before
    assert sparse_backend.stats(net).as_dict()["layers"] == stats


def test_shared_modules_have_one_row_with_all_names(x: Tensor) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.first = nn.Linear(6, 6), snn.Leaky(0.8)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            out, mem1, mem2 = [], torch.zeros(4, 6), torch.zeros(4, 6)
            for step in x:
                spk, mem1 = self.first(self.fc(step), mem1)
                spk, mem2 = self.second(self.fc(spk), mem2)
                out.append(spk)
            return torch.stack(out)

    net = Shared()
    stock = net(x)
    report = sparse_backend.accelerate(net)
    assert report["first"] is report["second"] and len(report) == 2
    assert torch.equal(net(x), stock)


def test_deepcopy_state_dict_and_pickle(net: Net, x: Tensor) -> None:
    sparse_backend.accelerate(net, gradient="exact")
    expected = grads(net, x)
    for lif in (net.lif1, net.lif2):
        lif.reset_mem()  # as in stock, a state that is part of a graph cannot be copied
    twin = copy.deepcopy(net)
    assert is_accelerated(twin.lif1)
    for a, b in zip(expected, grads(twin, x), strict=True):
        assert torch.equal(a, b)
    assert sparse_backend.stats(twin)["lif1"].calls == sparse_backend.stats(net)["lif1"].calls + 1
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    for a, b in zip(expected, grads(fresh, x), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7)
    loaded = pickle.loads(pickle.dumps(net))
    assert is_accelerated(loaded.lif1)
    for a, b in zip(expected, grads(loaded, x), strict=True):
        assert torch.equal(a, b)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    assert is_accelerated(torch.load(buffer, weights_only=False).lif2)


def test_double_runs_in_float64(net: Net, x: Tensor) -> None:
    sparse_backend.accelerate(net, gradient="exact")
    grads(net, x)
    net.double()
    spikes, membranes = net(x.double())
    assert spikes.dtype == membranes.dtype == torch.float64
    sparse_backend.restore(net)
    torch.testing.assert_close(membranes, net(x.double())[1], rtol=1e-12, atol=1e-12)


def test_options_from_the_environment(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_BACKEND_GRADIENT", "window")
    monkeypatch.setenv("SPARSE_BACKEND_BACKWARD_THRESHOLD", "0.4")
    assert sparse_backend.accelerate(net)["lif1"].gradient == "window ±0.4"
    assert sparse_backend.accelerate(net, gradient="exact")["lif1"].gradient == "exact"
    monkeypatch.setenv("SPARSE_BACKEND_STRICT", "1")
    with pytest.raises(UnsupportedLayerError):
        sparse_backend.accelerate(nn.Sequential(snn.Alpha(0.9, 0.8)))


@pytest.mark.parametrize(
    "name", ["NATIVE", "DISABLE", "STRICT", "SEED", "BUDGET", "BACKWARD_THRESHOLD", "GRADIENT"]
)
def test_a_variable_that_cannot_be_read_raises_at_once(
    net: Net, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"SPARSE_BACKEND_{name}", "perhaps")
    with pytest.raises(ArgumentError, match="'perhaps'"):
        sparse_backend.accelerate(net)
    assert type(net.lif1) is snn.Leaky


def test_the_kill_switch(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_BACKEND_DISABLE", "1")
    kinds = [type(module) for module in net.modules()]
    report = sparse_backend.accelerate(net, strict=True)
    assert report.disabled and "SPARSE_BACKEND_DISABLE" in str(report)
    assert_stock(net, kinds)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"gradient": "dense"}, ArgumentError, "gradient='dense'"),
        ({"budget": 0.0}, ArgumentError, "budget=0.0"),
        ({"budget": "much"}, ArgumentTypeError, "budget='much'"),
        ({"backward_threshold": float("nan")}, ArgumentError, "backward_threshold=nan"),
        ({"backward_threshold": -1.0}, ArgumentError, "backward_threshold=-1.0"),
        ({"seed": 0.5}, ArgumentTypeError, "seed=0.5"),
        ({"strict": "yes"}, ArgumentTypeError, "strict='yes'"),
    ],
)
def test_bad_options_name_the_argument_and_change_nothing(
    net: Net, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    kinds = [type(module) for module in net.modules()]
    with pytest.raises(error, match=words):
        sparse_backend.accelerate(net, **options)
    assert_stock(net, kinds)


@pytest.mark.parametrize(
    "function", [sparse_backend.accelerate, sparse_backend.restore, sparse_backend.stats]
)
def test_a_model_must_be_a_module(function: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="must be a torch"):
        function("model")
