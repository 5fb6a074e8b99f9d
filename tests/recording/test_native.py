"""Ordinary steps are taken up natively, and nothing that makes a step extraordinary is passed by."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import sparse_backend
import sparse_backend.adapters.snntorch.base as snntorch_base
from sparse_backend import recording
from sparse_backend.adapters import feeds
from sparse_backend.adapters.snntorch import AcceleratedLeaky
from sparse_backend.recording import native

from .conftest import STEPS, Hidden, Net, Twins, record, start, step


@pytest.fixture
def taken(recorder: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many calls were taken up natively, of Linears ("feed") and neurons ("step")."""
    if recorder == "python":
        pytest.skip("about the native recorder alone")
    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            out = function(*args)
            counts[name] += out is not None
            return out

        return call

    monkeypatch.setattr(feeds, "next_feed", counted("feed", native.next_feed))
    monkeypatch.setattr(snntorch_base, "next_step", counted("step", native.next_step))
    return counts


def test_all_steps_but_the_first_of_a_plain_loop(net: Twins, x: Tensor, taken: Counter[str]) -> None:
    net.check(lambda model, x: list(record(model, x)), x)
    assert taken == {"feed": 2 * (STEPS - 1), "step": 2 * (STEPS - 1)}


def test_all_steps_but_the_first_of_neurons_that_keep_their_state(x: Tensor, taken: Counter[str]) -> None:
    def loop(model: Hidden, x: Tensor) -> list[Tensor]:
        for neuron in (model.layers[2], model.layers[4]):
            neuron.reset_mem()
        return [torch.stack([model(frame)[0] for frame in x])]

    Twins(Hidden()).check(loop, x)
    assert taken == {"feed": 2 * (STEPS - 1), "step": 2 * (STEPS - 1)}


@pytest.fixture
def installed() -> Iterator[None]:
    sparse_backend.install(gradient="exact")
    yield
    sparse_backend.uninstall()


def test_all_steps_but_the_first_where_the_package_is_installed(
    x: Tensor, taken: Counter[str], installed: None
) -> None:
    net = Net()
    spikes, membranes = net(x)
    assert spikes.shape == (STEPS, *membranes.shape[1:])
    assert taken == {"feed": 2 * (STEPS - 1), "step": 2 * (STEPS - 1)}


@pytest.mark.parametrize("when", ["before", "after"])
def test_someone_else_sees_every_call_where_the_package_is_installed(
    when: str, x: Tensor, taken: Counter[str]
) -> None:
    seen = 0

    @contextmanager
    def wrapped() -> Iterator[None]:
        inner = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += isinstance(module, snn.Leaky)
            return inner(module, *args, **kwargs)

        nn.Module.__call__ = call  # type: ignore[method-assign]
        yield
        nn.Module.__call__ = inner  # type: ignore[method-assign]

    @contextmanager
    def installed() -> Iterator[None]:
        sparse_backend.install(gradient="exact")
        yield
        sparse_backend.uninstall()

    first, second = (wrapped, installed) if when == "before" else (installed, wrapped)
    with first(), second():
        Net()(x)
    assert not taken.total()
    assert seen == 2 * STEPS


_WRAPPED_BEFORE = """
import sys, torch, snntorch as snn
seen, inner = [], torch.nn.Module.__call__

def call(module, *args, **kwargs):
    seen.append(isinstance(module, (torch.nn.Linear, snn.Leaky)))
    return inner(module, *args, **kwargs)

torch.nn.Module.__call__ = call
import sparse_backend
fc, lif = torch.nn.Linear(6, 5), snn.Leaky(beta=0.9)
if sys.argv[1] == "install":
    sparse_backend.install(gradient="exact")
else:
    sparse_backend.accelerate(torch.nn.ModuleList([fc, lif]), gradient="exact")
mem = lif.init_leaky()
for frame in torch.rand(9, 4, 6):
    spk, mem = lif(fc(frame), mem)
print(sum(seen))
"""


@pytest.mark.parametrize("how", ["install", "accelerate"])
def test_someone_who_came_before_the_import_sees_every_call(how: str, recorder: str) -> None:
    if recorder == "python":
        pytest.skip("a process of its own")
    command = [sys.executable, "-c", _WRAPPED_BEFORE, how]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1] == "18"


def hooked(m: Net, calls: list[Any]) -> Any:
    return m.lif1.register_forward_hook(lambda module, args, out: (out[0] * 2, out[1]))


def hooked_before(m: Net, calls: list[Any]) -> Any:
    return m.fc2.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))


def hooked_everywhere(m: Net, calls: list[Any]) -> Any:
    return nn.modules.module.register_module_forward_hook(lambda module, args, out: calls.append(1))


def hooked_backward(m: Net, calls: list[Any]) -> Any:
    return m.fc2.register_full_backward_hook(lambda module, inputs, outputs: calls.append(1))


def forward_replaced(m: Net, calls: list[Any]) -> Any:
    forward = m.fc2.forward
    m.fc2.forward = lambda x: forward(x) * 3  # type: ignore[method-assign]

    class Handle:
        def remove(self) -> None:
            del m.fc2.forward  # type: ignore[misc]

    return Handle()


def call_replaced(m: Net, calls: list[Any]) -> Any:
    call = nn.Module.__call__

    def counted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return call(self, *args, **kwargs)

    nn.Module.__call__ = counted  # type: ignore[method-assign]

    class Handle:
        def remove(self) -> None:
            nn.Module.__call__ = call  # type: ignore[method-assign]

    return Handle()


