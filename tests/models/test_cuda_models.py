"""Whole unmodified models, recorded, on the CUDA kernels built for the host, against plain torch."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import sparse_backend
from sparse_backend.ops import backend

snn = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")
STEPS = 20


class Loop(nn.Module):
    """Two layers in a Python loop over time, spikes and last membrane returned."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self.library = library
        self.first, self.second = nn.Linear(40, 70), nn.Linear(70, 5)
        if library == "snntorch":
            self.hidden, self.out = snn.Leaky(0.9, learn_beta=True), snn.Leaky(0.8, reset_mechanism="zero")
        else:
            self.hidden, self.out = norse.LIFCell(), norse.LIFBoxCell()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        snntorch = self.library == "snntorch"
        hidden = self.hidden.init_leaky() if snntorch else None
        out = self.out.init_leaky() if snntorch else None
        spikes = []
        for step in x:
            s, hidden = self.hidden(4 * self.first(step), hidden)
            s, out = self.out(4 * self.second(s), out)
            spikes.append(s)
        return torch.stack(spikes), out if snntorch else out.v


@pytest.mark.parametrize("gradient", ["exact", "window", "sampled"])
@pytest.mark.parametrize("library", ["snntorch", "norse"])
def test_models(on_host: ModuleType, monkeypatch: pytest.MonkeyPatch, library: str, gradient: str) -> None:
    torch.manual_seed(5)
    model = Loop(library)
    x = (torch.rand(STEPS, 6, 40) < 0.04).float()

    half_width = 0.5 if gradient == "window" else None

    def run() -> dict[str, Tensor]:
        with sparse_backend.accelerated(model, gradient=gradient, backward_threshold=half_width):
            model.zero_grad()
            spikes, membrane = model(x)
            (spikes.mean() + membrane.square().mean()).backward()
            stats = sparse_backend.stats(model)
        used = {name for layer in stats.layers for name in layer.algorithms.get("backend", {})}
        assert used == {expected}
        grads = {name: value.grad for name, value in model.named_parameters()}
        return {name: value.clone() for name, value in grads.items() if value is not None}

    expected = "cuda"
    got = run()
    assert len(got) >= 4
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_on_cuda", lambda x: False)
        expected = "reference"
        want = run()
    for name, value in want.items():
        # float32: sums of a few thousand terms in another order.
        assert (got[name] - value).norm() <= 1e-4 * value.norm(), name
