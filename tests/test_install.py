"""`install` and `uninstall`: models are accelerated at their first call, and all of it can be undone."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

import sparse_backend
from sparse_backend.accelerate import is_accelerated

snn = pytest.importorskip("snntorch")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(beta=0.9)

    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for step in range(len(x)):
            spk, mem = self.lif(self.fc(x[step]), mem)
            out.append(spk)
        return torch.stack(out)


@pytest.fixture(autouse=True)
def original_call():
    before = nn.Module.__call__
    yield before
    sparse_backend.uninstall()
    assert nn.Module.__call__ is before


@pytest.fixture
def x():
    return (torch.rand(9, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def test_first_call_accelerates_and_uninstall_restores(x):
    net = Net()
    expected = net(x)
    classes = [type(module) for module in net.modules()]
    attributes = [set(module.__dict__) for module in net.modules()]
    installation = sparse_backend.install(gradient="exact")
    assert not is_accelerated(net.lif)
    found = net(x)
    assert is_accelerated(net.lif) and is_accelerated(net.fc)
    assert torch.equal(found, expected)
    assert installation.models == [net] and installation.neurons == 1
    assert "1 of 1 neuron layers accelerated, gradient='exact'" in str(installation.reports[0])
    sparse_backend.uninstall()
    assert [type(module) for module in net.modules()] == classes
    left = [set(module.__dict__) for module in net.modules()]
    assert all(now <= before for now, before in zip(left, attributes, strict=True))
    assert torch.equal(net(x), expected)


def test_gradients_are_those_of_stock(x):
    torch.manual_seed(0)
    net = Net()
    net(x).sum().backward()
    expected = net.fc.weight.grad.clone()
    net.zero_grad()
    sparse_backend.install(gradient="exact")
    net(x).sum().backward()
    torch.testing.assert_close(net.fc.weight.grad, expected)


def test_installing_twice_is_installing_once(x, original_call):
    first = sparse_backend.install(budget=0.1)
    assert sparse_backend.install(budget=0.1) is first
    net = Net()
    net(x)
    other = sparse_backend.install(gradient="exact")
    assert other is not first and sparse_backend.installed() is other
    assert not is_accelerated(net.lif)
    net(x)
    assert other.reports[0].options.gradient == "exact"
    sparse_backend.uninstall()
    assert nn.Module.__call__ is original_call
    sparse_backend.uninstall()


def test_lone_layers_of_a_free_function(x):
    fc, lif, other = nn.Linear(6, 5), snn.Leaky(beta=0.9), snn.Leaky(beta=0.8)
    sparse_backend.install()

    def loop():
        mem, second, out = lif.init_leaky(), other.init_leaky(), []
        for step in range(len(x)):
            spk, mem = lif(fc(x[step]), mem)
            spk, second = other(spk, second)
            out.append(spk)
        return torch.stack(out)

    loop().sum().backward()
    assert all(map(is_accelerated, (fc, lif, other)))
    names = [report.layers[0].name for report in sparse_backend.installed().reports]
    assert names == ["leaky1", "leaky2"], "two layers with one name would share their random draws"
    sparse_backend.uninstall()
    assert not any(map(is_accelerated, (fc, lif, other)))


def test_networks_without_neurons_are_left_alone(x):
    plain, lone = nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 5)
    installation = sparse_backend.install()
    lone(plain(x))
    assert not any(is_accelerated(module) for module in (*plain.modules(), lone))
    assert installation.models == []


def test_accelerate_before_keeps_its_options(x):
    net = Net()
    report = sparse_backend.accelerate(net, gradient="window")
    sparse_backend.install(gradient="exact")
    net.lif(net.fc(x[0]))
    assert report["lif"].runtime.options.gradient == "window"
    sparse_backend.uninstall()
    assert is_accelerated(net.lif)


def test_strict_raises_at_the_call(x):
    sparse_backend.install(strict=True)
    net = nn.Sequential(nn.Linear(6, 5), snn.Leaky(beta=0.9, init_hidden=True, inhibition=True))
    with pytest.raises(sparse_backend.UnsupportedLayerError, match="inhibition"):
        net(x[0])
    assert not is_accelerated(net[0])


def test_disabled_by_the_environment(x, monkeypatch, original_call):
    monkeypatch.setenv("SPARSE_BACKEND_DISABLE", "1")
    sparse_backend.install()
    assert nn.Module.__call__ is original_call and sparse_backend.installed() is None


def test_bad_options_change_nothing(original_call):
    with pytest.raises(sparse_backend.ArgumentError, match="budget"):
        sparse_backend.install(budget=-1.0)
    assert nn.Module.__call__ is original_call


def test_models_are_not_kept_alive(x):
    installation = sparse_backend.install()
    net = Net()
    net(x).sum().backward()
    feed = weakref.ref(net.fc)  # snnTorch itself keeps every neuron in SpikingNeuron.instances
    assert installation.knows(net.fc)
    del net
    gc.collect()
    assert feed() is None and installation.models == []
    assert installation.neurons == 1 and len(installation.reports) == 1


def test_someone_else_wraps_module_call(x, original_call):
    sparse_backend.install()
    ours = nn.Module.__call__
    nn.Module.__call__ = lambda module, *args, **kwargs: ours(module, *args, **kwargs)
    try:
        sparse_backend.uninstall()
        net = Net()
        net(x)
        assert not is_accelerated(net.lif), "ours stays in their chain and only passes calls through"
        sparse_backend.install()
        net(x)
        assert is_accelerated(net.lif), "and serves again, once, after the next install"
    finally:
        nn.Module.__call__ = ours
    sparse_backend.uninstall()
    assert nn.Module.__call__ is original_call
    nn.Module.__call__ = ours  # a stale copy that someone puts back
    try:
        assert net(x).shape == (9, 4, 5)
        sparse_backend.install()
        sparse_backend.uninstall()
        assert nn.Module.__call__ is original_call
    finally:
        nn.Module.__call__ = original_call


def test_install_serves_again_after_someone_put_torchs_call_back(x, original_call):
    sparse_backend.install()
    nn.Module.__call__ = original_call
    sparse_backend.uninstall()
    sparse_backend.install()
    net = Net()
    net(x)
    assert is_accelerated(net.lif)


def test_first_calls_from_several_threads(x):
    installation = sparse_backend.install(gradient="exact")
    net = Net()
    results, errors = [], []

    def call():
        try:
            copy = Net()
            copy.load_state_dict(net.state_dict())
            results.append(copy(x).detach().sum())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len({float(total) for total in results}) == 1
    assert installation.neurons == 4
