"""A layer's feed applied to all time steps at once."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["OverTime"]


class OverTime(nn.Module):
    """The module over `[T, B, ...]` as one batch of T B."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, ...]` to `[T, B, ...]`."""
        found: Tensor = self.module(x.flatten(0, 1))
        return found.unflatten(0, x.shape[:2])
