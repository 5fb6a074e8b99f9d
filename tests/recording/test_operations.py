"""Operations without a state between layers: convolutions, pools, norms, activations, sums of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import norse.torch as norse
import pytest
import snntorch as snn
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparse_backend
from sparse_backend import recording, surrogates
from sparse_backend.ops import backend
from sparse_backend.recording.operations import Call

from .conftest import BATCH, HIDDEN, INPUTS, STEPS, Net, Twins, step

SIDE = 12


def leaky(threshold: float = 0.3, **options: Any) -> nn.Module:
    """A neuron whose surrogate keeps float64."""
    return snn.Leaky(0.9, threshold=threshold, spike_grad=surrogates.atan(2.0), **options)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    """Rate-coded images, [T, B, 1, SIDE, SIDE]."""
    return (torch.rand(STEPS, BATCH, 1, SIDE, SIDE) < 0.3).to(dtype)


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


def stacked(model: nn.Module, x: Tensor) -> Tensor:
    """The outputs of a model with hidden states, called once per step."""
    for module in model.modules():
        if isinstance(module, snn.Leaky):
            module.reset_mem()
    outputs = []
    for time in range(STEPS):
        out = model(x[time])
        outputs.append(out[0] if isinstance(out, tuple) else out)
    return torch.stack(outputs)


def hidden(*parts: nn.Module, features: int, threshold: float = 0.3) -> nn.Sequential:
    """Parts, each followed by a neuron, and a readout."""
    layers = [layer for part in parts for layer in (part, leaky(threshold, init_hidden=True))]
    readout = (nn.Flatten(), nn.Linear(features, 4), leaky(init_hidden=True, output=True))
    return nn.Sequential(*layers, *readout)


def check(model: nn.Module, loop: Callable[..., Any], *inputs: Tensor, backward: bool = True) -> int:
    """The largest errors of a double network are rounding; how often recorded steps were executed."""
    twins = Twins(model.to(inputs[0].dtype))
    expected, expected_grads = twins.run(twins.stock, loop, inputs, backward)
    recording.flush()
    recording.forget_flush_reasons()
    values, gradients = twins.run(twins.fast, loop, inputs, backward)
    for value, reference in zip([*values, *gradients], [*expected, *expected_grads], strict=True):
        if reference is None:
            assert value is None
            continue
        assert value.requires_grad == reference.requires_grad
        scale = float(reference.detach().abs().max())
        tolerance = 1e-10 if value.dtype is torch.float64 else 3e-5
        torch.testing.assert_close(value, reference, rtol=tolerance, atol=tolerance * max(scale, 1e-2))
    for name, buffer in twins.stock.named_buffers():
        if "mem" not in name:
            torch.testing.assert_close(dict(twins.fast.named_buffers())[name], buffer)
    return sum(recording.flush_reasons().values())


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


@pytest.mark.parametrize("every", [1, 3])
def test_truncated_backpropagation(every: int) -> None:
    assert check(Convolutional(), lambda m, x: m(x, detach=every), images()) == 1


def test_an_evaluation_without_gradients() -> None:
    def loop(model: nn.Module, x: Tensor) -> Any:
        with torch.no_grad():
            return model(x)

    assert check(Convolutional(), loop, images(), backward=False) == 1


def test_several_batches_with_states_carried_on() -> None:
    model = hidden(nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)), features=75)

    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        first = stacked(model, x)
        return [first, torch.stack([model(x[time])[0] for time in range(STEPS)])]

    assert check(model, loop, images()) == 2


CHAINS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "max pooling": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)), 75),
    "average pooling": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.AvgPool2d(2)), 75),
    "adaptive pooling": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(2)), 12),
    "pooling first": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 3, 3)), 48),
    "strided and grouped": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, groups=2)),
        64,
    ),
    "dilated, no bias": (lambda: nn.Conv2d(1, 3, 3, dilation=2, bias=False), 192),
    "circular": (lambda: nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), 432),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 2, 3)), 288),
    "group normalisation": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), 400),
    "instance normalisation": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True)),
        400,
    ),
    "layer normalisation": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 10, 10])), 200),
    "activations": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Tanh(), nn.PReLU(2), nn.Softplus())
        ),
        200,
    ),
    "upsampling": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2)), 800),
    "softmax over channels": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softmax(1)), 300),
    "batch normalisation by running statistics": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).eval(),
        300,
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_between_layers(chain: str) -> None:
    make, features = CHAINS[chain]
    model = hidden(make(), features=features)
    assert check(model, stacked, images()) == 1


@pytest.mark.parametrize("chain", CHAINS)
def test_after_a_neuron(chain: str) -> None:
    make, features = CHAINS[chain]
    model = hidden(nn.Conv2d(1, 1, 1), make(), features=features)
    assert check(model, stacked, images()) == 1


def test_sequences_of_one_dimension() -> None:
    model = hidden(
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.MaxPool1d(2)),
        nn.Sequential(nn.Conv1d(4, 4, 3), nn.AvgPool1d(2)),
        features=12,
    )
    assert check(model, stacked, torch.rand(STEPS, BATCH, 2, 18, dtype=torch.float64)) == 1


def test_volumes() -> None:
    model = hidden(nn.Sequential(nn.Conv3d(1, 2, 2), nn.MaxPool3d(2)), features=16)
    assert check(model, stacked, torch.rand(STEPS, BATCH, 1, 5, 5, 5, dtype=torch.float64)) == 1


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


class Elementwise(nn.Module):
    """Linear layers with room for an operation on the currents of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc0, self.fc1 = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.norm, self.gain = nn.LayerNorm(HIDDEN), nn.Parameter(torch.rand(HIDDEN))
        self.mix = nn.Parameter(torch.rand(HIDDEN, HIDDEN))
        self.lif1, self.lif2 = leaky(), leaky()

    def forward(self, x: Tensor, operation: Callable[..., Tensor]) -> list[Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes = []
        for time, frame in enumerate(x):
            current = self.fc0(frame)
            spk1, mem1 = self.lif1(current, mem1)
            spk2, mem2 = self.lif2(operation(self, current, spk1, mem1, x[time]), mem2)
            spikes.append(spk2)
        return [torch.stack(spikes), mem1, mem2]


def noise(time_frame: Tensor) -> Tensor:
    return time_frame[:, :1] * torch.linspace(0, 1, HIDDEN, dtype=time_frame.dtype)


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "residual": lambda m, cur, spk, mem, x: m.fc1(spk) + cur,
    "residual of spikes": lambda m, cur, spk, mem, x: m.fc1(spk) + spk,
    "residual with the membrane": lambda m, cur, spk, mem, x: torch.add(m.fc1(spk), mem, alpha=0.5),
    "the same value twice": lambda m, cur, spk, mem, x: cur * cur,
    "a gain": lambda m, cur, spk, mem, x: m.fc1(spk) * m.gain,
    "a gain first": lambda m, cur, spk, mem, x: m.gain * m.fc1(spk),
    "a bias": lambda m, cur, spk, mem, x: m.fc1(spk) + m.gain,
    "a number": lambda m, cur, spk, mem, x: m.fc1(spk) + 0.125,
    "a real value of the step": lambda m, cur, spk, mem, x: m.fc1(spk) * noise(x),
    "a real value of the step added": lambda m, cur, spk, mem, x: m.fc1(spk) + noise(x),
    "a real value of the step minus": lambda m, cur, spk, mem, x: noise(x) - m.fc1(spk),
    "a computed weight": lambda m, cur, spk, mem, x: functional.linear(spk, m.mix * 2.0),
    "two of a kind": lambda m, cur, spk, mem, x: cur * noise(x) + cur * (noise(x) + 1),
    "a matrix product": lambda m, cur, spk, mem, x: spk @ m.mix,
    "one minus": lambda m, cur, spk, mem, x: 1 - torch.sigmoid(m.fc1(spk)),
    "a quotient": lambda m, cur, spk, mem, x: 1 / (1 + m.fc1(spk) ** 2),
    "layer norm": lambda m, cur, spk, mem, x: m.norm(m.fc1(spk)),
    "relu": lambda m, cur, spk, mem, x: functional.relu(m.fc1(spk)),
    "clamped": lambda m, cur, spk, mem, x: m.fc1(spk).clamp(-0.5, 0.5),
    "a mean subtracted": lambda m, cur, spk, mem, x: cur - cur.mean(1, keepdim=True),
    "a mean over the batch": lambda m, cur, spk, mem, x: cur - cur.mean(0),
    "a mean over all": lambda m, cur, spk, mem, x: cur - cur.mean(),
    "softmax": lambda m, cur, spk, mem, x: cur.softmax(1) * 4,
    "detached": lambda m, cur, spk, mem, x: m.fc1(spk) + cur.detach(),
    "a mask": lambda m, cur, spk, mem, x: torch.where(noise(x) > 0.3, m.fc1(spk), 0.1 * cur),
    "a chain": lambda m, cur, spk, mem, x: functional.relu(m.norm(m.fc1(spk)) + cur) * m.gain,
}


