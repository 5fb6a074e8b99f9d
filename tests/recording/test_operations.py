"""Operations between the layers of a step that scripts write out: sums of two, gains, functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from .conftest import BATCH, HIDDEN, INPUTS, STEPS, Net, step
from .operation_models import check, leaky


class Elementwise(nn.Module):
    """Linear layers with room for an operation on the currents of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc0, self.fc1 = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.norm, self.gain = nn.LayerNorm(HIDDEN), nn.Parameter(torch.rand(HIDDEN))
        self.mix = nn.Parameter(torch.rand(HIDDEN, HIDDEN))
        self.lif1, self.lif2 = leaky(), leaky()

    def forward(self, x: Tensor, operation: Callable[..., Tensor]) -> list[Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes = []
        for time, frame in enumerate(x):
            current = self.fc0(frame)
            spk1, mem1 = self.lif1(current, mem1)
            spk2, mem2 = self.lif2(operation(self, current, spk1, mem1, x[time]), mem2)
            spikes.append(spk2)
        return [torch.stack(spikes), mem1, mem2]


def noise(time_frame: Tensor) -> Tensor:
    return time_frame[:, :1] * torch.linspace(0, 1, HIDDEN, dtype=time_frame.dtype)


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "residual": lambda m, cur, spk, mem, x: m.fc1(spk) + cur,
    "residual of spikes": lambda m, cur, spk, mem, x: m.fc1(spk) + spk,
    "residual with the membrane": lambda m, cur, spk, mem, x: torch.add(m.fc1(spk), mem, alpha=0.5),
    "the same value twice": lambda m, cur, spk, mem, x: cur * cur,
    "a gain": lambda m, cur, spk, mem, x: m.fc1(spk) * m.gain,
    "a gain first": lambda m, cur, spk, mem, x: m.gain * m.fc1(spk),
    "a bias": lambda m, cur, spk, mem, x: m.fc1(spk) + m.gain,
    "a number": lambda m, cur, spk, mem, x: m.fc1(spk) + 0.125,
    "a real value of the step": lambda m, cur, spk, mem, x: m.fc1(spk) * noise(x),
    "a real value of the step added": lambda m, cur, spk, mem, x: m.fc1(spk) + noise(x),
    "a real value of the step minus": lambda m, cur, spk, mem, x: noise(x) - m.fc1(spk),
    "a computed weight": lambda m, cur, spk, mem, x: functional.linear(spk, m.mix * 2.0),
    "two of a kind": lambda m, cur, spk, mem, x: cur * noise(x) + cur * (noise(x) + 1),
    "a matrix product": lambda m, cur, spk, mem, x: spk @ m.mix,
    "one minus": lambda m, cur, spk, mem, x: 1 - torch.sigmoid(m.fc1(spk)),
    "a quotient": lambda m, cur, spk, mem, x: 1 / (1 + m.fc1(spk) ** 2),
    "layer norm": lambda m, cur, spk, mem, x: m.norm(m.fc1(spk)),
    "relu": lambda m, cur, spk, mem, x: functional.relu(m.fc1(spk)),
    "clamped": lambda m, cur, spk, mem, x: m.fc1(spk).clamp(-0.5, 0.5),
    "a mean subtracted": lambda m, cur, spk, mem, x: cur - cur.mean(1, keepdim=True),
    "a mean over the batch": lambda m, cur, spk, mem, x: cur - cur.mean(0),
    "a mean over all": lambda m, cur, spk, mem, x: cur - cur.mean(),
    "softmax": lambda m, cur, spk, mem, x: cur.softmax(1) * 4,
    "detached": lambda m, cur, spk, mem, x: m.fc1(spk) + cur.detach(),
    "a mask": lambda m, cur, spk, mem, x: torch.where(noise(x) > 0.3, m.fc1(spk), 0.1 * cur),
    "a chain": lambda m, cur, spk, mem, x: functional.relu(m.norm(m.fc1(spk)) + cur) * m.gain,
}


@pytest.mark.parametrize("operation", ELEMENTWISE)
def test_an_operation_at_each_step(operation: str) -> None:
    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    assert check(Elementwise(), lambda m, x: m(x, ELEMENTWISE[operation]), x) == 1


def test_a_loss_at_every_step() -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        mem1, mem2 = model.lif1.init_leaky(), model.lif2.init_leaky()
        labels, total = torch.arange(BATCH) % 4, torch.zeros((), dtype=x.dtype)
        for frame in x:
            _, mem1, spk, mem2 = step(model, frame, mem1, mem2)
            total = total + (functional.cross_entropy(mem2, labels) + 0.1 * spk.mean())
        return [total]

    model = Net()
    for name in ("lif1", "lif2"):
        setattr(model, name, leaky())
    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    assert check(model, loop, x) == 1


def test_an_operation_that_is_not_used_at_every_step() -> None:
    def operation(m: Elementwise, cur: Tensor, spk: Tensor, mem: Tensor, x: Tensor) -> Tensor:
        m.time = m.__dict__.get("time", 0) + 1
        return functional.relu(m.fc1(spk)) if m.time % 4 else m.fc1(spk) + cur

    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    check(Elementwise(), lambda m, x: m(x, operation), x)


def test_a_state_set_anew_behind_an_operation_of_two_values() -> None:
    def loop(m: Elementwise, x: Tensor) -> list[Tensor]:
        mem1, mem2 = m.lif1.init_leaky(), m.lif2.init_leaky()
        out = []
        for time, frame in enumerate(x):
            current = m.fc0(frame)
            spk1, mem1 = m.lif1(current, mem1)
            if time == 4:
                mem2 = torch.zeros(BATCH, HIDDEN, dtype=x.dtype)
            spk2, mem2 = m.lif2(m.fc1(spk1) + current, mem2)
            out.append(spk2)
        return [torch.stack(out), mem1, mem2]

    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    assert check(Elementwise(), loop, x) <= 2


def test_what_writes_to_its_argument_is_not_put_off() -> None:
    def operation(m: Elementwise, cur: Tensor, spk: Tensor, mem: Tensor, x: Tensor) -> Tensor:
        current = m.fc1(spk)
        return functional.relu(current, inplace=True) + functional.relu_(current * 2)

    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    check(Elementwise(), lambda m, x: m(x, operation), x)
