"""Steps in memory that numpy or another process may write to: they count as they were when they were given,
and of a sparse sequence only the events are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sparse_backend.ops import growing_events
from sparse_backend.ops.sequence import PackedSpikes
from sparse_backend.recording import capture, execute

from .conftest import INPUTS, STEPS, Net, Twins, record, same, start, step
from .test_inputs import given


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_events, "_FEWEST_ENTRIES", 1)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the first layers get."""
    found: list[object] = []
    original = execute.run_layer

    def watched(source: object, feed: object, *args: object, **kwargs: object) -> object:
        if feed is not None and feed.weight.shape[1] == INPUTS:  # type: ignore[attr-defined]
            found.append(source)
        return original(source, feed, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "run_layer", watched)
    return found


@pytest.fixture
def spikes(x: Tensor) -> Tensor:
    return x * (torch.rand_like(x) < 0.4)


FOREIGN: dict[str, Callable[[Tensor], Tensor]] = {
    "numpy": lambda x: torch.from_numpy(x.numpy().copy()),
    "shared": lambda x: x.clone().share_memory_(),
    "batch first": lambda x: torch.from_numpy(x.transpose(0, 1).numpy().copy()).transpose(0, 1),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("values", ["ones", "other"])
def test_of_a_sparse_sequence_events_are_kept(
    net: Twins, spikes: Tensor, sources: list[object], kind: str, values: str
) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, FOREIGN[kind](x))
        return [torch.stack(kept.spk2), torch.stack(kept.mem2)]

    counted = net.check(loop, spikes if values == "ones" else spikes * torch.rand_like(spikes).add(0.5))
    assert counted.flushes == 1
    (source,) = sources
    assert isinstance(source, PackedSpikes) and bool(source.val.numel()) is (values == "other")


def test_batches_of_a_loaders_workers(net: Twins, spikes: Tensor, sources: list[object]) -> None:
    data = TensorDataset(spikes.transpose(0, 1).contiguous())
    ((batch,),) = DataLoader(data, batch_size=spikes.shape[1], num_workers=1)
    assert batch.is_shared()

    def loop(model: Net) -> Tensor:
        return torch.stack(record(model, batch.transpose(0, 1)).mem2)

    net.check(loop)
    assert [type(source) for source in sources] == [PackedSpikes]


@pytest.mark.parametrize("when", ["at once", "later", "after a constant"])
def test_of_a_dense_sequence_copies_are_kept(
    net: Twins, x: Tensor, spikes: Tensor, sources: list[object], when: str
) -> None:
    frames = torch.rand_like(x)
    if when == "later":
        frames[:6] = spikes[:6]
    elif when == "after a constant":
        frames[:6] = spikes[0]

    def loop(model: Net, x: Tensor) -> Tensor:
        return torch.stack(record(model, torch.from_numpy(x.numpy().copy())).mem2)

    net.check(loop, frames)
    (source,) = sources
    assert isinstance(source, Tensor) and source.dim() == 3


@pytest.mark.parametrize("unchanged", [2, STEPS])
def test_a_frame_given_again_and_again(
    net: Twins, spikes: Tensor, sources: list[object], unchanged: int
) -> None:
    """A constant input stays one; where it changes, earlier steps count as often as they were given."""

    def loop(model: Net, x: Tensor) -> Tensor:
        array = np.zeros(tuple(x.shape[1:]), dtype=np.float32)
        frame = torch.from_numpy(array)
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            array[:] = x[max(0, t - unchanged + 1)].numpy()
            _, mem1, _, mem2 = step(model, given(net, model, frame), mem1, mem2)
            out.append(mem2)
        return torch.stack(out)

    net.check(loop, spikes)
    (source,) = sources
    if unchanged == STEPS:
        assert isinstance(source, Tensor) and source.dim() == 2
    else:
        assert isinstance(source, PackedSpikes)


@pytest.mark.parametrize("order", ["foreign first", "own first"])
def test_own_and_foreign_frames_in_one_sequence(net: Twins, spikes: Tensor, order: str) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        shared = x.clone().share_memory_()
        frames = [*shared[:5], *x[5:]] if order == "foreign first" else [*x[:5], *shared[5:]]
        return torch.stack(record(model, frames).mem2)

    assert net.check(loop, spikes).flushes == 1


