"""Small training scripts, as users write them."""

TRAIN = """
import sys

import snntorch as snn
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(12, 16), snn.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(16, 3), snn.Leaky(beta=0.9)

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(mem2)
        return torch.stack(out)


def main(epochs):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x, y = (torch.rand(10, 8, 12) < 0.4).float(), torch.arange(8) % 3
    for epoch in range(epochs):
        for _ in range(3):
            loss = nn.functional.cross_entropy(net(x).mean(0), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (net(x).mean(0).argmax(1) == y).float().mean()
        print(f"epoch {epoch + 1}: loss {loss:.3f}, test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
"""

FREE_FUNCTION = """
import snntorch as snn
import torch
from torch import nn

fc1, lif1, fc2, lif2 = nn.Linear(12, 16), snn.Leaky(beta=0.9), nn.Linear(16, 3), snn.Leaky(beta=0.9)
optimizer = torch.optim.SGD([*fc1.parameters(), *fc2.parameters()], lr=0.01)
x = (torch.rand(10, 8, 12) < 0.4).float()
for epoch in range(4):
    mem1, mem2 = lif1.init_leaky(), lif2.init_leaky()
    loss = 0
    for step in range(10):
        spk1, mem1 = lif1(fc1(x[step]), mem1)
        spk2, mem2 = lif2(fc2(spk1), mem2)
        loss = loss + (mem2 - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
print(type(fc1).__name__, type(lif1).__name__)
"""

INTEGRATOR = """
import norse.torch as norse
import torch
from torch import nn

net = norse.SequentialState(nn.Linear(4, 5), norse.LIF(), nn.Linear(5, 2, bias=False), norse.LI())
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
for _ in range(2):
    voltages, _ = net(torch.zeros(6, 3, 4))
    optimizer.zero_grad()
    voltages.sum().backward()
    optimizer.step()
"""