@pytest.mark.parametrize(
    "disturb",
    [hooked, hooked_before, hooked_everywhere, hooked_backward, forward_replaced, call_replaced],
)
def test_a_disturbance_in_the_middle_of_a_loop(net: Twins, x: Tensor, disturb: Any) -> None:
    counts = []

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        calls: list[Any] = []
        mem1, mem2 = start(model)
        out, handle = [], None
        for t, frame in enumerate(x):
            if t == 4:
                handle = disturb(model, calls)
            elif t == 8:
                assert handle is not None
                handle.remove()
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            out += [spk2, mem2]
        counts.append(len(calls))
        return out

    net.check(loop, x)
    assert counts[0] == counts[1]


def test_a_subclass_with_its_own_forward_is_called(x: Tensor) -> None:
    class Doubled(AcceleratedLeaky):
        def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
            spk, mem = super().forward(input_, mem)
            return spk * 2, mem

    class Reference(snn.Leaky):
        def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
            spk, mem = super().forward(input_, mem)
            return spk * 2, mem

    net = Twins(Net())
    net.stock.lif1.__class__ = Reference
    net.fast.lif1.__class__ = Doubled
    net.check(lambda model, x: list(record(model, x)), x)


class _Frames:
    """Counts calls of Python functions named `__call__` in the adapters' files."""

    def __enter__(self) -> _Frames:
        self.count = 0
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _seen(self, frame: Any, event: str, _: object) -> None:
        code = frame.f_code
        ours = code.co_filename in (feeds.__file__, snntorch_base.__file__)
        self.count += ours and event == "call" and code.co_name == "__call__"


def _frames(net: Net, x: Tensor) -> int:
    mem1, mem2 = start(net)
    _, mem1, _, mem2 = step(net, x[0], mem1, mem2)
    with _Frames() as seen:
        for frame in x[1:]:
            _, mem1, _, mem2 = step(net, frame, mem1, mem2)
    recording.flush()
    return seen.count


def test_ordinary_steps_run_no_python_of_ours(net: Twins, x: Tensor, recorder: str) -> None:
    assert _frames(net.fast, x) == (0 if recorder == "native" else 4 * (STEPS - 1))


def test_a_new_call_of_a_class_is_called(
    net: Twins, x: Tensor, recorder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doubled(nn.Linear):
        def __call__(self, input: Tensor) -> Tensor:
            return 2 * super().__call__(input)

    call = feeds.AcceleratedLinear.__call__
    monkeypatch.setattr(feeds.AcceleratedLinear, "__call__", lambda self, input: 2 * call(self, input))
    net.stock.fc1.__class__ = net.stock.fc2.__class__ = Doubled
    net.check(lambda model, x: list(record(model, x)), x)
    monkeypatch.undo()
    native.take_feed_calls(feeds.AcceleratedLinear, vars(feeds))


def test_subclasses_have_their_own_call(net: Twins, x: Tensor) -> None:
    class Counted(AcceleratedLeaky):
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            Counted.calls += 1
            return super().__call__(*args, **kwargs)

    net.fast.lif1.__class__ = Counted
    net.check(lambda model, x: list(record(model, x)), x)
    assert Counted.calls == STEPS


@pytest.mark.parametrize("arguments", ["keyword", "none", "too many", "two for a state of its own"])
def test_unusual_arguments(x: Tensor, arguments: str) -> None:
    def loop(model: Any, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for frame in x:
            cur = model.fc1(input=frame) if arguments == "keyword" else model.fc1(frame)
            if arguments == "none":
                spk1, mem1 = model.lif1(cur)
            elif arguments == "keyword":
                spk1, mem1 = model.lif1(cur, mem=mem1)
            else:
                spk1, mem1 = model.lif1(cur, mem1)
            if arguments == "too many":
                with pytest.raises(TypeError):
                    model.fc2(spk1, mem1)
                with pytest.raises(TypeError):
                    model.lif2(model.fc2(spk1), mem2, mem2)
            spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out += [spk2, mem2]
        return out

    if arguments == "two for a state of its own":
        hidden = Hidden()
        twins = Twins(hidden)
        for model in (twins.stock, twins.fast):
            neuron: Any = model.layers[2]
            with pytest.raises(TypeError, match="mem"):
                neuron(torch.zeros(5, 14), torch.zeros(5, 14))
    else:
        Twins(Net()).check(loop, x)


def test_another_thread_takes_up_no_step(x: Tensor, taken: Counter[str]) -> None:
    """A step is recorded by the thread that recorded the one before; any other computes what it is given."""

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out: list[Tensor] = []
        for frame in x[:4]:
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            out += [spk2, mem2]
        current = model.fc1(x[4])
        counted = taken.copy()
        other = threading.Thread(target=lambda: out.extend(model.lif1(current, mem1)))
        other.start()
        other.join()
        assert taken == counted
        return out

    Twins(Net()).check(loop, x)


def test_attribute_reset_after_ordinary_steps(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        resets = []
        for t, frame in enumerate(x):
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            if t % 4 == 3:
                resets.append(model.lif1.reset)
        return [*resets, mem2]

    net.check(loop, x)


def test_many_loops_leave_nothing_behind(x: Tensor) -> None:
    net = Twins(Net())
    watched = [net.fast.fc1.weight, net.fast.lif1.beta, x, net.fast.fc1, net.fast.lif1]

    def run() -> list[int]:
        with torch.no_grad():
            for _ in range(20):
                record(net.fast, x)
                sparse_backend.recording.flush()
        return [sys.getrefcount(value) for value in watched]

    assert run() == run()
