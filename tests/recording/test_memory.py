"""What stays alive: no sequence out of reach, no reference cycles, nothing dense that nobody reads."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparse_backend import recording
from sparse_backend.ops import sequence
from sparse_backend.recording.segment import Segment
from sparse_backend.recording.stream import Stream

from .conftest import BATCH, HIDDEN, STEPS, Net, Twins, record, start, step


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the cycle collector only reference counts free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(kind: type) -> int:
    return sum(issubclass(type(obj), kind) for obj in gc.get_objects())


def test_the_last_state_keeps_no_sequence_alive(net: Twins, x: Tensor, no_collector: None) -> None:
    long = torch.cat([x] * 20)
    with torch.no_grad():
        model = net.fast
        mem1, mem2 = start(model)
        for frame in long:
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
        total = mem2.sum()
    del _, frame, long, x
    assert float(total) == float(mem2.sum())
    assert alive(Stream) == 0 and alive(Segment) <= 1
    values = recording.resolve(mem1)
    assert values.untyped_storage().nbytes() == BATCH * HIDDEN * 4


def test_an_executed_segment_leaves_no_cycle(net: Twins, x: Tensor, no_collector: None) -> None:
    spikes, membranes = net.fast(x)
    (spikes.sum() + membranes.sum()).backward()
    del spikes, membranes
    assert alive(Stream) == 0


def test_a_recording_that_is_dropped_is_freed(net: Twins, x: Tensor, no_collector: None) -> None:
    kept = record(net.fast, x)
    watched = weakref.ref(kept.spk2[3])
    recording.flush()
    del kept
    net.fast.lif1.reset_mem()
    net.fast.lif2.reset_mem()
    assert watched() is None and alive(Stream) == 0


def test_spikes_that_nobody_reads_never_become_dense(
    net: Twins, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[tuple[bool, bool]] = []
    dense: list[int] = []
    from sparse_backend.recording import execute

    original, to_dense = execute.run_layer, sequence.PackedSpikes.to_dense

    def watched(*args: object, **kwargs: object) -> object:
        wanted.append((bool(kwargs["want_spikes"]), bool(kwargs["want_membrane"])))
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "run_layer", watched)
    monkeypatch.setattr(
        sequence.PackedSpikes, "to_dense", lambda self: dense.append(self.width) or to_dense(self)
    )
    model = net.fast
    mem1, mem2 = start(model)
    spikes = []
    for frame in x:
        _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
        spikes.append(spk2)
    torch.stack(spikes).sum().backward()
    assert wanted == [(False, False), (True, False)]
    assert HIDDEN not in dense


def test_membranes_are_written_only_for_those_who_hold_them(
    net: Twins, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_backend.recording import execute

    wanted: list[bool] = []
    original = execute.run_layer

    def watched(*args: object, **kwargs: object) -> object:
        wanted.append(bool(kwargs["want_membrane"]))
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "run_layer", watched)
    mem1, mem2 = start(net.fast)
    kept = []
    for t, frame in enumerate(x):
        _, mem1, spk2, mem2 = step(net.fast, frame, mem1, mem2)
        if t == 4:
            kept.append(mem1)
    spk2.sum()
    assert wanted == [True, False]
    mem1, mem2 = start(net.stock)
    for frame in x[:5]:
        _, mem1, _, mem2 = step(net.stock, frame, mem1, mem2)
    torch.testing.assert_close(kept[0] + 0, mem1, rtol=1e-4, atol=1e-5)


def test_a_constant_input_is_multiplied_once(net: Twins, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_backend.recording import execute

    shapes: list[tuple[int, ...]] = []
    original = execute.run_layer

    def watched(source: object, *args: object, **kwargs: object) -> object:
        if isinstance(source, Tensor):
            shapes.append(tuple(source.shape))
        return original(source, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "run_layer", watched)
    mem1, mem2 = start(net.fast)
    for _ in range(STEPS):
        _, mem1, spk2, mem2 = step(net.fast, x[0], mem1, mem2)
    spk2.sum()
    assert shapes[0] == (BATCH, x.shape[2])


def test_the_input_sequence_is_read_where_it_lies(
    net: Twins, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_backend.recording import execute
    from sparse_backend.torch_private import address

    seen: list[int] = []
    original = execute.run_layer

    def watched(source: object, *args: object, **kwargs: object) -> object:
        if isinstance(source, Tensor):
            seen.append(address(source))
        return original(source, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(execute, "run_layer", watched)
    place = address(x)
    net.fast(x)
    assert seen[0] == place == address(x)


@pytest.mark.parametrize("grad", [True, False])
def test_a_loop_without_end_is_executed_piece_by_piece(
    net: Twins, x: Tensor, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_backend.recording import segment

    monkeypatch.setattr(segment, "MOST_STEPS", 7 if grad else 1000)
    monkeypatch.setattr(segment, "FEWEST_STEPS", 3)
    monkeypatch.setattr(segment, "MOST_ENTRIES", 5 * BATCH * HIDDEN)

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(grad):
            return [torch.stack(record(model, x).spk2)]

    counted = net.check(loop, torch.cat([x, x]), backward=grad)
    assert counted.flushes == (4 if grad else 5)
    assert {reason for reason, _ in counted.reasons} == {"the recording became long", "torch.stack"}


def test_nothing_recorded_survives_in_the_state_dict(net: Twins, x: Tensor) -> None:
    before = {name: value.clone() for name, value in net.fast.state_dict().items()}
    record(net.fast, x)
    after = net.fast.state_dict()
    assert list(before) == list(after)
    for name, value in after.items():
        assert not recording.is_deferred(value) and torch.equal(value, before[name])
