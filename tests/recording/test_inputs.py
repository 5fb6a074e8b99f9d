"""Inputs count as they were when they were given, however their memory is reused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_backend.ops import growing_events

from .conftest import BATCH, HIDDEN, INPUTS, OUTPUTS, STEPS, Net, Twins, record, start, step


def given(twins: Twins, model: Net, frame: Tensor) -> Tensor:
    """The frame; a copy for the stock model, whose backward pass refuses (or misuses) memory that changed."""
    return frame.clone() if model is twins.stock else frame


def test_gradients_of_the_input_and_the_initial_state(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor, mem1: Tensor) -> list[Tensor]:
        mem2 = model.lif2.init_leaky()
        out = []
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            out.append(spk2)
        return [torch.stack(out), mem2]

    counted = net.check(loop, x.clone().requires_grad_(), torch.rand(BATCH, HIDDEN).requires_grad_())
    assert counted.flushes == 1


def test_an_initial_state_that_is_the_result_of_a_computation(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor, start: Tensor) -> Tensor:
        mem1, mem2 = start.sigmoid(), model.lif2.init_leaky()
        out = []
        for t in range(STEPS):
            _, mem1, _spk2, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        return torch.stack(out)

    net.check(loop, x, torch.randn(BATCH, HIDDEN).requires_grad_())


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_buffer_reused_for_every_step(net: Twins, x: Tensor, requires_grad: bool) -> None:
    def loop(model: Net, x: Tensor, scale: Tensor) -> Tensor:
        buffer = torch.empty(BATCH, INPUTS)
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            buffer = buffer.detach() if requires_grad else buffer
            buffer.copy_(x[t] * scale if requires_grad else x[t])
            _, mem1, _spk2, mem2 = step(model, given(net, model, buffer), mem1, mem2)
            out.append(mem2)
        return torch.stack(out)

    assert net.check(loop, x, torch.ones((), requires_grad=True)).flushes == 1


@pytest.mark.parametrize("how", ["zero_", "data", "base", "set_data", "resize"])
def test_the_input_changes_after_it_was_given(net: Twins, x: Tensor, how: str) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        kept = record(model, given(net, model, x))
        if how == "zero_":
            x.zero_()
        elif how == "data":
            x.data.fill_(2.0)
        elif how == "base":
            x[3:5] = 1.0
        elif how == "set_data":
            x.data = torch.ones_like(x)
        else:
            x.resize_(1).fill_(3.0)
        return torch.stack(kept.mem2)

    net.check(loop, x)


def test_a_view_changed_through_its_base_between_steps(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        base = torch.zeros(BATCH, INPUTS + 2)
        view = base[:, 1:-1]
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            base[:, 1:-1] = x[t]
            _, mem1, _spk2, mem2 = step(model, given(net, model, view), mem1, mem2)
            out.append(mem2)
        return torch.stack(out)

    net.check(loop, x)


@pytest.mark.parametrize("when", ["from_numpy", "numpy before", "numpy after"])
def test_memory_that_numpy_writes_to(net: Twins, x: Tensor, when: str) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        if when == "from_numpy":
            array = np.zeros((BATCH, INPUTS), dtype=np.float32)
            frame = torch.from_numpy(array)
        else:
            frame = torch.zeros(BATCH, INPUTS)
            array = frame.numpy() if when == "numpy before" else None
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            if array is None:
                frame.copy_(x[t])
            else:
                array[:] = x[t].numpy()
            _, mem1, _spk2, mem2 = step(model, given(net, model, frame), mem1, mem2)
            out.append(mem2)
            if t == 4 and when == "numpy after":
                array = frame.numpy()
        return torch.stack(out)

    net.check(loop, x)


@pytest.mark.parametrize("constant", [True, False])
def test_numpys_memory_is_copied_once(
    net: Twins, x: Tensor, constant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_backend.recording import execute

    sources: list[Tensor] = []
    original = execute.run_layer

    def watched(source: object, *args: object, **kwargs: object) -> object:
        if isinstance(source, Tensor):
            sources.append(source)
        return original(source, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "run_layer", watched)

    def loop(model: Net, x: Tensor) -> Tensor:
        frames = torch.from_numpy(x.numpy().copy())
        return torch.stack(record(model, frames[:1].expand(x.shape) if constant else frames).mem2)

    net.check(loop, x)
    (source,) = sources
    assert source.dim() == (2 if constant else 3) and source.is_contiguous()
    assert constant or source.untyped_storage().nbytes() > 2 * source.nbytes


def test_slices_of_a_sequence_that_requires_grad(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        frames = list((x * 2).unbind(0))
        seen: list[Tensor] = []
        frames[2].register_hook(lambda gradient: seen.append(gradient.clone()) or gradient * 2)
        mem2 = record(model, torch.stack(frames)).mem2
        mem1, last = start(model)
        for frame in frames:
            _, mem1, _, last = step(model, frame, mem1, last)
        return [torch.stack(mem2), last]

    net.check(loop, x.clone().requires_grad_())


def test_lazily_negated_frames_states_and_gradients(net: Twins, x: Tensor) -> None:
    """Torch negates the imaginary part of a conjugate when it is read, and not in memory."""

    def negated(value: Tensor) -> Tensor:
        return torch.complex(value, value).conj().imag

    def loop(model: Net, x: Tensor) -> Tensor:
        lazy, mem2 = negated(-x), model.lif2.init_leaky()
        assert lazy.is_neg()
        mem1 = negated(torch.full((BATCH, HIDDEN), -0.2))
        out = []
        for t in range(STEPS):
            _, mem1, _spk2, mem2 = step(model, lazy[t] if t > 2 else x[t], mem1, mem2)
            out.append(mem2)
        mem = torch.stack(out)
        return torch.view_as_real(torch.complex(x[..., :OUTPUTS], mem).conj().resolve_conj())

    net.check(loop, x)


def test_a_frame_that_differs_from_a_plain_one_by_its_sign_alone(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            _, mem1, _, mem2 = step(model, torch._neg_view(x[t]) if t > 5 else x[t], mem1, mem2)
            out.append(mem2)
        return torch.stack(out)

    net.check(loop, x)


def test_a_broadcast_input(net: Twins, x: Tensor) -> None:
    net.check(lambda m, x: torch.stack(record(m, x.expand(STEPS, BATCH, INPUTS)).mem2), x[:1, :1])
    net.check(lambda m, x: torch.stack(record(m, x.transpose(1, 2)).mem2), torch.rand(STEPS, INPUTS, BATCH))


def test_frames_in_any_order_and_with_repeats(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        order = [3, 2, 1, 1, 5, 0, 7, 9, 9, 9]
        mem1, mem2 = start(model)
        out = []
        for t in order:
            _, mem1, _, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
        return torch.stack(out)

    net.check(loop, x)
    net.check(lambda m, x: torch.stack(record(m, x.flip(0)).mem2), x)


def test_frames_from_several_tensors(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor, y: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            _, mem1, _, mem2 = step(model, (x if t % 3 else y)[t], mem1, mem2)
            out.append(mem2)
        return torch.stack(out)

    net.check(loop, x, torch.rand(STEPS, BATCH, INPUTS).requires_grad_())
    net.check(loop, x, torch.rand(STEPS, BATCH, INPUTS))


def test_frames_without_gradient_taken_from_a_tensor_with_one(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            frames = [x[t] for t in range(STEPS)]
        return torch.stack(record(model, torch.stack([f * 1 for f in frames])).mem2) + sum(
            model.fc2(model.lif1(model.fc1(frame), model.lif1.init_leaky())[0]).sum() for frame in frames
        )

    net.check(loop, x.clone().requires_grad_())


ORDERS = {
    "forwards": range(STEPS),
    "backwards": range(STEPS - 1, -1, -1),
    "every other": range(0, STEPS, 2),
    "one alone": [3] * STEPS,
    "twice each": [t // 2 for t in range(STEPS)],
    "in and out of order": [0, 1, 2, 7, 3, 3, 3, 4, 5, 9, 8, 7],
    "two in turn": [2, 5] * 6,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", ["steps first", "batch first", "features halved"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_steps_of_one_tensor_in_any_order(
    net: Twins, x: Tensor, order: str, layout: str, requires_grad: bool
) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        whole = {
            "steps first": lambda: x,
            "batch first": lambda: x.transpose(0, 1).contiguous().transpose(0, 1),
            "features halved": lambda: x.repeat_interleave(2, dim=2)[:, :, ::2],
        }[layout]()
        mem1, mem2 = start(model)
        out = []
        for t in ORDERS[order]:
            _, mem1, spk2, mem2 = step(model, whole[t], mem1, mem2)
            out += [spk2, mem2]
        return out

    assert net.check(loop, x.clone().requires_grad_(requires_grad)).flushes == 1


@pytest.mark.parametrize("second", ["same strides", "other strides", "same tensor again"])
def test_steps_of_two_tensors(net: Twins, x: Tensor, second: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        other = (1 - x) if second == "same strides" else (1 - x).transpose(0, 1).contiguous().transpose(0, 1)
        frames = [*x[:5], *(x[:5] if second == "same tensor again" else other[4:9]), *x[5:]]
        mem1, mem2 = start(model)
        out = []
        for frame in frames:
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            out += [spk2, mem2]
        return out

    assert net.check(loop, x).flushes == 1


@pytest.mark.parametrize("memory", ["own", "shared"])
@pytest.mark.parametrize("when", [1, 2, 5])
def test_a_step_that_moves_to_the_next_recording_takes_its_input_along(
    net: Twins, x: Tensor, when: int, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_events, "_FEWEST_ENTRIES", 1)
    x = x * (torch.rand_like(x) < 0.4)  # few enough for events

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t, frame in enumerate(x.clone().share_memory_() if memory == "shared" else x):
            spk1, mem1 = model.lif1(model.fc1(frame), mem1)
            if t % 6 == when:
                mem2 = mem2 * mem2.sum()
            spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out += [spk2, mem2]
        return out

    net.check(loop, x)
