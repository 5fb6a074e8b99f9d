"""Deferred tensors are handed out again, and never while anybody could tell."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_backend import recording
from sparse_backend.recording import deferred, native, stream

from .conftest import STEPS, Net, Twins, record, start, step


@pytest.fixture
def died() -> Iterator[list[int]]:
    """One entry per deferred tensor that is gone for good: none is put aside."""
    deaths: list[int] = []
    deferred.Deferred.__del__ = lambda self: deaths.append(1)  # type: ignore[attr-defined]
    yield deaths
    del deferred.Deferred.__del__  # type: ignore[attr-defined]
    if native._native is not None:
        native._native.keep_spares()


@pytest.fixture
def aside(recorder: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many deferred tensors lie put aside, of the kinds made since."""
    if recorder == "python":
        pytest.skip("only the native recorder puts any aside")
    kinds: list[deferred.Blank] = []
    original = deferred.blank

    def blank(*kind: Any) -> deferred.Blank:
        found: deferred.Blank = original(*kind)
        if not any(found is known for known in kinds):
            kinds.append(found)
        return found

    monkeypatch.setattr(stream, "blank", blank)
    deferred.drop_spares()
    return lambda: sum(len(kind.spares) for kind in kinds)


def test_a_loop_makes_few_of_them(net: Twins, x: Tensor, died: list[int]) -> None:
    mem1, mem2 = start(net.fast)
    for frame in x:
        _, mem1, _, mem2 = step(net.fast, frame, mem1, mem2)
    slots = 2 + 2 * 2
    assert len(died) <= slots
    recording.flush()
    del mem1, mem2, _
    net.fast.lif1.reset_mem()
    net.fast.lif2.reset_mem()
    assert 2 * slots <= len(died) <= 3 * slots


def test_those_that_are_held_are_not_used_again(net: Twins, x: Tensor) -> None:
    mem1, mem2 = start(net.fast)
    kept: list[Tensor] = []
    for frame in x:
        values = step(net.fast, frame, mem1, mem2)
        _, mem1, _, mem2 = values
        kept.extend(values)
    assert len({id(value) for value in kept}) == 4 * STEPS


