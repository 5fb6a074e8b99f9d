"""A stock model and its accelerated twin run the same loop; values and all gradients are compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import sparse_backend
import sparse_backend.adapters.norse.base as norse_base
import sparse_backend.adapters.snntorch.base as snntorch_base
from sparse_backend import recording
from sparse_backend.adapters import feeds
from sparse_backend.recording import native

STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 12, 5, 9, 14, 4


@pytest.fixture(autouse=True, params=["native", "python"])
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which code takes up the ordinary steps of a loop; everything here holds for both."""
    if request.param == "native" and native.next_step is native.not_known:
        pytest.skip("the native recorder is not built")
    if request.param == "python":
        monkeypatch.setattr(feeds, "next_feed", native.not_known)
        for module in (snntorch_base, norse_base):
            monkeypatch.setattr(module, "next_step", native.not_known)
    return str(request.param)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    recording.flush()
    recording.reset_backoff()
    recording.forget_flush_reasons()
    # utils.reset and detach_hidden reach every neuron that was ever built.
    snn.SpikingNeuron.instances.clear()
    torch.manual_seed(0)
    yield
    recording.flush()


class Net(nn.Module):
    """The tutorials' network: Linear, Leaky, Linear, Leaky, with explicit membranes."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(INPUTS, HIDDEN)
        self.lif1 = snn.Leaky(beta=0.9, learn_beta=True, learn_threshold=True, threshold=0.4, **options)
        self.fc2 = nn.Linear(HIDDEN, OUTPUTS)
        self.lif2 = snn.Leaky(beta=0.8, threshold=0.3, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for step in range(x.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


class Hidden(nn.Module):
    """Neurons that keep their own state; called once per step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(INPUTS, HIDDEN),
            snn.Leaky(beta=0.9, init_hidden=True, threshold=0.4),
            nn.Linear(HIDDEN, OUTPUTS),
            snn.Leaky(beta=0.8, init_hidden=True, output=True, threshold=0.3),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(x)


def start(model: Net) -> tuple[Tensor, Tensor]:
    """Zero membranes."""
    return model.lif1.init_leaky(), model.lif2.init_leaky()


def step(model: Net, x: Tensor, mem1: Tensor, mem2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One time step: (spk1, mem1, spk2, mem2)."""
    spk1, mem1 = model.lif1(model.fc1(x), mem1)
    spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
    return spk1, mem1, spk2, mem2


class Recorded(NamedTuple):
    """Everything that a loop hands out, one entry per step."""

    spk1: list[Tensor]
    mem1: list[Tensor]
    spk2: list[Tensor]
    mem2: list[Tensor]


def record(model: Net, x: Iterable[Tensor]) -> Recorded:
    """Run the loop over x `[T, B, INPUTS]`, or its frames, and keep everything, unread."""
    mem1, mem2 = start(model)
    kept = Recorded([], [], [], [])
    for frame in x:
        values = step(model, frame, mem1, mem2)
        _, mem1, _, mem2 = values
        for held, value in zip(kept, values, strict=True):
            held.append(value)
    return kept


Loop = Callable[..., Any]


class Twins:
    """`check(loop, *inputs)` runs `loop(model, *inputs)` on both and compares results and all gradients."""

    def __init__(self, stock: nn.Module, copied: nn.Module | None = None) -> None:
        self.stock = stock
        self.fast = copy.deepcopy(stock) if copied is None else copied
        # snnTorch's class methods reach the neurons that were built, and a copy is not.
        snn.SpikingNeuron.instances.extend(m for m in self.fast.modules() if isinstance(m, snn.SpikingNeuron))
        sparse_backend.accelerate(self.fast, gradient="exact")

    def run(
        self, model: nn.Module, loop: Loop, inputs: tuple[Any, ...], backward: bool
    ) -> tuple[Any, list[Any]]:
        torch.manual_seed(7)
        model.zero_grad()
        inputs = copy.deepcopy(inputs)
        outputs = loop(model, *inputs)
        flat = list(leaves(outputs))
        if backward:
            torch.manual_seed(8)
            loss = sum((t * torch.randn(t.shape)).sum() for t in flat if t.requires_grad)
            assert isinstance(loss, Tensor), "nothing to differentiate"
            loss.backward()
        gradients = [p.grad for p in model.parameters()]
        gradients += [t.grad for t in leaves(inputs) if t.is_leaf]
        return [resolved(t) for t in flat], gradients

    def check(self, loop: Loop, *inputs: Any, backward: bool = True) -> Counted:
        expected, expected_grads = self.run(self.stock, loop, inputs, backward)
        recording.flush()
        recording.forget_flush_reasons()
        values, gradients = self.run(self.fast, loop, inputs, backward)
        assert len(values) == len(expected)
        for index, (value, reference) in enumerate(zip(values, expected, strict=True)):
            same(f"output {index}", value, reference)
        for index, (value, reference) in enumerate(zip(gradients, expected_grads, strict=True)):
            same(f"gradient {index}", value, reference)
        return Counted(recording.flush_reasons())


class Counted:
    """How often recorded steps were executed during a check, and why."""

    def __init__(self, reasons: dict[tuple[str, str], int]) -> None:
        self.reasons = reasons

    @property
    def flushes(self) -> int:
        return sum(self.reasons.values())


def resolved(tensor: Tensor) -> Tensor:
    return recording.resolve(tensor)


def leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from leaves(list(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from leaves(value)


def same(name: str, value: Tensor | None, reference: Tensor | None) -> None:
    """Spikes equal, everything else to 1e-4 of the largest entry (float32 sums in another order)."""
    assert (value is None) == (reference is None), f"{name}: {value} against {reference}"
    if value is None or reference is None:
        return
    assert value.shape == reference.shape and value.dtype == reference.dtype, name
    assert value.requires_grad == reference.requires_grad, f"{name}: requires_grad={value.requires_grad}"
    a, b = value.detach(), reference.detach()
    if bool(((b == 0) | (b == 1)).all()):
        assert torch.equal(a, b), f"{name}: {int((a != b).sum())} of {a.numel()} spikes differ"
        return
    torch.testing.assert_close(
        a, b, rtol=1e-4, atol=3e-5 * float(b.abs().max()) + 1e-6, msg=lambda m: f"{name}: {m}"
    )


@pytest.fixture
def x() -> Tensor:
    """Input spikes, [T, B, INPUTS]."""
    return (torch.rand(STEPS, BATCH, INPUTS) < 0.4).float()


@pytest.fixture
def net() -> Twins:
    return Twins(Net())


@pytest.fixture
def hidden() -> Twins:
    return Twins(Hidden())
