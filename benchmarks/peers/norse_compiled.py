"""Norse with the step of its cells compiled by torch.compile; the loop over time stays Python's."""

from __future__ import annotations

import copy
import shutil

import norse.torch as norse
import torch
from torch import Tensor, nn

from ..network import Net, training_loss
from ..rows import Row
from .unavailable import UnavailableError

__all__ = ["build"]


class CompiledNorseNet(nn.Module):
    """Feeds and LIF cells in turn, one step of all of them one graph."""

    def __init__(self, row: Row, stock: Net) -> None:
        super().__init__()
        self.row = row
        self.feeds = copy.deepcopy(stock.feeds)
        cells = [norse.LIFCell() for _ in self.feeds]
        if row.loss == "membrane":
            cells[-1] = norse.LICell()
        self.cells = nn.ModuleList(cells)
        self._step = torch.compile(self._plain_step, dynamic=False)

    def _plain_step(
        self, x: Tensor, states: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        after = []
        for feed, cell, state in zip(self.feeds, self.cells, states, strict=True):
            x, state = cell(feed(x), state)
            after.append(state)
        return x, after

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The row's training loss, a scalar."""
        constant = self.row.coding == "direct"
        states = self._zeros(x if constant else x[0])
        outputs = []
        for step in range(self.row.steps):
            out, states = self._step(x if constant else x[step], states)
            outputs.append(out)
        series = torch.stack(outputs)
        return training_loss(self.row, series, series, labels)

    def _zeros(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        # Full-size states from the start, or the first step would be compiled apart.
        states = []
        with torch.no_grad():
            for feed, cell in zip(self.feeds, self.cells, strict=True):
                x, state = cell(feed(x), None)
                states.append(type(state)(*(torch.zeros_like(x) for _ in state)))
        return states


def build(row: Row, stock: Net, gradient: str) -> CompiledNorseNet:
    """Norse's own surrogate, whatever the rule. Raises: UnavailableError where nothing can be compiled."""
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise UnavailableError("torch.compile needs a C++ compiler")
    torch.manual_seed(0)
    return CompiledNorseNet(row, stock)
