"""Modules between layers: convolutions of any kind, pools, norms, activations, dropout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from .conftest import BATCH, HIDDEN, INPUTS, STEPS
from .operation_models import check, hidden, images, leaky, stacked


def test_several_batches_with_states_carried_on() -> None:
    model = hidden(nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)), features=75)

    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        first = stacked(model, x)
        return [first, torch.stack([model(x[time])[0] for time in range(STEPS)])]

    assert check(model, loop, images()) == 2


CHAINS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "max pooling": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)), 75),
    "average pooling": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.AvgPool2d(2)), 75),
    "adaptive pooling": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(2)), 12),
    "pooling first": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 3, 3)), 48),
    "strided and grouped": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, groups=2)),
        64,
    ),
    "dilated, no bias": (lambda: nn.Conv2d(1, 3, 3, dilation=2, bias=False), 192),
    "circular": (lambda: nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), 432),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 3)), 288),
    "group normalisation": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), 400),
    "instance normalisation": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True)),
        400,
    ),
    "layer normalisation": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 10, 10])), 200),
    "activations": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Tanh(), nn.PReLU(2), nn.Softplus())
        ),
        200,
    ),
    "upsampling": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2)), 800),
    "softmax over channels": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softmax(1)), 300),
    "batch normalisation by running statistics": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).eval(),
        300,
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_between_layers(chain: str) -> None:
    make, features = CHAINS[chain]
    model = hidden(make(), features=features)
    assert check(model, stacked, images()) == 1


@pytest.mark.parametrize("chain", CHAINS)
def test_after_a_neuron(chain: str) -> None:
    make, features = CHAINS[chain]
    model = hidden(nn.Conv2d(1, 1, 1), make(), features=features)
    assert check(model, stacked, images()) == 1


def test_sequences_of_one_dimension() -> None:
    model = hidden(
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.MaxPool1d(2)),
        nn.Sequential(nn.Conv1d(4, 4, 3), nn.AvgPool1d(2)),
        features=12,
    )
    assert check(model, stacked, torch.rand(STEPS, BATCH, 2, 18, dtype=torch.float64)) == 1


def test_volumes() -> None:
    model = hidden(nn.Sequential(nn.Conv3d(1, 2, 2), nn.MaxPool3d(2)), features=16)
    assert check(model, stacked, torch.rand(STEPS, BATCH, 1, 5, 5, 5, dtype=torch.float64)) == 1


class Normalised(nn.Module):
    """Batch normalisation between a convolution and its neuron, as deep spiking networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.lif = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), leaky()

    def forward(self, x: Tensor) -> list[Tensor]:
        mem, out = self.lif.init_leaky(), []
        for frame in x:
            spk, mem = self.lif(self.norm(self.conv(frame)), mem)
            out.append(spk)
        return [torch.stack(out), mem]


def test_batch_normalisation_in_training() -> None:
    check(Normalised(), lambda m, x: m(x), images())


def test_batch_normalisation_trained_then_evaluated() -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        trained = model(x)
        model.eval()
        return [*trained, *model(x)]

    check(Normalised(), loop, images())


def test_dropout_draws_what_stock_draws() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.drop, self.lif = nn.Linear(INPUTS, HIDDEN), nn.Dropout(0.5), leaky()

        def forward(self, x: Tensor) -> list[Tensor]:
            mem, out = self.lif.init_leaky(), []
            for frame in x:
                spk, mem = self.lif(self.drop(self.fc(frame)), mem)
                out.append(spk)
            return [torch.stack(out), mem]

    check(Dropped(), lambda m, x: m(x), torch.rand(STEPS, BATCH, INPUTS, dtype=torch.float64))
