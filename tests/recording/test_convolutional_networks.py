"""Convolutions and pools between neurons, as whole networks, and where they are driven by events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import norse.torch as norse
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparse_backend
from sparse_backend.ops import backend
from sparse_backend.recording.operations import Call

from .conftest import BATCH, STEPS
from .operation_models import SIDE, check, hidden, images, leaky, stacked


class Convolutional(nn.Module):
    """snnTorch's tutorial 6 in small, with a functional pool and explicit membranes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.lif1 = nn.Conv2d(1, 4, 3), leaky()
        self.conv2, self.lif2 = nn.Conv2d(4, 6, 2), leaky()
        self.fc1, self.lif3 = nn.Linear(6 * 2 * 2, 4), leaky()

    def forward(self, x: Tensor, detach: int = 0) -> tuple[Tensor, Tensor]:
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spikes, membranes = [], []
        for time in range(STEPS):
            if detach and time % detach == 0:
                mem1, mem2, mem3 = mem1.detach(), mem2.detach(), mem3.detach()
            frame = x[time] if x.dim() == 5 else x
            spk1, mem1 = self.lif1(functional.max_pool2d(self.conv1(frame), 2), mem1)
            spk2, mem2 = self.lif2(functional.max_pool2d(self.conv2(spk1), 2), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.view(BATCH, -1)), mem3)
            spikes.append(spk3)
            membranes.append(mem3)
        return torch.stack(spikes), torch.stack(membranes)


def test_the_tutorials_convolutional_network() -> None:
    assert check(Convolutional(), lambda m, x: m(x), images()) == 1


def test_in_single_precision() -> None:
    assert check(Convolutional(), lambda m, x: m(x), images(torch.float32)) == 1


def test_a_constant_input() -> None:
    assert check(Convolutional(), lambda m, x: m(x), images()[0].clone().requires_grad_()) == 1


def test_input_gradients() -> None:
    assert check(Convolutional(), lambda m, x: m(x), images().requires_grad_()) == 1


def test_a_constant_input_is_convolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Convolutional()
    sparse_backend.accelerate(model)
    called: list[Tensor] = []

    def counted(call: Call, tensors: Sequence[Tensor]) -> Any:
        called.append(tensors[0])
        return original(call, tensors)

    original = Call.__call__
    monkeypatch.setattr(Call, "__call__", counted)
    image = images(torch.float32)[0]
    torch.testing.assert_close(model(image)[0], model(image.expand(STEPS, *image.shape).contiguous())[0])
    assert sum(not tensor.is_meta and tensor.shape == image.shape for tensor in called) == 1


@pytest.mark.parametrize("every", [1, 3])
def test_truncated_backpropagation(every: int) -> None:
    assert check(Convolutional(), lambda m, x: m(x, detach=every), images()) == 1


def test_an_evaluation_without_gradients() -> None:
    def loop(model: nn.Module, x: Tensor) -> Any:
        with torch.no_grad():
            return model(x)

    assert check(Convolutional(), loop, images(), backward=False) == 1


def test_single_samples_without_a_batch_axis() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lif = nn.Conv2d(1, 3, 3), leaky()

        def forward(self, x: Tensor) -> Tensor:
            mem, out = self.lif.init_leaky(), []
            for frame in x:
                spk, mem = self.lif(functional.max_pool2d(self.conv(frame[0]), 2), mem)
                out.append(spk)
            return torch.stack(out)

    assert check(Single(), lambda m, x: m(x), images()) == 1


