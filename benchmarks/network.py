"""The measured network: an ordinary snnTorch module with an explicit time loop."""

from __future__ import annotations

from collections.abc import Callable

import snntorch as snn
import snntorch.surrogate
import torch
from torch import Tensor, nn
from torch.nn import functional

from .rows import Row

__all__ = ["BETA", "SLOPE", "Net", "make_feeds", "stock_net", "training_loss"]

BETA = 0.95
SLOPE = 25.0


class Net(nn.Module):
    """Linear (or convolution and pooling) and Leaky layers in turn.

    record_all: also keep the hidden layers' spikes, for the check; a training step has no use for them.
    """

    def __init__(self, row: Row, spike_grad: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.row = row
        self.feeds = make_feeds(row)
        self.lifs = nn.ModuleList(snn.Leaky(beta=BETA, spike_grad=spike_grad) for _ in self.feeds)

    def loop(self, x: Tensor, record_all: bool = False) -> tuple[list[list[Tensor]], list[Tensor]]:
        """The loop over time as scripts write it, and nothing else: accelerated, it is only recorded.

        x: as `make_input` gives it.
        Returns: spikes per step, of every layer with `record_all`, else of the last; its membrane potential.
        """
        mems = [lif.init_leaky() for lif in self.lifs]  # type: ignore[operator]
        spikes: list[list[Tensor]] = [[] for _ in self.lifs]
        membrane = []
        constant = self.row.coding == "direct"
        for step in range(self.row.steps):
            out = x if constant else x[step]
            for layer, (feed, lif) in enumerate(zip(self.feeds, self.lifs, strict=True)):
                out, mems[layer] = lif(feed(out), mems[layer])
                if record_all or layer == len(mems) - 1:
                    spikes[layer].append(out)
            membrane.append(mems[-1])
        return (spikes if record_all else spikes[-1:]), membrane

    def forward(self, x: Tensor, record_all: bool = False) -> tuple[list[Tensor], Tensor]:
        """`loop` with its results stacked, `[T, B, N]`."""
        spikes, membrane = self.loop(x, record_all)
        return [torch.stack(series) for series in spikes], torch.stack(membrane)

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The row's training loss, a scalar."""
        spikes, membrane = self(x)
        return training_loss(self.row, spikes[-1], membrane, labels)


def stock_net(row: Row, gradient: str, kind: type[Net] = Net) -> Net:
    """snnTorch's default surrogate; for a window the paper's fast sigmoid. kind: of training loop."""
    return kind(row, snntorch.surrogate.fast_sigmoid(SLOPE) if gradient == "window" else None)


def make_feeds(row: Row) -> nn.ModuleList:
    """What turns each layer's input of one step into its synaptic current."""
    feeds: list[nn.Module] = []
    inputs, side = 1, row.side
    for channels in row.channels:
        feeds.append(nn.Sequential(nn.Conv2d(inputs, channels, 5), nn.MaxPool2d(2)))
        inputs, side = channels, (side - 4) // 2
    first = inputs * side * side if row.channels else row.widths[0]
    for a, b in zip((first, *row.widths[1:-1]), row.widths[1:], strict=True):
        feeds.append(nn.Linear(a, b))
    if row.channels:
        feeds[len(row.channels)] = nn.Sequential(nn.Flatten(), feeds[len(row.channels)])
    return nn.ModuleList(feeds)


def training_loss(row: Row, spikes: Tensor, membrane: Tensor, labels: Tensor) -> Tensor:
    """The row's loss from the output layer's spikes and membrane potential `[T, B, N]`."""
    if row.loss == "count":
        return functional.cross_entropy(spikes.sum(0), labels)
    # As snnTorch's tutorial 5 writes it.
    loss = torch.zeros((), dtype=membrane.dtype)
    for step in range(row.steps):
        loss = loss + functional.cross_entropy(membrane[step], labels)
    return loss
