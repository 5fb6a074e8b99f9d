"""Norse: a SequentialState of feeds and LIF modules, which loop over time inside."""

from __future__ import annotations

import norse.torch as norse
import torch
from torch import Tensor, nn

from ..network import Net, training_loss
from ..rows import Row
from .over_time import OverTime

__all__ = ["build"]


class NorseNet(nn.Module):
    """Feeds run over all steps at once, as Norse's time modules allow. LI reads out a membrane potential."""

    def __init__(self, row: Row, stock: Net) -> None:
        super().__init__()
        self.row = row
        layers: list[nn.Module] = []
        for feed in stock.feeds:
            layers += [OverTime(feed), norse.LIF()]
        if row.loss == "membrane":
            layers[-1] = norse.LI()
        self.layers = norse.SequentialState(*layers)

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The row's training loss, a scalar."""
        if self.row.coding == "direct":
            x = x.expand(self.row.steps, *x.shape)
        out, _ = self.layers(x)
        return training_loss(self.row, out, out, labels)


def build(row: Row, stock: Net, gradient: str) -> NorseNet:
    """Norse's own surrogate, whatever the rule."""
    torch.manual_seed(0)
    return NorseNet(row, stock)