@pytest.mark.parametrize("operation", ELEMENTWISE)
def test_an_operation_at_each_step(operation: str) -> None:
    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    assert check(Elementwise(), lambda m, x: m(x, ELEMENTWISE[operation]), x) == 1


class Normalised(nn.Module):
    """Batch normalisation between a convolution and its neuron, as deep spiking networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.lif = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), leaky()

    def forward(self, x: Tensor) -> list[Tensor]:
        mem, out = self.lif.init_leaky(), []
        for frame in x:
            spk, mem = self.lif(self.norm(self.conv(frame)), mem)
            out.append(spk)
        return [torch.stack(out), mem]


def test_batch_normalisation_in_training() -> None:
    check(Normalised(), lambda m, x: m(x), images())


def test_batch_normalisation_trained_then_evaluated() -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        trained = model(x)
        model.eval()
        return [*trained, *model(x)]

    check(Normalised(), loop, images())


def test_dropout_draws_what_stock_draws() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.drop, self.lif = nn.Linear(INPUTS, HIDDEN), nn.Dropout(0.5), leaky()

        def forward(self, x: Tensor) -> list[Tensor]:
            mem, out = self.lif.init_leaky(), []
            for frame in x:
                spk, mem = self.lif(self.drop(self.fc(frame)), mem)
                out.append(spk)
            return [torch.stack(out), mem]

    check(Dropped(), lambda m, x: m(x), torch.rand(STEPS, BATCH, INPUTS, dtype=torch.float64))


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


def test_a_loss_at_every_step() -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        mem1, mem2 = model.lif1.init_leaky(), model.lif2.init_leaky()
        labels, total = torch.arange(BATCH) % 4, torch.zeros((), dtype=x.dtype)
        for frame in x:
            _, mem1, spk, mem2 = step(model, frame, mem1, mem2)
            total = total + (functional.cross_entropy(mem2, labels) + 0.1 * spk.mean())
        return [total]

    model = Net()
    for name in ("lif1", "lif2"):
        setattr(model, name, leaky())
    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    assert check(model, loop, x) == 1


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


def test_an_operation_that_is_not_used_at_every_step() -> None:
    def operation(m: Elementwise, cur: Tensor, spk: Tensor, mem: Tensor, x: Tensor) -> Tensor:
        m.time = m.__dict__.get("time", 0) + 1
        return functional.relu(m.fc1(spk)) if m.time % 4 else m.fc1(spk) + cur

    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    check(Elementwise(), lambda m, x: m(x, operation), x)


def test_a_state_set_anew_behind_an_operation_of_two_values() -> None:
    def loop(m: Elementwise, x: Tensor) -> list[Tensor]:
        mem1, mem2 = m.lif1.init_leaky(), m.lif2.init_leaky()
        out = []
        for time, frame in enumerate(x):
            current = m.fc0(frame)
            spk1, mem1 = m.lif1(current, mem1)
            if time == 4:
                mem2 = torch.zeros(BATCH, HIDDEN, dtype=x.dtype)
            spk2, mem2 = m.lif2(m.fc1(spk1) + current, mem2)
            out.append(spk2)
        return [torch.stack(out), mem1, mem2]

    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    assert check(Elementwise(), loop, x) <= 2


def test_what_writes_to_its_argument_is_not_put_off() -> None:
    def operation(m: Elementwise, cur: Tensor, spk: Tensor, mem: Tensor, x: Tensor) -> Tensor:
        current = m.fc1(spk)
        return functional.relu(current, inplace=True) + functional.relu_(current * 2)

    x = (torch.rand(STEPS, BATCH, INPUTS) < 0.4).double()
    check(Elementwise(), lambda m, x: m(x, operation), x)


def test_bad_arguments_are_reported_where_they_are_given() -> None:
    model = Convolutional()
    sparse_backend.accelerate(model)
    spk, _ = model.lif1(model.conv1(images(torch.float32)[0]), model.lif1.init_leaky())
    with pytest.raises(RuntimeError, match="channels"):
        functional.conv2d(spk, torch.rand(2, 7, 3, 3))
    with pytest.raises(RuntimeError, match="size"):
        spk + torch.rand(3, 3)
