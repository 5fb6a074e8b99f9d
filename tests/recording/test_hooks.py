"""Hooks on modules, tensors and parameters, and gradients with respect to recorded values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

from sparse_backend.errors import DeferredEscapeError

from .conftest import STEPS, Net, Twins, record, start, step


def with_hook(register: Callable[[Net, list[Any]], Any]) -> Callable[[Net, Tensor], list[Any]]:
    """A loop under a hook; what the hook saw is part of the result."""

    def loop(model: Net, x: Tensor) -> list[Any]:
        seen: list[Any] = []
        handles = register(model, seen)
        try:
            spikes, membranes = model(x)
            (spikes.sum() + membranes.pow(2).sum()).backward()
        finally:
            for handle in handles:
                handle.remove()
        return [spikes.detach(), *seen]

    return loop


def keep(seen: list[Any], value: Tensor) -> None:
    seen.append(value.detach().clone())


HOOKS: dict[str, Callable[[Net, list[Any]], Any]] = {
    "forward": lambda m, seen: [m.lif1.register_forward_hook(lambda mod, args, out: keep(seen, out[1]))],
    "forward on linear": lambda m, seen: [
        m.fc2.register_forward_hook(lambda mod, args, out: keep(seen, out))
    ],
    "changes the output": lambda m, seen: [m.fc2.register_forward_hook(lambda mod, args, out: out * 2)],
    "changes the shape": lambda m, seen: [
        m.fc2.register_forward_hook(lambda mod, args, out: torch.cat([out, out], 1)[:, : out.shape[1]])
    ],
    "pre": lambda m, seen: [m.lif1.register_forward_pre_hook(lambda mod, args: (args[0] + 0.1, *args[1:]))],
    "pre that only looks": lambda m, seen: [
        m.lif2.register_forward_pre_hook(lambda mod, args: seen.append(args[0].shape))
    ],
    "full backward": lambda m, seen: [
        m.fc2.register_full_backward_hook(lambda mod, gi, go: keep(seen, go[0]))
    ],
    "full backward on a neuron": lambda m, seen: [
        m.lif1.register_full_backward_hook(lambda mod, gi, go: keep(seen, gi[0]))
    ],
    "full backward pre": lambda m, seen: [
        m.lif2.register_full_backward_pre_hook(lambda mod, go: keep(seen, go[0]))
    ],
    "on a parameter": lambda m, seen: [m.fc1.weight.register_hook(lambda g: keep(seen, g))],
    "scales a gradient": lambda m, seen: [m.fc1.weight.register_hook(lambda g: g * 0.5)],
    "global forward": lambda m, seen: [
        nn.modules.module.register_module_forward_hook(
            lambda mod, args, out: seen.append(type(mod) is nn.Dropout)
        )
    ],
    "global backward": lambda m, seen: [
        nn.modules.module.register_module_full_backward_hook(
            lambda mod, gi, go: keep(seen, go[0]) if mod is m.fc2 else None
        )
    ],
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("hook", HOOKS)
def test_module_and_parameter_hooks(net: Twins, x: Tensor, hook: str) -> None:
    net.check(with_hook(HOOKS[hook]), x, backward=False)


def test_hooks_that_only_look_do_not_break_the_loop(net: Twins, x: Tensor) -> None:
    assert net.check(with_hook(HOOKS["pre that only looks"]), x, backward=False).flushes == 1


@pytest.mark.parametrize("which", ["spk1", "mem1", "spk2", "mem2"])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("how", ["register_hook", "retain_grad", "autograd.grad"])
def test_gradients_of_recorded_values(x: Tensor, which: str, reset: str, delay: bool, how: str) -> None:
    """Asked for before anything is read, every recorded value has stock's gradient."""

    def loop(model: Net, x: Tensor) -> list[Any]:
        kept = record(model, x)
        values = getattr(kept, which)
        seen: list[Any] = []
        if how == "register_hook":
            for value in values[2:5]:
                value.register_hook(lambda g: keep(seen, g))
        elif how == "retain_grad":
            for value in values:
                value.retain_grad()
        loss = torch.stack(kept.spk2).sum() + torch.stack(kept.mem1).pow(2).sum()
        if how == "autograd.grad":
            return list(torch.autograd.grad(loss, values[:-1], allow_unused=True))
        loss.backward()
        return seen or [value.grad for value in values if value.grad is not None]

    twins = Twins(Net(reset_mechanism=reset, reset_delay=delay))
    if how == "autograd.grad":
        # The loss has been computed by then: only a part of the gradient would arrive.
        with pytest.raises(DeferredEscapeError, match="part of it"):
            twins.check(loop, x, backward=False)
    else:
        twins.check(loop, x, backward=False)


@pytest.mark.parametrize("how", ["register_hook", "retain_grad"])
def test_hooks_after_the_execution_are_refused(net: Twins, x: Tensor, how: str) -> None:
    kept = record(net.fast, x)
    torch.stack(kept.spk2)
    arguments = (lambda g: g,) if how == "register_hook" else ()
    for value in (kept.mem2[3], kept.spk1[3], kept.mem2[-1], kept.spk2[-1]):
        with pytest.raises(DeferredEscapeError, match="part of it"):
            getattr(value, how)(*arguments)


def test_a_hook_in_the_middle_of_a_loop(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Any]:
        mem1, mem2 = start(model)
        seen: list[Any] = []
        out = []
        for t in range(STEPS):
            spk1, mem1, _spk2, mem2 = step(model, x[t], mem1, mem2)
            if t == 5:
                mem1.register_hook(lambda g: keep(seen, g))
                spk1.register_hook(lambda g: g * 2)
            out.append(mem2)
        torch.stack(out).pow(2).sum().backward()
        return seen

    net.check(loop, x, backward=False)


def test_gradients_of_what_was_computed_from_recorded_values(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Any]:
        spikes, membranes = model(x)
        membranes.retain_grad()
        rate = spikes.mean(0)
        (gradient,) = torch.autograd.grad(rate.pow(2).sum(), [rate], retain_graph=True)
        (membranes.pow(2).sum() + rate.sum()).backward()
        return [gradient, membranes.grad]

    net.check(loop, x, backward=False)


@pytest.mark.parametrize(
    "wrap",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        lambda linear: torch.nn.utils.prune.l1_unstructured(linear, "weight", amount=0.3),
        torch.nn.utils.weight_norm,
    ],
    ids=["weight_norm", "spectral_norm", "prune", "old weight_norm"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("when", ["before", "after"])
def test_weights_that_are_computed_at_each_access(
    x: Tensor, wrap: Callable[[nn.Module], Any], when: str
) -> None:
    def build() -> Net:
        torch.manual_seed(5)
        model = Net()
        if when == "before":
            wrap(model.fc1)
        return model

    twins = Twins(build(), build())
    if when == "after":
        for model in (twins.stock, twins.fast):
            torch.manual_seed(5)
            wrap(model.fc1)
    twins.check(lambda m, x: m(x), x)


def test_functional_call_with_other_weights(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Any]:
        other = {name: (p.detach() * 0.5).requires_grad_() for name, p in model.named_parameters()}
        spikes, membranes = torch.func.functional_call(model, other, (x,))
        loss = spikes.sum() + membranes.pow(2).sum()
        return [spikes, *torch.autograd.grad(loss, list(other.values()), retain_graph=True)]

    net.check(loop, x, backward=False)