class Cells(nn.Module):
    """Norse's example network for MNIST: convolutions, LIF cells, pools of spikes, a leaky readout."""

    def __init__(self) -> None:
        super().__init__()
        p = norse.LIFParameters(method="super", alpha=torch.tensor(100.0), v_th=torch.tensor(0.3))
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 2)
        self.fc1, self.out = nn.Linear(6 * 2 * 2, 8), nn.Linear(8, 4)
        self.lif0, self.lif1, self.lif2, self.readout = (
            *(norse.LIFCell(p) for _ in range(3)),
            norse.LICell(),
        )

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = s2 = so = None
        voltages = []
        for frame in x:
            z, s0 = self.lif0(10 * self.conv1(frame), s0)
            z = functional.max_pool2d(z, 2, 2)
            z, s1 = self.lif1(10 * self.conv2(z), s1)
            z = functional.max_pool2d(z, 2, 2).view(-1, 6 * 2 * 2)
            z, s2 = self.lif2(functional.relu(5 * self.fc1(z)), s2)
            v, so = self.readout(functional.relu(self.out(z)), so)
            voltages.append(v)
        return torch.stack(voltages)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norses_convolutional_network(dtype: torch.dtype) -> None:
    assert check(Cells(), lambda m, x: m(x), images(dtype)) == 1


def test_a_weight_changed_in_the_loop() -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        mem, out = model.lif.init_leaky(), []
        for time, frame in enumerate(x):
            if time == 5:
                with torch.no_grad():
                    model.conv.weight.mul_(1.5)
            spk, mem = model.lif(functional.max_pool2d(model.conv(frame), 2), mem)
            out.append(spk)
        return [torch.stack(out)]

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lif = nn.Conv2d(1, 3, 3), leaky()

    check(Single(), loop, images(), backward=False)


def test_bad_arguments_are_reported_where_they_are_given() -> None:
    model = Convolutional()
    sparse_backend.accelerate(model)
    spk, _ = model.lif1(model.conv1(images(torch.float32)[0]), model.lif1.init_leaky())
    with pytest.raises(RuntimeError, match="channels"):
        functional.conv2d(spk, torch.rand(2, 7, 3, 3))
    with pytest.raises(RuntimeError, match="size"):
        spk + torch.rand(3, 3)


def wide(*between: nn.Module, pool: nn.Module | None = None) -> nn.Sequential:
    """Convolutions with enough channels, on sparse enough input, to be driven by events."""
    first = nn.Sequential(nn.Conv2d(1, 16, 3), *([] if pool is None else [pool]))
    return hidden(
        first, nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), *between), features=400, threshold=1.0
    )


EVENT_DRIVEN = {
    "max pooling": (lambda: wide(pool=nn.MaxPool2d(2)), 2),
    "a pool behind the second": (lambda: wide(nn.MaxPool2d(1), pool=nn.MaxPool2d(2)), 2),
    "average pooling": (lambda: wide(pool=nn.AvgPool2d(2)), 2),
    "a norm behind the second": (lambda: wide(nn.GroupNorm(2, 16), pool=nn.MaxPool2d(2)), 2),
    "padded pooling": (lambda: wide(pool=nn.MaxPool2d(3, 2, padding=1)), 2),
    "groups": (lambda: wide(nn.Conv2d(16, 16, 1, groups=2), pool=nn.MaxPool2d(2)), 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", EVENT_DRIVEN)
def test_convolutions_driven_by_events(
    case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_backend.recording import event_convolution

    make, expected = EVENT_DRIVEN[case]
    calls = []

    def counted(*args: Any) -> Tensor:
        calls.append(args)
        return convolve(*args)

    convolve = event_convolution.convolve
    monkeypatch.setattr(event_convolution, "convolve", counted)
    x = (torch.rand(STEPS, BATCH, 1, SIDE, SIDE) < 0.1).to(dtype)
    assert check(make(), stacked, x) == 1
    if backend.native() is not None:
        assert len(calls) == expected


def test_sequences_driven_by_events() -> None:
    model = hidden(
        nn.Sequential(nn.Conv1d(2, 16, 3), nn.MaxPool1d(2)),
        nn.Sequential(nn.Conv1d(16, 16, 3), nn.MaxPool1d(2)),
        features=48,
    )
    x = (torch.rand(STEPS, BATCH, 2, 18) < 0.1).double()
    assert check(model, stacked, x) == 1
