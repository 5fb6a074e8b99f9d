"""Random sequences of calls, reads, edits and mode changes on two networks, compared with stock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .conftest import BATCH, HIDDEN, Twins
from .test_streams import Square

PROGRAMS = 60


class Program:
    """A network that is put together while it runs: `values` to feed on, two `states`, and what is `seen`."""

    def __init__(self, model: Square, x: Tensor, choose: random.Random) -> None:
        self.model, self.x, self.choose = model, x, choose
        self.values = [torch.zeros(BATCH, HIDDEN)]
        self.states = [torch.zeros(BATCH, HIDDEN), torch.zeros(BATCH, HIDDEN)]
        self.spikes: list[Tensor] = []
        self.seen: list[Tensor] = []
        self.time = 0

    def value(self) -> Tensor:
        return self.values[-1 - self.choose.randrange(min(len(self.values), 6))]

    def which(self) -> int:
        return self.choose.randrange(2)

    def step(self) -> None:
        """A regular time step of the two-layer network."""
        m, states = self.model, self.states
        spk, states[0] = m.lif1(m.fc0(self.x[self.time % len(self.x)]), states[0])
        spk, states[1] = m.lif2(m.fc1(spk), states[1])
        self.time += 1
        self.spikes.append(spk)
        self.values.append(spk)

    def half_step(self) -> None:
        m = self.model
        spk, self.states[0] = m.lif1(m.fc0(self.x[self.time % len(self.x)]), self.states[0])
        self.values.append(spk)

    def feed(self) -> None:
        feed = (self.model.fc1, self.model.fc2)[self.which()]
        self.values.append(feed(self.value()))

    def neuron(self) -> None:
        which = self.which()
        neuron = (self.model.lif1, self.model.lif2)[which]
        state = self.states[which if self.choose.random() < 0.8 else 1 - which]
        spk, self.states[which] = neuron(self.value(), state)
        self.values.append(spk)
        self.spikes.append(spk)

    def state_as_value(self) -> None:
        self.values.append(self.states[self.which()])

    def detach_state(self) -> None:
        which = self.which()
        self.states[which] = self.states[which].detach()

    def detach_value(self) -> None:
        self.values.append(self.value().detach())

    def reshape(self) -> None:
        self.values.append(self.value().view(BATCH, 2, -1).flatten(1))

    def new_state(self) -> None:
        self.states[self.which()] = torch.zeros(BATCH, HIDDEN)

    def edit_state(self) -> None:
        which = self.which()
        self.states[which] = self.states[which].clone().mul_(0.7)

    def exchange_states(self) -> None:
        self.states.reverse()

    def read(self) -> None:
        self.seen.append(self.value().sum() + self.states[self.which()].mean())

    def stack(self) -> None:
        if self.spikes:
            self.seen.append(torch.stack(self.spikes[-self.choose.randrange(1, 6) :]))

    def without_gradient(self) -> None:
        with torch.no_grad():
            self.step()

    def run(self, actions: list[str]) -> list[Tensor]:
        for action in actions:
            getattr(self, action)()
        self.step()
        return [*self.seen, torch.stack(self.spikes), *self.states]


DISTURBANCES = [name for name, member in vars(Program).items() if callable(member) and name[0] != "_"]
DISTURBANCES = [name for name in DISTURBANCES if name not in ("value", "which", "run")]


def program(seed: int) -> Callable[[Square, Tensor], list[Tensor]]:
    """Loops that are regular to a degree that differs from seed to seed."""
    choose = random.Random(seed)
    regularity = choose.choice([0.95, 0.8, 0.3, 0.0])
    actions = [
        "step" if choose.random() < regularity else choose.choice(DISTURBANCES)
        for _ in range(choose.randrange(5, 60))
    ]
    return lambda model, x: Program(model, x, random.Random(seed)).run(actions)


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_a_random_program(seed: int, x: Tensor) -> None:
    torch.manual_seed(seed)
    Twins(Square()).check(program(seed), x)
