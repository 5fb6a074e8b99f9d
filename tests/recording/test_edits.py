"""Writes to recorded values, to what is returned, and to parameters between recording and reading."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from sparse_backend import recording
from sparse_backend.runtime import RUNTIME

from .conftest import BATCH, HIDDEN, OUTPUTS, STEPS, Net, Twins, record, start, step

EDITS: dict[str, Callable[[Tensor], Tensor]] = {
    "imul": lambda mem: mem.__imul__(0.5),
    "mul_": lambda mem: mem.mul_(0.5),
    "zero_": lambda mem: mem.zero_(),
    "clamp_": lambda mem: mem.clamp_(0, 0.3),
    "mask": lambda mem: mem.masked_fill_(mem > 0.2, 0.0),
    "setitem": lambda mem: mem.__setitem__(slice(1, 3), 0.25) or mem,
    "boolean setitem": lambda mem: mem.__setitem__(mem > 0.1, 0.0) or mem,
    "out": lambda mem: torch.mul(mem.detach(), 0.5, out=torch.empty_like(mem)),
    "not in place": lambda mem: mem * 0.5,
}


@pytest.mark.parametrize("when", [{5}, set(range(STEPS))])
@pytest.mark.parametrize("edit", EDITS)
def test_a_state_edited_between_steps(net: Twins, x: Tensor, edit: str, when: set[int]) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out, held = [], []
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            if t in when:
                held.append(mem1)
                mem1 = EDITS[edit](mem1)
            out.append(spk2)
        return [torch.stack(out), mem1, mem2, *held]

    net.check(loop, x)


def test_spikes_edited_in_place(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            spk1, mem1 = model.lif1(model.fc1(x[t]), mem1)
            if t == 4:
                spk1[:, ::2] = 0.0
            if t == 6:
                spk1.mul_(3.0)
            spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out.append(spk2)
        return [torch.stack(out), spk1]

    net.check(loop, x)


def test_a_view_edited_changes_its_base(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, x)
        view = kept.mem2[3].view(-1)
        view[::3] = 2.0
        flat = kept.spk2[1].flatten()
        kept.spk2[1].add_(1.0)
        return [kept.mem2[3], view, flat, torch.stack(kept.mem2), torch.stack(kept.spk2)]

    net.check(loop, x)


def test_stacks_are_edited_without_touching_each_other(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, x)
        first, second = torch.stack(kept.spk2), torch.stack(kept.spk2)
        part = torch.stack(kept.mem2[2:6])
        first[2:4] = 7.0
        first *= 2
        part[0] = -1.0
        kept.spk2[5].add_(1)
        return [first, second, part, *kept.spk2, torch.stack(kept.mem2), torch.cat(kept.spk2)]

    net.check(loop, x)


def test_recorded_values_written_into_the_users_tensors(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, x)
        spikes = torch.zeros(STEPS, BATCH, OUTPUTS)
        total = torch.zeros(BATCH, OUTPUTS)
        for t in range(STEPS):
            spikes[t] = kept.spk2[t]
            total += kept.mem2[t]
        scattered = torch.zeros(BATCH, OUTPUTS).scatter_add(
            1, torch.zeros(BATCH, OUTPUTS, dtype=torch.long), kept.mem2[0]
        )
        written = torch.add(kept.spk2[2].detach(), 1, out=torch.empty(BATCH, OUTPUTS))
        return [spikes, total, scattered, written]

    net.check(loop, x)


@pytest.mark.parametrize(
    "change",
    [
        "sgd",
        "adam",
        "load_state_dict",
        "data.mul_",
        "data =",
        "new parameter",
        "re-init",
        "beta",
        "threshold buffer",
    ],
)
def test_parameters_change_between_record_and_read(x: Tensor, change: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, x)
        other = nn.Linear(model.fc1.in_features, HIDDEN)
        if change in ("sgd", "adam"):
            kind = torch.optim.SGD if change == "sgd" else torch.optim.Adam
            optimizer = kind(model.parameters(), lr=0.1)
            sum(p.pow(2).sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
        elif change == "load_state_dict":
            model.fc1.load_state_dict(other.state_dict())
        elif change == "data.mul_":
            model.fc1.weight.data.mul_(3.0)
        elif change == "data =":
            model.fc1.weight.data = other.weight.data
        elif change == "new parameter":
            model.fc1.weight = nn.Parameter(other.weight.detach().clone())
        elif change == "re-init":
            nn.init.normal_(model.fc1.weight)
        elif change == "beta":
            model.lif1.beta.data.fill_(0.1)
        else:
            model.lif2.threshold.fill_(5.0)
        with torch.no_grad():
            return [torch.stack(kept.spk2), torch.stack(kept.mem2), torch.stack(kept.mem1), model(x)[1]]

    Twins(Net()).check(loop, x, backward=False)


@pytest.mark.parametrize("what", ["weight", "beta", "threshold", "bias"])
def test_parameters_change_in_the_middle_of_a_loop(x: Tensor, what: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            if t == 6:
                with torch.no_grad():
                    tensor = {
                        "weight": model.fc2.weight,
                        "bias": model.fc1.bias,
                        "beta": model.lif2.beta,
                        "threshold": model.lif2.threshold,
                    }[what]
                    tensor.mul_(0.5)
            _, mem1, _spk2, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        return [torch.stack(out).detach()]

    Twins(Net()).check(loop, x, backward=False)


def test_a_parameter_changed_between_forward_and_backward_raises_as_in_stock(net: Twins, x: Tensor) -> None:
    for model in (net.stock, net.fast):
        loss = model(x.clone().requires_grad_())[1].sum()
        with torch.no_grad():
            model.fc2.weight.mul_(0.5)
        with pytest.raises(RuntimeError, match="inplace operation"):
            loss.backward()


def test_a_parameter_moved_within_its_memory_in_the_middle_of_a_loop(x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        original = model.fc2.weight.data
        both = torch.stack([original, -original])
        mem1, mem2 = start(model)
        out = []
        for t, frame in enumerate(x):
            model.fc2.weight.data = both[t // 6]
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            out += [spk2, mem2]
        values = torch.stack(out)
        model.fc2.weight.data = original
        return values

    Twins(Net()).check(loop, x, backward=False)


def test_parameters_frozen_in_the_middle_of_a_loop(net: Twins, x: Tensor) -> None:
    """Steps taken meanwhile say nothing of them, as in stock."""

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        frozen = model.fc1.weight, model.fc2.bias, model.lif1.beta, model.lif1.threshold
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            if t in (4, 7):
                for parameter in frozen:
                    parameter.requires_grad_(t == 7)
            _, mem1, _spk2, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        return out

    net.check(loop, x)


@pytest.mark.parametrize("during", [False, True])
def test_parameters_frozen_during_the_loop_alone(net: Twins, x: Tensor, during: bool) -> None:
    """What counts is what they were at their steps, not when the recording is executed."""

    def loop(model: Net, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        model.requires_grad_(not during)
        mem1, mem2 = start(model)
        total: Any = 0
        for frame in x:
            _, mem1, _spk2, mem2 = step(model, frame, mem1, mem2)
            total = total + mem2
        model.requires_grad_(during)
        loss = (total**2).sum()
        loss.backward()
        model.requires_grad_(True)
        assert x.grad is not None
        return x.grad

    net.check(loop, x, backward=False)


def test_options_changed_in_the_middle_of_a_loop(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            if t == 5:
                model.lif1.reset_delay = not model.lif1.reset_delay
            _, mem1, _spk2, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        model.lif1.reset_delay = True
        return torch.stack(out)

    net.check(loop, x)


def test_the_membrane_attribute_follows_every_call(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        seen = []
        for t in range(STEPS):
            _, mem1, _spk2, mem2 = step(model, x[t], mem1, mem2)
            assert model.lif1.mem is mem1 and model.lif1.mem.shape == (BATCH, HIDDEN)
            if t == 7:
                seen.append(model.lif1.mem + 0)
        return [*seen, model.lif2.mem, mem2]

    net.check(loop, x)


class _Between:
    """What happens to a neuron between two sequences; the second one must see it."""

    @staticmethod
    def nothing(lif: Any) -> None:
        pass

    @staticmethod
    def data_written(lif: Any) -> None:
        lif.beta.data.fill_(0.5)

    @staticmethod
    def written_by_numpy(lif: Any) -> None:
        lif.threshold.numpy()[...] = 0.15

    @staticmethod
    def through_the_storage(lif: Any) -> None:
        lif.beta.untyped_storage().copy_(torch.tensor(0.4).untyped_storage())

    @staticmethod
    def replaced(lif: Any) -> None:
        lif.beta = torch.tensor(0.3)

    @staticmethod
    def loaded(lif: Any) -> None:
        lif.load_state_dict({name: value * 0.9 for name, value in lif.state_dict().items()})

    @staticmethod
    def learned_from_now_on(lif: Any) -> None:
        lif.beta.requires_grad_()

    @staticmethod
    def other_slope(lif: Any) -> None:
        lif.spike_grad = snn.surrogate.fast_sigmoid(7.0)

    @staticmethod
    def slope_in_the_closure(lif: Any) -> None:
        lif.spike_grad.__closure__[0].cell_contents = 5.0

    @staticmethod
    def other_reset(lif: Any) -> None:
        lif.reset_mechanism_val.fill_(1)
        lif.reset_delay = False

    @staticmethod
    def shared(lif: Any) -> None:
        lif.share_memory()
        lif.beta.fill_(0.7)

    @staticmethod
    def one_per_neuron(lif: Any) -> None:
        lif.beta = torch.linspace(0.5, 0.9, OUTPUTS)


@pytest.mark.parametrize("happens", [name for name in vars(_Between) if not name.startswith("_")])
def test_a_neuron_between_two_sequences(x: Tensor, happens: str) -> None:
    grads = []

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        for _ in range(2):
            torch.stack(record(model, x).spk2).sum().backward()
            model.zero_grad()
            getattr(_Between, happens)(model.lif2)
        kept = record(model, x)
        out = [torch.stack(kept.spk2), torch.stack(kept.mem2)]
        if happens == "learned_from_now_on":
            grads.append(torch.autograd.grad(out[1].sum(), model.lif2.beta, retain_graph=True)[0])
        return out

    def net() -> Net:
        return Net(spike_grad=snn.surrogate.fast_sigmoid(25.0))

    Twins(net()).check(loop, x)
    if grads:
        torch.testing.assert_close(*grads)


@torch.no_grad()
def test_what_is_kept_of_a_neuron_stays_with_it(net: Twins, x: Tensor) -> None:
    record(net.fast, x)
    recording.flush()
    runtime = net.fast.lif2.__dict__[RUNTIME]
    (kept,) = runtime.kept.values()
    twin = copy.deepcopy(net.fast)
    assert not twin.lif2.__dict__[RUNTIME].kept
    assert not net.fast.lif1.__dict__[RUNTIME].kept  # its parameters are learned
    record(net.fast, x)
    recording.flush()
    assert list(runtime.kept.values()) == [kept]
    for batch in range(1, 8):
        record(net.fast, x[:, :1].expand(-1, batch, -1))
        recording.flush()
    assert len(runtime.kept) <= 4
