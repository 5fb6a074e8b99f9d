"""Running sums over recorded steps, and operations without effect: recorded, with stock's results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparse_backend import recording, surrogates
from sparse_backend.recording import is_deferred

from .conftest import BATCH, OUTPUTS, STEPS, Net, Twins, start, step


def rebound(total: Any, term: Tensor) -> Any:
    return total + term


def reversed_operands(total: Any, term: Tensor) -> Any:
    return term + total


def in_place(total: Any, term: Tensor) -> Any:
    total += term
    return total


def by_function(total: Any, term: Tensor) -> Any:
    return torch.add(term, total)


STARTS: dict[str, Callable[[], Any]] = {
    "0": lambda: 0,
    "0.5": lambda: 0.5,
    "zeros": lambda: torch.zeros(BATCH, OUTPUTS),
    "a tensor with a gradient": lambda: torch.full((BATCH, OUTPUTS), 0.5, requires_grad=True) * 2,
    "a 0-dim tensor": lambda: torch.tensor(0.5),
}


def loop_that_sums(add: Callable[[Any, Tensor], Any], begin: Callable[[], Any]) -> Callable[..., Any]:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        spikes, potentials = begin(), begin()
        for frame in x:
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            spikes, potentials = add(spikes, spk2), add(potentials, mem2)
        return [spikes, potentials, mem2]

    return loop


CASES = [
    (add, begin)
    for add in (rebound, reversed_operands, in_place, by_function)
    for begin in STARTS
    if (add, begin) != (in_place, "a 0-dim tensor")  # in stock, an error
]


@pytest.mark.parametrize(("add", "begin"), CASES)
def test_sums_over_time(net: Twins, x: Tensor, add: Callable[[Any, Tensor], Any], begin: str) -> None:
    loop = loop_that_sums(add, STARTS[begin])
    counted = net.check(loop, x)
    if add is not in_place or begin in ("0", "0.5", "zeros"):
        assert counted.flushes == 1


def test_a_sum_beside_gradients_of_each_term(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        total: Any = 0
        kept = []
        for frame in x:
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            total += mem2
            kept.append(mem2)
        return [total, torch.stack(kept), sum(kept)]  # type: ignore[list-item]

    assert net.check(loop, x).flushes == 1


@pytest.mark.parametrize(
    "seen_by", ["a name", "a list", "a view", "its base", "detach", "numpy", "the graph"]
)
def test_others_that_see_the_tensor_that_is_added_to(net: Twins, x: Tensor, seen_by: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        base = torch.full((2, BATCH, OUTPUTS), 0.25)
        total = base[1] if seen_by == "its base" else torch.full((BATCH, OUTPUTS), 0.25)
        factor = torch.ones(BATCH, OUTPUTS, requires_grad=True)
        others: list[Any] = {
            "a name": lambda: [total],
            "a list": lambda: [total, total],
            "a view": lambda: [total.view(-1), total[0]],
            "its base": lambda: [base],
            "detach": lambda: [total.detach(), total.data],
            "numpy": lambda: [torch.from_numpy(total.numpy())],
            "the graph": lambda: [total + 0, (factor + total).detach()],
        }[seen_by]()
        for frame in x:
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            total += spk2.detach()
        return [total, *others, mem2]

    assert net.check(loop, x).flushes == 1 or seen_by not in ("a name", "a list")


def test_a_partial_sum_read_in_the_middle(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        total: Any = 0
        seen = []
        for t, frame in enumerate(x):
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            total = total + spk2
            if t % 5 == 3:
                seen.append(total.mean())
        return [*seen, total]

    assert net.check(loop, x).flushes <= 3


def test_partial_sums_are_kept(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        total: Any = 0
        seen = []
        for frame in x:
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            total = total + mem2
            seen.append(total)
        return [torch.stack(seen), seen[2], seen[5] * 2, seen[7]]

    assert net.check(loop, x).flushes == 1


def test_an_older_partial_sum_is_added_to(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        total: Any = 0
        sums = []
        for t, frame in enumerate(x):
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            total = (sums[2] if t == 5 else total) + mem2
            sums.append(total)
        return sums

    net.check(loop, x)


def test_all_that_hold_a_sum_see_it_grow(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        total: Any = 0
        seen: list[Tensor] = []
        for t, frame in enumerate(x):
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            total += mem2
            if t in (2, 6):
                seen.append(total if t == 2 else total.detach())
        return [*seen, total]

    net.check(loop, x)


@pytest.mark.parametrize("what", ["other terms", "a step left out", "twice a step", "two sums", "detached"])
def test_sums_that_are_not_regular(net: Twins, x: Tensor, what: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        total: Any = 0
        other: Any = 0
        for t, frame in enumerate(x):
            _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
            total += mem2.detach() if what == "detached" else mem2
            if what == "other terms" and t == 4:
                total += spk2
            elif what == "a step left out" and t != 4:
                other = other + spk2
            elif what == "twice a step":
                total += mem2
            elif what == "two sums":
                other = other + mem2
        return [total, mem2] if isinstance(other, int) else [total, other, mem2]

    net.check(loop, x)


def test_a_sum_crosses_a_segment(net: Twins, x: Tensor) -> None:
    """The step that is under way when a recording is executed moves to the next one, with its sum."""

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        first: Any = 0
        second: Any = 0
        for t, frame in enumerate(x):
            spk1, mem1 = model.lif1(model.fc1(frame), mem1)
            first += spk1
            if t == 5:
                mem2 = torch.zeros_like(mem2)
            _, mem2 = model.lif2(model.fc2(spk1), mem2)
            second = second + mem2
        return [first, second, mem1]

    net.check(loop, x)


def test_hooks_on_a_sum(net: Twins, x: Tensor) -> None:
    found: list[Tensor] = []

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        total: Any = 0
        for t, frame in enumerate(x):
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            total = total + mem2
            if t == 4:
                half = total
        half.register_hook(lambda gradient: found.append(gradient.clone()))
        return [total]

    net.check(loop, x)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("loop_grad", [True, False])
def test_a_sum_in_float64(loop_grad: bool) -> None:
    torch.manual_seed(3)
    twins = Twins(Net(spike_grad=surrogates.atan(2.0)).double())
    x = (torch.rand(STEPS, BATCH, 9) < 0.4).double()

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(loop_grad):
            mem1, mem2 = (m.double() for m in start(model))
            total: Any = 0
            for frame in x:
                _, mem1, _, mem2 = step(model, frame, mem1, mem2)
                total = total + mem2
            return [total]

    twins.check(loop, x, backward=loop_grad)
    torch.testing.assert_close(
        recording.resolve(loop(twins.fast, x)[0]), loop(twins.stock, x)[0], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("module", [nn.Dropout(0.0), nn.Dropout(0.4).eval(), nn.Identity()])
def test_modules_without_effect(net: Twins, x: Tensor, module: nn.Module) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for frame in x:
            spk1, mem1 = model.lif1(model.fc1(frame), mem1)
            dropped = module(spk1)
            assert dropped is spk1
            spk2, mem2 = model.lif2(model.fc2(dropped), mem2)
            out.append(spk2)
        return [torch.stack(out), mem1]

    assert net.check(loop, x).flushes == 1


def test_dropout_with_an_effect(net: Twins, x: Tensor) -> None:
    drop = nn.Dropout(0.4)

    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for frame in x:
            spk1, mem1 = model.lif1(model.fc1(frame), mem1)
            spk2, mem2 = model.lif2(model.fc2(drop(spk1)), mem2)
            out.append(spk2)
        return [torch.stack(out)]

    net.check(loop, x)


def test_a_sum_stays_unread(net: Twins, x: Tensor) -> None:
    spikes, potentials, _ = loop_that_sums(in_place, STARTS["0"])(net.fast, x)
    assert is_deferred(spikes) and is_deferred(potentials) and spikes.shape == (BATCH, OUTPUTS)


@pytest.mark.parametrize("where", ["current", "spikes", "membrane", "another factor at a step", "and summed"])
@pytest.mark.parametrize("divide", [False, True])
def test_products_with_a_number(net: Twins, x: Tensor, where: str, divide: bool) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out, total = [], 0
        for t, frame in enumerate(x):
            factor = 0.3 if where == "another factor at a step" and t == 4 else 2
            current = model.fc1(frame)
            if where != "spikes":
                current = current / 0.75 if divide else factor * current
            spk1, mem1 = model.lif1(current, mem1)
            if where in ("spikes", "another factor at a step"):
                spk1 = spk1 / 3 if divide else spk1 * factor
            spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out.append(mem2 * 3 if where == "membrane" else spk2)
            if where == "and summed":
                total = total + mem2 / 12
        return [torch.stack(out), mem1, *([total] if isinstance(total, Tensor) else [])]

    assert net.check(loop, x).flushes == 1 or where == "another factor at a step"


def test_a_product_is_no_alias(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        for frame in x:
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            out.append(mem2 * 1.0)
        out[-1].mul_(2)
        return [torch.stack(out), mem2]

    net.check(loop, x)
