"""Batch elements in which rounding decides a maximum.

Max pooling sends its gradient to the largest entry of a window. Where two entries differ by less than
float32 sums in different orders do, stock and another program may pick different ones, both rightly: values
agree to rounding, gradients of the layers below do not. Such windows are found in float64, from the stock
network alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .network import Net

__all__ = ["undecided_elements"]

_ROUNDING = 3e-7
"""Of sums of a few hundred float32 terms, relative to the largest: five units in the last place."""
_EQUAL = 1e-13
"""Entries this close in float64 are equal, as where the input is zero; then the first one is taken."""


@torch.no_grad()
def undecided_elements(stock: Net, x: Tensor, spikes: Sequence[Tensor]) -> Tensor:
    """bool `[B]`: whether the element has a pooling window that rounding decides.

    x: the input.  spikes: of all layers, `[T, B, ...]`.
    """
    found = torch.zeros(x.shape[0 if stock.row.coding == "direct" else 1], dtype=torch.bool, device=x.device)
    for feed, rows in zip(stock.feeds, (x, *spikes), strict=False):
        if isinstance(feed, nn.Sequential) and isinstance(feed[-1], nn.MaxPool2d):
            found |= _undecided(feed[0], feed[-1], rows)
    return found


def _undecided(convolution: nn.Module, pool: nn.MaxPool2d, rows: Tensor) -> Tensor:
    weight, bias = (p.double() for p in convolution.parameters())
    images = rows.flatten(0, -4).double()
    values = nn.functional.conv2d(images, weight, bias)
    windows = values.unfold(2, pool.kernel_size, pool.stride).unfold(3, pool.kernel_size, pool.stride)
    first, second = windows.flatten(-2).topk(2).values.unbind(-1)
    gap = first - second
    close = (gap > _EQUAL) & (gap < _ROUNDING * values.abs().max())
    return close.flatten(1).any(1).view(-1, rows.shape[-4]).any(0)
