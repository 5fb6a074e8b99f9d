"""The stock network with its step compiled by torch.compile; the loop over time stays Python's."""

from __future__ import annotations

import shutil

import torch
from torch import Tensor, nn

from ..network import Net, training_loss
from ..rows import Row
from .unavailable import UnavailableError

__all__ = ["build"]


class CompiledNet(nn.Module):
    """One step of all layers as one graph. It is compiled at the first call, in the check."""

    def __init__(self, row: Row, stock: Net) -> None:
        super().__init__()
        self.row = row
        self.net = stock
        self._step = torch.compile(self._plain_step, dynamic=False)

    def _plain_step(self, x: Tensor, mems: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        spikes, states = [], []
        for feed, lif, mem in zip(self.net.feeds, self.net.lifs, mems, strict=True):
            x, mem = lif(feed(x), mem)
            spikes.append(x)
            states.append(mem)
        return spikes, states

    def forward(self, x: Tensor, record_all: bool = False) -> tuple[list[Tensor], Tensor]:
        """As `Net.forward`."""
        constant = self.row.coding == "direct"
        mems = self._zeros(x if constant else x[0])
        series: list[list[Tensor]] = [[] for _ in mems]
        membrane = []
        for step in range(self.row.steps):
            spikes, mems = self._step(x if constant else x[step], mems)
            for layer, out in enumerate(spikes):
                if record_all or layer == len(spikes) - 1:
                    series[layer].append(out)
            membrane.append(mems[-1])
        return [torch.stack(steps) for steps in series if steps], torch.stack(membrane)

    def _zeros(self, x: Tensor) -> list[Tensor]:
        # Of full size from the start: snnTorch begins with a shape that grows, which would compile twice.
        found = []
        with torch.no_grad():
            for feed in self.net.feeds:
                x = torch.zeros_like(feed(x))
                found.append(x)
        return found

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The row's training loss, a scalar."""
        spikes, membrane = self(x)
        return training_loss(self.row, spikes[-1], membrane, labels)


def build(row: Row, stock: Net, gradient: str) -> CompiledNet:
    """Stock itself, compiled. Raises: UnavailableError where nothing can be compiled."""
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise UnavailableError("torch.compile needs a C++ compiler")
    torch.compiler.reset()  # graphs of the row before count towards the limit
    return CompiledNet(row, stock)
