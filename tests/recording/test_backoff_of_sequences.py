"""A time module's call is a whole sequence; reading its result at once is no reason to stop recording."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparse_backend

norse = pytest.importorskip("norse.torch")


def test_time_modules_are_never_paused() -> None:
    net = norse.SequentialState(nn.Linear(5, 6), norse.LIF(), nn.Linear(6, 3), norse.LI())
    sparse_backend.accelerate(net, gradient="exact")
    for _ in range(12):
        potentials, _ = net(torch.randn(10, 2, 5))
        potentials.mean().backward()
    assert [(layer.calls, layer.steps) for layer in sparse_backend.stats(net)] == [(12, 120), (12, 120)]
