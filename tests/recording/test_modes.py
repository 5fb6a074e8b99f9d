"""Modes that are set where a loop is recorded, where it is read, or changed in between."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_backend import recording

from .conftest import STEPS, Net, Twins, record, start, step


class Count(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Watch(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def pack(tensor: Tensor) -> tuple[Tensor]:
    return (tensor.detach(),)


def unpack(packed: tuple[Tensor]) -> Tensor:
    return packed[0]


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "enable_grad": torch.enable_grad,
    "anomaly": torch.autograd.detect_anomaly,
    "saved_tensors_hooks": lambda: saved_tensors_hooks(pack, unpack),
    "save_on_cpu": save_on_cpu,
    "dispatch mode": Count,
    "function mode": Watch,
    "default device": lambda: torch.device("cpu"),
}
QUIET = pytest.mark.filterwarnings("ignore:Anomaly Detection")


@QUIET
@pytest.mark.parametrize("mode", MODES)
def test_mode_around_everything(net: Twins, x: Tensor, mode: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        with MODES[mode]():
            spikes, membranes = model(x)
            return [spikes + 0, membranes * 2]

    net.check(loop, x, backward=("grad" not in mode and mode != "inference_mode") or mode == "enable_grad")


@QUIET
@pytest.mark.parametrize("mode", MODES)
def test_mode_around_the_recording_only(net: Twins, x: Tensor, mode: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        with MODES[mode]():
            kept = record(model, x)
        return [kept.mem2[3].clone(), torch.stack(kept.spk2), torch.stack(kept.mem2[2:5])]

    net.check(loop, x, backward=("grad" not in mode and mode != "inference_mode") or mode == "enable_grad")


@QUIET
@pytest.mark.parametrize("mode", MODES)
def test_mode_around_the_reading_only(net: Twins, x: Tensor, mode: str) -> None:
    """What a read under a mode leaves behind is still linked to the graph."""

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, x)
        with MODES[mode]():
            seen = [kept.mem2[3] + 0, torch.stack(kept.spk2)]
            text = repr(kept.mem2[1])
        assert text.startswith("tensor(")
        return [torch.stack(kept.spk2), kept.mem2[3], *([] if mode == "inference_mode" else seen)]

    net.check(loop, x)


@pytest.mark.parametrize(
    "mode", ["no_grad", "inference_mode", "set_grad_enabled(False)", "enable_grad", "saved_tensors_hooks"]
)
def test_mode_toggled_inside_a_step(net: Twins, x: Tensor, mode: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            with MODES[mode]() if t % 4 == 1 else contextlib.nullcontext():
                spk1, mem1 = model.lif1(model.fc1(x[t]), mem1)
            if mode == "inference_mode":
                spk1, mem1 = spk1.clone(), mem1.clone()
            _spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out.append(mem2)
        return [torch.stack(out)]

    net.check(loop, x)


def test_warm_up_without_gradients_in_one_loop(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            with torch.set_grad_enabled(t >= 5):
                _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
                out.append(spk2)
        return [torch.stack(out)]

    assert net.check(loop, x).flushes <= 3


@pytest.mark.parametrize("where", ["everything", "recording", "reading", "linear"])
def test_autocast(net: Twins, x: Tensor, where: str) -> None:
    def autocast(here: bool) -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=here)

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        with autocast(where == "everything"):
            if where == "linear":
                mem1, mem2 = start(model)
                spikes, membranes = [], []
                for frame in x:
                    with autocast(True):
                        current = model.fc1(frame)
                    spk1, mem1 = model.lif1(current.float(), mem1)
                    spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
                    spikes.append(spk2)
                    membranes.append(mem2)
            else:
                with autocast(where in ("everything", "recording")):
                    kept = record(model, x)
                spikes, membranes = kept.spk2, kept.mem2
            with autocast(where in ("everything", "reading")):
                return [torch.stack(spikes), torch.stack(membranes)]

    net.check(loop, x)


def test_fake_tensors_run_upstreams_code(net: Twins, x: Tensor) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        spikes, _ = net.fast(mode.from_tensor(x))
    assert tuple(spikes.shape) == (STEPS, x.shape[1], 4)
    assert not recording.is_deferred(spikes)


def test_read_in_another_thread(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, x)
        seen: list[Tensor] = []
        threads = [threading.Thread(target=lambda t=t: seen.append(kept.mem2[t] * 2)) for t in (1, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen.sort(key=lambda t: float(t.detach().sum()))
        return [*seen, torch.stack(kept.spk2)]

    net.check(loop, x)


def test_three_threads_record_models_of_their_own(x: Tensor) -> None:
    twins = [Twins(Net()) for _ in range(3)]
    failures: list[BaseException] = []
    barrier = threading.Barrier(3)

    def work(mine: Twins) -> None:
        try:
            for _ in range(5):
                barrier.wait()
                values = mine.fast(x)
                values[1].sum().backward()
            expected = mine.stock(x)
            for value, reference in zip(values, expected, strict=True):
                torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-5)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(mine,)) for mine in twins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns five hundred times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 500)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty")
def test_segments_read_while_their_thread_goes_on(net: Twins, x: Tensor) -> None:
    """Another thread reads steps as they are recorded; nothing is lost, nothing is computed differently."""
    long = torch.cat([x] * 5)
    expected = [float(m.detach().sum()) for m in record(net.stock, long).mem2]
    for _ in range(20):
        recording.reset_backoff()
        assert read_beside(net.fast, long) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def read_beside(model: Net, x: Tensor) -> list[float]:
    """The sums of the last membranes, read by one thread while another runs the loop."""
    mem1, mem2 = start(model)
    handed: list[Tensor] = []
    sums: list[float] = []
    done = threading.Event()

    def reader() -> None:
        seen = 0
        while not done.is_set() or seen < len(handed):
            if seen < len(handed):
                sums.append(float(handed[seen].detach().sum()))
                seen += 1

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for frame in x:
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            handed.append(mem2)
    finally:
        done.set()
        thread.join()
    return sums


def test_eval_mode(net: Twins, x: Tensor) -> None:
    net.check(lambda m, x: m.eval()(x), x)
    net.check(lambda m, x: m.train()(x), x)


def test_a_compiled_function_is_given_recorded_values(net: Twins, x: Tensor) -> None:
    compiled = torch.compile(lambda a: (a * 2).sin(), backend="eager")

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, x)
        return [compiled(value) for value in kept.mem2]

    assert net.check(loop, x).flushes == 1


def test_a_compiled_model_is_upstreams_in_one_graph(net: Twins, x: Tensor) -> None:
    compiled = torch.compile(net.fast, backend="eager", fullgraph=True)
    spikes, membranes = compiled(x)
    expected, reference = net.stock(x)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(membranes, reference)


def test_a_compiled_model_after_a_recorded_loop(net: Twins, x: Tensor) -> None:
    record(net.fast, x)
    spikes, _ = torch.compile(net.fast, backend="eager")(x)
    assert torch.equal(spikes, net.stock(x)[0])
