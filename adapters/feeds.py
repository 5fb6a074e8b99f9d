"""The stand-in for `nn.Linear` in a spiking model: recorded, so that it runs as one with its neuron."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from sparse_backend.recording import record_feed, resolve

__all__ = ["AcceleratedLinear", "examine"]


class AcceleratedLinear(nn.Linear):
    """`nn.Linear` whose product with a step's input is computed when the whole sequence is known."""

    upstream: ClassVar[type[nn.Module]] = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """y = x W^T + b; input `[B, N_in]` (one step) or `[T, B, N_in]`."""
        if torch.compiler.is_compiling() or not isinstance(input, Tensor):
            return nn.Linear.forward(self, input)
        out = record_feed(self, input)
        return nn.Linear.forward(self, resolve(input)) if out is NotImplemented else out


def examine(module: nn.Module) -> type[nn.Module] | str | None:
    """The class that takes a feed's place, the reason why it stays stock, or None if it is not a feed."""
    if isinstance(module, AcceleratedLinear):
        return AcceleratedLinear
    if not isinstance(module, nn.Linear):
        return None
    if isinstance(module, nn.LazyLinear):
        return "its weight does not exist before the first call"
    # Before any look at its weight: spectral_norm moves on with each access.
    if type(module) is not nn.Linear:
        return f"{type(module).__name__} is not a plain nn.Linear: its weight may be computed at each call"
    if "forward" in vars(module):
        return "its forward method was replaced on the instance"
    if "weight" not in module._parameters:
        return "its weight is computed at each call (weight_norm, spectral_norm or pruning)"
    weight = module._parameters["weight"]
    return None if weight is None or weight.dim() != 2 else AcceleratedLinear
