"""The worked example of docs/adding-a-neuron.md does what the unmodified snnTorch module does."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_backend
from sparse_backend import surrogates
from sparse_backend.accelerate import is_accelerated

snn = pytest.importorskip("snntorch")

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-neuron.md"
STEPS, BATCH, INPUTS, WIDTH = 20, 4, 7, 6


@pytest.fixture
def page(monkeypatch):
    from sparse_backend.adapters import snntorch as adapter

    monkeypatch.setattr(adapter, "_ACCELERATED", dict(adapter._ACCELERATED))
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), namespace)
    return namespace


class Net(nn.Module):
    def __init__(self, mechanism):
        super().__init__()
        self.fc = nn.Linear(INPUTS, WIDTH)
        self.lif = snn.Synaptic(
            alpha=torch.rand(WIDTH) * 0.9,
            beta=torch.rand(()),
            threshold=0.4,
            spike_grad=surrogates.fast_sigmoid(5.0),
            learn_alpha=True,
            learn_beta=True,
            learn_threshold=True,
            reset_mechanism=mechanism,
        )

    def forward(self, x, syn, mem):
        spikes, membranes = [], []
        for step in range(len(x)):
            spk, syn, mem = self.lif(self.fc(x[step]), syn, mem)
            spikes.append(spk)
            membranes.append(mem)
        return torch.stack(spikes), torch.stack(membranes), syn, mem


@pytest.mark.parametrize("mechanism", ["subtract", "zero", "none"])
def test_synaptic(page, mechanism):
    torch.manual_seed(4)
    stock = Net(mechanism).double()
    ours = copy.deepcopy(stock)
    report = sparse_backend.accelerate(ours, gradient="exact", strict=True)
    assert is_accelerated(ours.lif) and f"Synaptic, reset {mechanism}" in str(report)
    x = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64)
    state = [torch.rand(BATCH, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = []
    for net in (stock, ours):
        outputs = net(x, *state)
        generator = torch.Generator().manual_seed(5)
        loss = sum((torch.randn(o.shape, generator=generator, dtype=o.dtype) * o).sum() for o in outputs)
        found.append([*outputs, *torch.autograd.grad(loss, [*net.parameters(), *state])])
    assert torch.equal(found[0][0], found[1][0])
    assert 0.05 < float(found[0][0].detach().mean()) < 0.9
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    assert sparse_backend.stats(ours)["lif"].steps == STEPS, "it ran as one sequence"
