"""The networks of one measurement: stock, accelerated, and the one whose gradients decide."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import snntorch.surrogate
import torch
from torch import Tensor

import sparse_backend
from sparse_backend import surrogates
from sparse_backend.report import Report

from .network import Net
from .rows import Row, make_input
from .scaling import scale_to_activity

__all__ = ["SLOPE", "Models", "accelerated", "build", "copy_of", "stock_net"]

_WINDOW = 0.1
SLOPE = 25.0


@dataclass
class Models:
    """reference: stock, with the cut that a window makes; stock itself under other rules.

    scaled: (gain, fraction near the threshold) per layer, empty where weights are as initialised.
    """

    row: Row
    gradient: str
    x: Tensor
    labels: Tensor
    stock: Net
    fast: Net
    reference: Net
    report: Report
    scaled: list[tuple[float, float]]


def stock_net(row: Row, gradient: str) -> Net:
    """snnTorch's default surrogate; for a window the paper's fast sigmoid."""
    return Net(row, snntorch.surrogate.fast_sigmoid(SLOPE) if gradient == "window" else None)


def copy_of(net: Net, gradient: str) -> Net:
    """A stock network with the same weights, whatever the given one has run."""
    copied = stock_net(net.row, gradient)
    copied.load_state_dict(net.state_dict())
    return copied


def accelerated(net: Net, gradient: str) -> tuple[Net, Report]:
    """An accelerated copy."""
    fast = copy.deepcopy(net)
    window = _WINDOW if gradient == "window" else None
    return fast, sparse_backend.accelerate(fast, gradient=gradient, strict=True, backward_threshold=window)


def build(row: Row, gradient: str, seed: int = 0) -> Models:
    """All of them with the same weights, and their input."""
    torch.manual_seed(seed)
    x, labels = make_input(row, torch.Generator().manual_seed(seed))
    stock = stock_net(row, gradient)
    scaled = scale_to_activity(stock, x, row.active) if row.active is not None else []
    fast, report = accelerated(stock, gradient)
    reference = stock
    if gradient == "window":
        reference = Net(row, surrogates.fast_sigmoid(SLOPE).windowed(_WINDOW))
        reference.load_state_dict(stock.state_dict())
    return Models(row, gradient, x, labels, stock, fast, reference, report, scaled)
