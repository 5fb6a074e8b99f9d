"""The networks that are measured, as data, and what feeds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

__all__ = ["ROWS", "Row", "make_input"]


@dataclass(frozen=True)
class Row:
    """A network and its input.

    widths: from input to output.  steps: T.  batch: B.
    density: of the input's random spikes, None for images that are fed at every step (direct coding).
    active: fraction of a layer's entries with |u - threshold| < 0.1 that its weights are scaled to, None to
        leave them as initialised.
    loss: on the counted output spikes, or summed over the output's membrane potential of each step.
    """

    widths: tuple[int, ...]
    steps: int
    batch: int
    density: float | None = None
    active: float | None = None
    loss: Literal["count", "membrane"] = "count"


ROWS = {
    "F": Row((784, 200, 200, 10), 100, 256, 0.01, 0.02),
    "N": Row((2312, 200, 200, 10), 300, 256, 0.01, 0.02),
    "S": Row((700, 200, 200, 20), 500, 256, 0.015, 0.02),
    "S-small": Row((700, 200, 200, 20), 100, 128, 0.015, 0.025),
    "L": Row((2312, 1000, 1000, 20), 100, 64, 0.01, 0.02),
    "U": Row((784, 1000, 10), 25, 128, loss="membrane"),
}
"""Published set-ups (Fashion-MNIST, N-MNIST, SHD), a small SHD, a wide net, snnTorch's tutorial 5."""


def make_input(row: Row, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Input and labels `[B]`: spikes `[T, B, N]`, or images `[B, N]` for direct coding."""
    if row.density is None:
        images, labels = load_digits(return_X_y=True)
        side = int(row.widths[0] ** 0.5)
        small = torch.as_tensor(images[: row.batch] / 16).float().view(-1, 1, 8, 8)
        large = functional.interpolate(small, (side, side), mode="bilinear")
        return large.flatten(1), torch.as_tensor(labels[: row.batch])
    shape = (row.steps, row.batch, row.widths[0])
    spikes = (torch.rand(shape, generator=generator) < row.density).float()
    return spikes, torch.randint(row.widths[-1], (row.batch,), generator=generator)
