"""SpikingJelly in multi-step mode; its version 2 has its own CUDA or Triton kernels for the neurons on a GPU.

Which one is its own choice, unless the variable SJ_LIF_CUDA_IMPLEMENTATION says cuda, triton or torch.
"""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from ..network import BETA, Net, training_loss
from ..rows import Row
from .over_time import OverTime

__all__ = ["build"]


class JellyNet(nn.Module):
    """Feeds over all steps at once, then a LIFNode with the same decay; its reset comes one step earlier."""

    def __init__(self, row: Row, stock: Net) -> None:
        super().__init__()
        self.row = row
        self.last: Any
        layers: list[nn.Module] = []
        for feed in stock.feeds:
            self.last = neuron.LIFNode(
                tau=1 / (1 - BETA),
                decay_input=False,
                v_reset=None,
                surrogate_function=surrogate.ATan(),
                detach_reset=True,
                step_mode="m",
            )
            layers += [OverTime(feed), self.last]
        self.last.store_v_seq = row.loss == "membrane"
        self.layers = nn.Sequential(*layers)

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The row's training loss, a scalar."""
        functional.reset_net(self.layers)
        if self.row.coding == "direct":
            x = x.expand(self.row.steps, *x.shape)
        spikes = self.layers(x)
        membrane = self.last.v_seq if self.row.loss == "membrane" else spikes
        return training_loss(self.row, spikes, membrane, labels)


def build(row: Row, stock: Net, gradient: str) -> JellyNet:
    """The atan surrogate, whatever the rule."""
    return JellyNet(row, stock)
