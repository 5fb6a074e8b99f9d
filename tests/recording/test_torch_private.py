"""Each private torch API has a fallback that changes no result; what the package assumes of torch is so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_backend import recording, torch_private
from sparse_backend.errors import DeferredEscapeError
from sparse_backend.recording import native

from .conftest import BATCH, INPUTS, STEPS, Net, Twins, record, start, step
from .test_escapes import Scale

pytestmark = pytest.mark.host


def buffers_reused(model: Net, x: Tensor) -> list[Tensor]:
    buffer = torch.empty(BATCH, INPUTS)
    mem1, mem2 = start(model)
    out = []
    with torch.no_grad():
        for t in range(STEPS):
            buffer.copy_(x[t])
            if t == 6:
                model.fc2.weight.mul_(0.5)
                model.lif2.threshold.mul_(0.9)
            _, mem1, _, mem2 = step(model, buffer, mem1, mem2)
            out.append(mem2)
        model.fc1.weight.zero_()
        return [torch.stack(out)]


def test_without_copy_on_write(net: Twins, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_private, "_lazy_clone", None)
    assert torch_private.copy_on_write(x) is None
    net.check(lambda m, x: m(x), x)
    net.check(lambda m, x: m(x), x.clone().requires_grad_())
    net.check(buffers_reused, x, backward=False)


def test_with_copy_on_write(net: Twins, x: Tensor) -> None:
    assert torch_private.copy_on_write(x) is not None
    net.check(buffers_reused, x, backward=False)


def test_an_alias_keeps_todays_values_and_tells_of_a_write() -> None:
    tensor = torch.arange(6.0)
    before = torch_private.address(tensor)
    alias = torch_private.copy_on_write(tensor)
    assert alias is not None
    assert torch_private.address(alias) == before == torch_private.address(tensor)
    tensor.data.add_(1)
    assert torch_private.address(tensor) != before == torch_private.address(alias)
    assert torch.equal(alias, torch.arange(6.0)) and torch.equal(tensor, torch.arange(6.0) + 1)


def test_a_place_tells_of_a_write_and_forces_no_copy() -> None:
    tensor = torch.arange(6.0)
    alias = torch_private.copy_on_write(tensor)
    assert alias is not None
    before, shared = torch_private.place(tensor), torch_private.address(tensor)
    assert torch_private.place(tensor) == before == torch_private.place(alias)
    assert torch_private.address(tensor) == shared == torch_private.address(alias)
    tensor.data.add_(1)
    assert torch_private.place(tensor) != before == torch_private.place(alias)


def test_a_pointer_for_reading_is_that_of_the_first_element(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.arange(6.0)
    for part in (tensor, tensor[2:], tensor.view(2, 3)[1]):
        assert torch_private.read_pointer(part) == part.data_ptr() == torch_private._address_of_first(part)


def test_memory_that_others_write_to_is_not_aliased() -> None:
    seen_by_numpy = torch.zeros(3)
    seen_by_numpy.numpy()
    shared = torch.zeros(3).share_memory_()
    for tensor in (seen_by_numpy, shared, torch.from_numpy(torch.zeros(3).numpy())):
        assert torch_private.copy_on_write(tensor) is None
        assert torch_private.lazy_clone(tensor).data_ptr() != tensor.data_ptr()


def test_without_the_patch_of_function_apply_no_gradient_is_lost(
    net: Twins, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._functorch import utils

    plain = net.fast
    record(plain, x)
    monkeypatch.setattr(utils, "unwrap_dead_wrappers", lambda args: args)
    result = Scale.apply(record(plain, x).mem2[3], 2.0)
    assert result.requires_grad
    with pytest.raises(DeferredEscapeError, match="resolve"):
        result.sum().backward()


@pytest.mark.parametrize(
    "missing", ["_function_modes", "_dispatch_modes", "_functorch", "_autocast", "_tracing", "_saved_hooks"]
)
def test_a_mode_that_cannot_be_asked_for_stops_the_recording(
    net: Twins, x: Tensor, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> bool:
        return True

    monkeypatch.setattr(torch_private, missing, unknown)
    assert not torch_private.a_look_tells(lambda: True)
    monkeypatch.setattr(torch_private, "_at_rest", lambda: False)
    monkeypatch.setattr(torch_private, "_only_device_modes", lambda: False)
    assert torch_private.modes_matter()
    kept = record(net.fast, x)
    assert not recording.is_deferred(kept.mem2[3])


def test_a_fresh_thread_has_no_modes_and_raises_what_was_raised() -> None:
    with torch.no_grad(), torch.autocast("cpu"):
        seen = torch_private.in_clean_thread(
            lambda: (torch.is_grad_enabled(), torch_private.modes_matter()), grad=True, inference=False
        )
        assert seen == (True, False) and torch_private.modes_matter()

    def broken() -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        torch_private.in_clean_thread(broken, grad=True, inference=False)


def test_below_autograd_is_noticed() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[bool] = []

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(torch_private.below_autograd())
            return func(*args, **(kwargs or {}))

    with Look():
        torch.ones(2) + 1
    assert all(seen) and seen and not torch_private.below_autograd()


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """The native look at torch's modes, while `modes_matter` asks torch itself."""
    if native._native is None:
        pytest.skip("the native recorder is not built")
    monkeypatch.setattr(torch_private, "_at_rest", lambda: False)
    return native._native.at_rest  # type: ignore[no-any-return]


