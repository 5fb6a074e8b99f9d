"""Models with an operation between their layers, and their comparison with the accelerated twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn

from sparse_backend import recording, surrogates

from .conftest import BATCH, STEPS, Twins

SIDE = 12


def leaky(threshold: float = 0.3, **options: Any) -> nn.Module:
    """A neuron whose surrogate keeps float64."""
    return snn.Leaky(0.9, threshold=threshold, spike_grad=surrogates.atan(2.0), **options)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    """Rate-coded images, [T, B, 1, SIDE, SIDE]."""
    return (torch.rand(STEPS, BATCH, 1, SIDE, SIDE) < 0.3).to(dtype)


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