@pytest.mark.parametrize("kind", ["strided", "wider"])
def test_a_frame_of_another_kind_among_them(net: Twins, spikes: Tensor, kind: str) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        frames = list(x.clone().share_memory_())
        if kind == "strided":
            frames[6] = frames[6].t().contiguous().t()
        else:
            frames[6] = torch.from_numpy(torch.cat([frames[6], frames[6]], 1).numpy())[:, :INPUTS]
        return torch.stack(record(model, frames).mem2)

    net.check(loop, spikes)


def test_the_product_is_read(net: Twins, spikes: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, _ = start(model)
        out = []
        for frame in torch.from_numpy(x.numpy().copy()):
            current = model.fc1(frame)
            spk1, mem1 = model.lif1(current, mem1)
            out += [current, spk1]
        return out

    net.check(loop, spikes)


def test_without_gradients(net: Twins, spikes: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack(record(model, torch.from_numpy(x.numpy().copy())).mem2)

    net.check(loop, spikes, backward=False)


@pytest.mark.parametrize("memory", ["shared", "own"])
@pytest.mark.parametrize("where", ["in the kernels", "before it is recorded"])
@pytest.mark.parametrize("when", [1, 2, 5])
def test_a_step_that_was_interrupted_is_given_again(
    net: Twins, spikes: Tensor, memory: str, where: str, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = growing_events.GrowingEvents if where == "in the kernels" else capture.Inputs
    name = "add" if where == "in the kernels" else "append"
    original, calls = getattr(kind, name), 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        result = original(*args)
        calls += 1
        if calls == when:
            raise KeyboardInterrupt
        return result

    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for frame in x.clone().share_memory_() if memory == "shared" else x:
            try:
                current = model.fc1(frame)
            except KeyboardInterrupt:
                current = model.fc1(frame)
            spk1, mem1 = model.lif1(current, mem1)
            _, mem2 = model.lif2(model.fc2(spk1), mem2)
            out.append(mem2)
        return torch.stack(out)

    monkeypatch.setattr(kind, name, interrupted)
    net.check(loop, spikes)


@pytest.mark.parametrize("times", [1, 2])
def test_a_step_for_whose_predecessors_there_was_no_memory_is_given_again(
    net: Twins, spikes: Tensor, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [MemoryError() for _ in range(times)]
    original = growing_events.cpu.to_dense

    def scarce(*args: Any) -> Tensor:
        if failures:
            raise failures.pop()
        return original(*args)

    monkeypatch.setattr(growing_events.cpu, "to_dense", scarce)

    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t, frame in enumerate(x.clone().share_memory_()):
            given = frame.t().contiguous().t() if t >= 6 else frame
            while True:
                try:
                    _, mem1, _, mem2 = step(model, given, mem1, mem2)
                    break
                except MemoryError:
                    continue
            out.append(mem2)
        return torch.stack(out)

    net.check(loop, spikes)
    assert not failures


def test_several_threads_read_a_product(net: Twins, spikes: Tensor) -> None:
    """The step that is read first makes the sequence dense, whoever reads it."""
    for _ in range(10):
        frames = spikes.clone().share_memory_()
        with torch.no_grad():
            currents = [net.fast.fc1(frame) for frame in frames]
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda current: current + 0, currents))
            same("currents", torch.stack(found), net.stock.fc1(frames))


def test_another_default_device(net: Twins, spikes: Tensor) -> None:
    frames = {"sparse": spikes.clone().share_memory_(), "dense": torch.rand_like(spikes).share_memory_()}
    for values in frames.values():
        with torch.no_grad(), torch.device("meta"):
            found = [net.fast.fc1(frame) for frame in values]
            product = torch.stack(found)
        same("currents", product, net.stock.fc1(values).detach())


@pytest.mark.parametrize("memory", ["shared", "own"])
def test_an_interrupted_call_does_not_move_to_the_next_recording(
    net: Twins, spikes: Tensor, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = capture.Inputs.append
    other = (1 - spikes[0]).share_memory_()

    def interrupted(inputs: capture.Inputs, tensor: Tensor, index: int) -> None:
        original(inputs, tensor, index)
        if tensor is other:
            raise KeyboardInterrupt

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t, frame in enumerate(x.clone().share_memory_() if memory == "shared" else x):
            spk1, mem1 = model.lif1(model.fc1(frame), mem1)
            if t == 5:
                with contextlib.suppress(KeyboardInterrupt):
                    model.fc1(other)
                mem2 = torch.zeros(mem2.shape)  # what is recorded of this step moves on
            spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out += [spk2, mem2]
        return out

    monkeypatch.setattr(capture.Inputs, "append", interrupted)
    net.check(loop, spikes)
