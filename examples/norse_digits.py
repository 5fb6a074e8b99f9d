"""Handwritten digits with an ordinary Norse network: SequentialState of Linear, LIF, Linear, LIF and a leaky
integrator.

The 1,797 real 8x8 images of scikit-learn drive current-fed LIF neurons whose spikes over 50 ms are the input.
"""

from __future__ import annotations

import argparse

import norse.torch as norse
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """64 inputs, one hidden layer of LIF neurons, 10 LIF neurons read out by leaky integrators."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        # Half the default threshold: with nn.Linear's default weights the output layer would start, and stay,
        # silent.
        neuron = norse.LIFParameters(v_th=torch.tensor(0.5))
        self.layers = norse.SequentialState(
            nn.Linear(64, hidden), norse.LIF(p=neuron), nn.Linear(hidden, 10), norse.LIF(p=neuron), norse.LI()
        )

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Input spikes [T, B, 64] to class scores [B, 10]: the mean membrane potential over time, scaled."""
        potentials, _ = self.layers(spikes)
        return 8 * potentials.mean(dim=0)


def load(seed: int, steps: int) -> tuple[TensorDataset, TensorDataset]:
    """Spike trains [image, T, 64] with their labels, 75 % for training and 25 % for testing."""
    images, labels = load_digits(return_X_y=True)
    encoder = norse.ConstantCurrentLIFEncoder(seq_length=steps)
    spikes = encoder(torch.as_tensor(images).float() / 4).transpose(0, 1)  # grey value 16 is a current of 4
    split = train_test_split(
        spikes, torch.as_tensor(labels), test_size=0.25, random_state=seed, stratify=labels
    )
    train_x, test_x, train_y, test_y = split
    return TensorDataset(train_x, train_y), TensorDataset(test_x, test_y)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50, help="time steps of 1 ms per image")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    train, test = load(args.seed, args.steps)
    loader = DataLoader(train, batch_size=args.batch_size, shuffle=True)
    net = Net(args.hidden)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)

    for epoch in range(1, args.epochs + 1):
        total = 0.0
        for spikes, labels in loader:
            loss = functional.cross_entropy(net(spikes.transpose(0, 1)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        with torch.no_grad():
            scores = net(test.tensors[0].transpose(0, 1))
            accuracy = (scores.argmax(dim=1) == test.tensors[1]).float().mean().item()
        print(
            f"epoch {epoch}/{args.epochs}  loss {total / len(train):.4f}  test accuracy {accuracy:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