def test_a_look_tells_of_modes(at_rest: Callable[[], bool]) -> None:
    """As tried out on import: where it does not, seven questions are asked at each call."""
    assert at_rest() and (sys.platform != "linux" or torch_private.a_look_tells(at_rest))
    with torch.no_grad():
        assert at_rest()
    with torch.autocast("cpu", torch.bfloat16):
        assert not at_rest()
        with torch.autocast("cpu", enabled=False):
            assert at_rest() and not torch_private.modes_matter()
    seen: list[bool] = []

    def look(value: Tensor) -> Tensor:
        seen.append(at_rest() is not torch_private.modes_matter())
        return value + 1

    torch.vmap(look)(torch.zeros(2))
    torch.vmap(torch.func.grad(look))(torch.zeros(2))
    torch.jit.trace(look, torch.zeros(2))
    for mode in (
        torch.autograd.set_detect_anomaly(True),
        torch.autograd.graph.save_on_cpu(),
        torch.autograd.graph.disable_saved_tensors_hooks("no"),
        torch.overrides.BaseTorchFunctionMode(),
        torch.utils._python_dispatch.TorchDispatchMode(),
    ):
        with mode:
            seen.append(at_rest() is not torch_private.modes_matter())
    assert len(seen) >= 8 and all(seen)
    assert at_rest()


def test_many_saved_tensor_hooks_are_seen_until_the_last_is_gone(at_rest: Callable[[], bool]) -> None:
    """Torch's stack of them grows and shrinks block by block."""
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(torch.autograd.graph.save_on_cpu())
            assert not at_rest()
    assert at_rest()


def test_each_thread_looks_at_its_own_modes(at_rest: Callable[[], bool]) -> None:
    with ThreadPoolExecutor(1) as pool:
        with torch.autograd.graph.save_on_cpu(), torch.autocast("cpu", torch.bfloat16):
            assert not at_rest() and pool.submit(at_rest).result()
        assert at_rest() and pool.submit(at_rest).result()


@pytest.mark.parametrize("blind_to", [None, *range(1, 8)])
def test_a_look_that_does_not_tell_of_a_mode_is_not_relied_on(blind_to: int | None) -> None:
    looks = [True, *[False] * 7, True]  # before, under each of seven modes, after
    if blind_to is not None:
        looks[blind_to] = True
    assert torch_private.a_look_tells(iter(looks).__next__) is (blind_to is None)
    assert not torch_private.a_look_tells(lambda: False)
    assert not torch_private.modes_matter()
