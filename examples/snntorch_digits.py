"""Handwritten digits with an ordinary snnTorch network: Linear, Leaky, Linear, Leaky and a loop over 50 time
steps.

The 1,797 real 8x8 images of scikit-learn are latency-coded: a bright pixel spikes early, a dark one late, an
empty one never.
"""

from __future__ import annotations

import argparse

import snntorch as snn
import snntorch.functional as SF
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from snntorch import spikegen
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """64 pixels, one hidden layer of Leaky neurons, 10 Leaky output neurons."""

    def __init__(self, hidden: int, beta: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.lif1 = snn.Leaky(beta=beta)
        self.fc2 = nn.Linear(hidden, 10)
        self.lif2 = snn.Leaky(beta=beta)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Input spikes [T, B, 64] to output spikes [T, B, 10]."""
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        recorded = []
        for step in range(spikes.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(spikes[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            recorded.append(spk2)
        return torch.stack(recorded)


def load(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Images scaled to [0, 1] with their labels, 75 % for training and 25 % for testing."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.25, random_state=seed, stratify=labels)
    train_x, test_x, train_y, test_y = map(torch.as_tensor, split)
    return TensorDataset(train_x.float(), train_y), TensorDataset(test_x.float(), test_y)


def encode(images: torch.Tensor, steps: int, code: str) -> torch.Tensor:
    """Images [B, 64] to spike trains [T, B, 64]."""
    if code == "rate":
        return spikegen.rate(images, num_steps=steps)
    spikes = spikegen.latency(images, num_steps=steps, normalize=True, linear=True)
    return spikes * (images > 0)  # an empty pixel would otherwise spike at the last step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50, help="time steps per image")
    parser.add_argument(
        "--beta", type=float, default=0.95, help="decay of the membrane potential per time step"
    )
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--code", choices=("latency", "rate"), default="latency")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    train, test = load(args.seed)
    loader = DataLoader(train, batch_size=args.batch_size, shuffle=True)
    net = Net(args.hidden, args.beta)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    loss_fn = SF.mse_count_loss(correct_rate=0.6, incorrect_rate=0.05)
    test_spikes = encode(test.tensors[0], args.steps, args.code)

    for epoch in range(1, args.epochs + 1):
        total = 0.0
        for images, labels in loader:
            recorded = net(encode(images, args.steps, args.code))
            loss = loss_fn(recorded, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        with torch.no_grad():
            accuracy = SF.accuracy_rate(net(test_spikes), test.tensors[1])
        print(
            f"epoch {epoch}/{args.epochs}  loss {total / len(train):.4f}  test accuracy {accuracy:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