@pytest.mark.parametrize("holder", ["attribute", "detached alias", "view", "detach_"])
def test_what_happened_to_one_stays_with_it(net: Twins, x: Tensor, holder: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        kept: list[Any] = []
        for t in range(STEPS):
            spk1, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            assert not hasattr(spk1, "note") and spk2.requires_grad
            if holder == "attribute":
                spk1.note = t  # type: ignore[attr-defined]
            elif holder == "detached alias":
                kept.append(mem1.detach())
            elif holder == "view":
                kept.append(spk1.view(-1))
            elif t == 3:
                spk2.detach_()
            del spk1
        return [*kept, mem1, spk2, mem2]

    net.check(loop, x)


def test_attributes_kept_by_the_script_are_nobody_elses(net: Twins, x: Tensor) -> None:
    kept: list[dict[str, Any]] = []
    for _ in range(2):  # in the second loop, tensors of the first serve again
        mem1, mem2 = start(net.fast)
        for frame in x:
            spk1, mem1, spk2, mem2 = step(net.fast, frame, mem1, mem2)
            kept += [vars(spk2), vars(spk1)]
            del spk1
        recording.flush()
    assert len({id(attributes) for attributes in kept}) == 4 * STEPS


def test_there_is_an_end_to_what_is_put_aside(net: Twins, x: Tensor, aside: Callable[[], int]) -> None:
    for batch in range(1, 40):
        for value in record(net.fast, torch.rand(STEPS, batch, x.shape[2])).mem2:
            assert value.shape[0] == batch
        recording.flush()
    assert deferred.blank.cache_info().currsize == 32


def test_a_weak_reference_never_leads_to_another_step(net: Twins, x: Tensor) -> None:
    expected = net.stock(x)[0]
    mem1, mem2 = start(net.fast)
    references = []
    for frame in x:
        _, mem1, spk2, mem2 = step(net.fast, frame, mem1, mem2)
        references.append(weakref.ref(spk2))
    reached = [reference() for reference in references]
    assert reached[-1] is spk2
    for value, reference in zip(reached, expected, strict=True):
        assert value is None or torch.equal(value, reference)


def test_a_membrane_of_the_step_before_is_known_to_be_held(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        for frame in x:
            before = mem1
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
        return [before, mem1, mem2]

    net.check(loop, x)


def test_wrappers_of_an_abandoned_step(net: Twins, x: Tensor) -> None:
    """An unfinished step moves to the next segment together with what was handed out for it."""

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t, frame in enumerate(x):
            spk1, mem1 = model.lif1(model.fc1(frame), mem1)
            if t % 3 == 1:
                mem2 = torch.zeros_like(mem2)
            spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out += [mem1, mem2] if t % 2 else [spk1, spk2]
        return out

    net.check(loop, torch.cat([x, x]))


def run(model: Net, x: Tensor) -> Tensor:
    """A loop that keeps all it is given."""
    return torch.stack(record(model, x).mem2)


def test_those_of_a_loop_serve_the_next(net: Twins, x: Tensor, aside: Callable[[], int]) -> None:
    run(net.fast, x)
    first = aside()
    assert first >= 4 * (STEPS - 3)
    kept = record(net.fast, x)
    assert aside() <= first - 4 * (STEPS - 3)
    assert len({id(value) for each in kept for value in each}) == 4 * STEPS
    del kept
    recording.flush()
    for _ in range(3):
        net.check(run, x)
    assert aside() <= first + 2 * 4


def test_none_keeps_a_stream_or_a_result_alive(net: Twins, x: Tensor, aside: Callable[[], int]) -> None:
    kept = record(net.fast, x)
    streams = [weakref.ref(value._source) for value in (kept.spk1[0], kept.mem2[0])]  # type: ignore[attr-defined]
    recording.flush()
    del kept
    net.fast.lif1.reset_mem()
    net.fast.lif2.reset_mem()
    gc.collect()
    assert aside() and not any(reference() is not None for reference in streams)


def test_a_list_that_goes_with_the_last_of_its_stream(net: Twins, x: Tensor) -> None:
    for _ in range(3):
        kept = record(net.fast, x)
        recording.drop_spares()
        recording.flush()
        net.fast.lif1.reset_mem()
        net.fast.lif2.reset_mem()
        del kept
        net.check(run, x)


@pytest.mark.parametrize("what", ["weak reference", "attribute", "read", "detach_", "vars"])
def test_what_something_happened_to_is_not_put_aside(
    net: Twins, x: Tensor, aside: Callable[[], int], what: str
) -> None:
    kept = record(net.fast, x)
    recording.flush()
    before, value = aside(), kept.mem2[3]
    reference = weakref.ref(value) if what == "weak reference" else None
    if what == "attribute":
        value.note = 1  # type: ignore[attr-defined]
    elif what == "read":
        value.sum()
    elif what == "detach_":
        value.detach_()
    attributes = vars(value) if what == "vars" else None
    kept.mem2[3] = kept.mem2[4]
    del value
    assert aside() == before and (reference is None or reference() is None)
    assert attributes is None or attributes["_step"] == 3
    kept.mem2[5] = kept.mem2[4]
    assert aside() == before + 1


def test_none_goes_from_one_mode_to_another(net: Twins, x: Tensor) -> None:
    off, on = torch.inference_mode, torch.enable_grad
    for mode in (off, on, torch.no_grad, off, on):

        def loop(model: Net, x: Tensor, mode: Any = mode) -> Tensor:
            with mode():
                kept = record(model, x)
                with torch._C.DisableTorchFunctionSubclass():
                    linked = {value.requires_grad for value in kept.mem2}
                if model is net.fast:
                    assert linked == {mode is on}
                return torch.stack(kept.mem2)

        net.check(loop, x, backward=mode is on)


def test_a_state_made_for_a_reader_is_not_put_aside(net: Twins, x: Tensor, aside: Callable[[], int]) -> None:
    """What `reset` reads is made under the reader's modes, unlinked from the graph under `no_grad`."""
    mem1, mem2 = start(net.fast)
    for frame in x[:4]:
        _, mem1, _, mem2 = step(net.fast, frame, mem1, mem2)
    with torch.no_grad():
        earlier = recording.previous_state(mem2)
    recording.flush()
    before = aside()
    del earlier
    assert aside() == before


def test_garbage_that_the_collector_finds(net: Twins, x: Tensor) -> None:
    """Cycles through deferred tensors are taken apart, and what was in them is never handed out."""
    for _ in range(3):
        kept: list[Any] = [value for each in record(net.fast, x) for value in each]
        cycle: list[Any] = [kept]
        cycle.append(cycle)
        recording.flush()
        del kept, cycle
        gc.collect()
        net.check(run, x)


def test_a_finalizer_of_other_garbage_reads_one(net: Twins, x: Tensor) -> None:
    read: list[Tensor] = []

    class Reader:
        def __del__(self) -> None:
            read.append(self.value)

    expected = net.stock(x)[1]
    for _ in range(3):
        kept, reader = record(net.fast, x), Reader()
        reader.value, reader.again = kept.mem2[4], reader  # type: ignore[attr-defined]
        recording.flush()
        del kept, reader
        gc.collect()
        others = record(net.fast, x)
        torch.testing.assert_close(read[-1] + 0, expected[4])
        torch.testing.assert_close(torch.stack(others.mem2), expected)


def test_those_that_die_in_another_thread(net: Twins, x: Tensor) -> None:
    for _ in range(4):
        kept = [list(each) for each in record(net.fast, x)]
        recording.flush()

        def drop(kept: list[list[Tensor]] = kept) -> None:
            for each in kept:
                each.clear()

        thread = threading.Thread(target=drop)
        del kept
        thread.start()
        net.check(run, x)
        thread.join()


def test_a_copy_is_not_put_aside_twice(net: Twins, x: Tensor, aside: Callable[[], int]) -> None:
    kept = record(net.fast, x)
    copies = copy.copy(kept.mem2)
    recording.flush()
    before = aside()
    del copies
    assert aside() == before


def test_a_finalizer_of_the_class_is_called(net: Twins, x: Tensor, died: list[int]) -> None:
    run(net.fast, x)
    run(net.fast, x)
    assert len(died) >= 2 * 4 * (STEPS - 1)
