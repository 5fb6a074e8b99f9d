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
    coding: "spikes" are random, of the given density; "direct" feeds the same images at every step; "rate"
        draws spikes from images, with their brightness as probability; "dense" is random numbers.
    active: fraction of a layer's entries with |u - threshold| < 0.1 that its weights are scaled to, None to
        leave them as initialised.
    loss: on the counted output spikes, or summed over the output's membrane potential of each step.
    channels: of the stages of 5 x 5 convolution, 2 x 2 max pooling and neurons ahead of the linear layers;
        the input is then an image of one channel.
    """

    widths: tuple[int, ...]
    steps: int
    batch: int
    density: float | None = None
    active: float | None = None
    coding: Literal["spikes", "direct", "rate", "dense"] = "spikes"
    loss: Literal["count", "membrane"] = "count"
    channels: tuple[int, ...] = ()

    @property
    def side(self) -> int:
        """Of the input as a square image."""
        return int(self.widths[0] ** 0.5)

    @property
    def title(self) -> str:
        """The layers, in short."""
        stages = [str(self.widths[0]), *(f"{channels}c5p2" for channels in self.channels)]
        return "-".join([*stages, *map(str, self.widths[1:])])


ROWS = {
    "F": Row((784, 200, 200, 10), 100, 256, 0.01, 0.02),
    "N": Row((2312, 200, 200, 10), 300, 256, 0.01, 0.02),
    "S": Row((700, 200, 200, 20), 500, 256, 0.015, 0.02),
    "S-small": Row((700, 200, 200, 20), 100, 128, 0.015, 0.025),
    "L": Row((2312, 1000, 1000, 20), 100, 64, 0.01, 0.02),
    "C": Row((784, 10), 25, 64, coding="rate", channels=(12, 64)),
    "U": Row((784, 1000, 10), 25, 128, coding="direct", loss="membrane"),
}
"""Published set-ups (Fashion-MNIST, N-MNIST, SHD), a small SHD, a wide net, snnTorch's tutorials 6 and 5."""


def make_input(row: Row, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Input and labels `[B]`: spikes `[T, B, N]`, or for "direct" images `[B, N]`; N is `1, side, side`
    where the network is convolutional."""
    shape = (1, row.side, row.side) if row.channels else (row.widths[0],)
    if row.coding == "spikes":
        assert row.density is not None
        spikes = torch.rand((row.steps, row.batch, *shape), generator=generator) < row.density
        return spikes.float(), torch.randint(row.widths[-1], (row.batch,), generator=generator)
    if row.coding == "dense":
        values = torch.rand((row.steps, row.batch, *shape), generator=generator)
        return values, torch.randint(row.widths[-1], (row.batch,), generator=generator)
    images, labels = load_digits(return_X_y=True)
    small = torch.as_tensor(images[: row.batch] / 16).float().view(-1, 1, 8, 8)
    large = functional.interpolate(small, (row.side, row.side), mode="bilinear").reshape(-1, *shape)
    if row.coding == "rate":
        large = (torch.rand((row.steps, *large.shape), generator=generator) < large).float()
    return large, torch.as_tensor(labels[: row.batch])
