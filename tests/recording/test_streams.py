"""Networks whose steps are not a plain chain: shared modules, feedback, exchanged states, skipped steps."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import sparse_backend
from sparse_backend import recording

from .conftest import BATCH, HIDDEN, INPUTS, STEPS, Net, Twins, record, start, step


class Square(nn.Module):
    """Two layers of equal width, so that everything can be connected to everything."""

    def __init__(self) -> None:
        super().__init__()
        self.fc0 = nn.Linear(INPUTS, HIDDEN)
        self.fc1 = nn.Linear(HIDDEN, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.lif1 = snn.Leaky(0.9, threshold=0.3)
        self.lif2 = snn.Leaky(0.8, threshold=0.3, learn_beta=True)


def zeros() -> Tensor:
    return torch.zeros(BATCH, HIDDEN)


def shared_linear(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, out = zeros(), zeros(), []
    for frame in x:
        spk, mem1 = m.lif1(m.fc1(m.fc0(frame)), mem1)
        spk, mem2 = m.lif2(m.fc1(spk), mem2)
        out.append(spk)
    return [torch.stack(out), mem2]


def one_neuron_as_two_layers(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, out = zeros(), zeros(), []
    for frame in x:
        spk, mem1 = m.lif1(m.fc0(frame), mem1)
        spk, mem2 = m.lif1(m.fc1(spk), mem2)
        out.append(spk)
    return [torch.stack(out), mem1, mem2]


def feedback(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, spk2, out = zeros(), zeros(), zeros(), []
    for frame in x:
        spk1, mem1 = m.lif1(m.fc0(frame) + m.fc2(spk2), mem1)
        spk2, mem2 = m.lif2(m.fc1(spk1), mem2)
        out.append(spk2)
    return [torch.stack(out)]


def feedback_without_sum(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, spk2, out = zeros(), zeros(), m.fc0(x[0]), []
    for _ in x:
        spk1, mem1 = m.lif1(m.fc2(spk2), mem1)
        spk2, mem2 = m.lif2(m.fc1(spk1), mem2)
        out.append(spk2)
    return [torch.stack(out)]


def states_exchanged(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, out = zeros(), zeros(), []
    for frame in x:
        spk1, mem1 = m.lif1(m.fc0(frame), mem1)
        spk2, mem2 = m.lif2(m.fc1(spk1), mem2)
        mem1, mem2 = mem2, mem1
        out.append(spk2)
    return [torch.stack(out), mem1, mem2]


def state_of_the_layer_below(m: Square, x: Tensor) -> list[Tensor]:
    mem1, out = zeros(), []
    for frame in x:
        spk1, mem1 = m.lif1(m.fc0(frame), mem1)
        _spk2, mem2 = m.lif2(m.fc1(spk1), mem1)
        out.append(mem2)
    return [torch.stack(out)]


def one_state_used_twice(m: Square, x: Tensor) -> list[Tensor]:
    mem1, out = zeros(), []
    for frame in x:
        spk_a, _mem_a = m.lif1(m.fc0(frame), mem1)
        spk_b, mem_b = m.lif1(m.fc1(spk_a), mem1)
        mem1 = mem_b
        out += [spk_a, spk_b]
    return [torch.stack(out)]


def skipped_steps(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, out = zeros(), zeros(), []
    for t, frame in enumerate(x):
        spk1, mem1 = m.lif1(m.fc0(frame), mem1)
        if t % 3 == 2:
            spk2, mem2 = m.lif2(m.fc1(spk1), mem2)
            out.append(spk2)
    return [torch.stack(out), mem1]


def late_start(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, out = zeros(), zeros(), []
    for t, frame in enumerate(x):
        spk1, mem1 = m.lif1(m.fc0(frame), mem1)
        if t >= 4:
            spk2, mem2 = m.lif2(m.fc1(spk1), mem2)
            out.append(spk2)
    return [torch.stack(out), mem1]


def layer_by_layer(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, hidden, out = zeros(), zeros(), [], []
    for frame in x:
        spk1, mem1 = m.lif1(m.fc0(frame), mem1)
        hidden.append(spk1)
    for spk1 in hidden:
        spk2, mem2 = m.lif2(m.fc1(spk1), mem2)
        out.append(spk2)
    return [torch.stack(out)]


def backward_in_time(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, hidden, out = zeros(), zeros(), [], []
    for frame in x:
        spk1, mem1 = m.lif1(m.fc0(frame), mem1)
        hidden.append(spk1)
    for spk1 in reversed(hidden):
        spk2, mem2 = m.lif2(m.fc1(spk1), mem2)
        out.append(spk2)
    return [torch.stack(out)]


def branches(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, out = zeros(), zeros(), []
    for frame in x:
        current = m.fc0(frame)
        spk1, mem1 = m.lif1(current, mem1)
        spk2, mem2 = m.lif2(current, mem2)
        out.append(m.fc1(spk1) * m.fc2(spk2))
    return [torch.stack(out)]


def branch_restarted(m: Square, x: Tensor) -> list[Tensor]:
    mem0, mem1, mem2, out = zeros(), zeros(), zeros(), []
    for t, frame in enumerate(x):
        spk0, mem0 = m.lif1(m.fc0(frame), mem0)
        if t == 5:
            mem2 = zeros() + 0.1
        a, mem1 = m.lif2(m.fc1(spk0), mem1)
        b, mem2 = m.lif2(m.fc2(spk0), mem2)
        out += [a, b]
    return [torch.stack(out), mem1, mem2]


def spikes_detached_between_layers(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, out, first = zeros(), zeros(), [], []
    for frame in x:
        spk1, mem1 = m.lif1(m.fc0(frame), mem1)
        spk2, mem2 = m.lif2(m.fc1(spk1.detach()), mem2)
        first.append(spk1)
        out.append(spk2)
    return [torch.stack(out), torch.stack(first), torch.stack([s.detach() for s in first])]


def state_restarted_every_few_steps(m: Square, x: Tensor) -> list[Tensor]:
    mem1, mem2, out = zeros(), zeros(), []
    for t, frame in enumerate(x):
        if t % 4 == 0:
            mem2 = zeros()
        spk1, mem1 = m.lif1(m.fc0(frame), mem1)
        spk2, mem2 = m.lif2(m.fc1(spk1), mem2)
        out.append(spk2)
    return [torch.stack(out), mem1, mem2]


def neuron_on_real_currents(m: Square, x: Tensor) -> list[Tensor]:
    mem1, out = zeros()[:, :INPUTS], []
    for frame in x:
        spk, mem1 = m.lif2(frame * 0.7, mem1)
        out.append(spk)
    return [torch.stack(out), mem1]


def currents_kept(m: Square, x: Tensor) -> list[Tensor]:
    mem1, currents, out = zeros(), [], []
    for frame in x:
        current = m.fc0(frame)
        spk, mem1 = m.lif1(current, mem1)
        currents.append(current)
        out.append(spk)
    return [torch.stack(out), torch.stack(currents), currents[2]]


@pytest.mark.parametrize(
    "loop",
    [
        shared_linear,
        one_neuron_as_two_layers,
        feedback,
        feedback_without_sum,
        states_exchanged,
        state_of_the_layer_below,
        one_state_used_twice,
        skipped_steps,
        late_start,
        layer_by_layer,
        backward_in_time,
        branches,
        branch_restarted,
        spikes_detached_between_layers,
        state_restarted_every_few_steps,
        neuron_on_real_currents,
        currents_kept,
    ],
)
def test_topology(loop: Any, x: Tensor) -> None:
    Twins(Square()).check(loop, torch.cat([x, x]), backward=loop is not neuron_on_real_currents)


@pytest.mark.parametrize(
    ("loop", "flushes"),
    [
        (layer_by_layer, 1),
        (branches, STEPS),
        (spikes_detached_between_layers, 1),
        (state_restarted_every_few_steps, 3),
        (currents_kept, 1),
    ],
)
def test_topology_that_needs_few_flushes(loop: Any, flushes: int, x: Tensor) -> None:
    assert Twins(Square()).check(loop, x).flushes <= flushes


def test_a_smaller_last_batch(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        return [torch.stack(record(model, part).spk2) for part in (x, x[:, :2], x[:3, 2:])]

    net.check(loop, x)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "double", "state_dict", "to"])
def test_a_model_copied_or_converted_in_the_middle_of_a_recording(net: Twins, x: Tensor, how: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            if t == 6:
                if how == "deepcopy":
                    twin = copy.deepcopy(model)
                    out.append(twin.lif2(twin.fc2(torch.zeros(BATCH, HIDDEN)), mem2)[1])
                elif how == "pickle":
                    assert pickle.loads(pickle.dumps(model.lif2.mem)).shape == mem2.shape
                elif how == "double":
                    model.double().float()
                elif how == "state_dict":
                    model.load_state_dict(copy.deepcopy(model.state_dict()))
                else:
                    model.to(torch.float32)
            _, mem1, _, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        return [torch.stack(out)]

    def under_no_grad(model: Net, x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return loop(model, x)

    net.check(under_no_grad, x, backward=False)


def test_restore_in_the_middle_of_a_recording(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            if t == 6:
                sparse_backend.restore(model)
            _, mem1, _, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        return [torch.stack(out)]

    net.check(loop, x)
    assert type(net.fast.lif1) is snn.Leaky


def test_flush_executes_and_says_where(net: Twins, x: Tensor) -> None:
    kept = record(net.fast, x)
    assert recording.is_deferred(kept.spk2[0])
    kept.spk2[0].sum()
    ((reason, line),) = recording.flush_reasons()
    assert "sum" in reason
    assert "test_streams.py" in line and "kept.spk2[0].sum()" in line


def test_wide_outputs_are_all_usable_after_a_flush(net: Twins, x: Tensor) -> None:
    kept = record(net.fast, x)
    recording.flush()
    expected = record(net.stock, x)
    for values, references in zip(kept, expected, strict=True):
        for value, reference in zip(values, references, strict=True):
            assert value.shape == reference.shape
            torch.testing.assert_close(recording.resolve(value), reference, rtol=1e-4, atol=1e-5)
