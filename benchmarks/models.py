"""The networks of one measurement: stock, accelerated, and the one whose gradients decide."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

import sparse_backend
from sparse_backend import surrogates
from sparse_backend.report import Report

from .network import SLOPE, Net, stock_net
from .rows import Row, make_input
from .scaling import scale_to_activity

__all__ = ["HALF_WIDTH", "Models", "accelerated", "build", "copy_of"]

HALF_WIDTH = 0.1
_SCALING_STEPS = 500


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


def copy_of(net: Net, gradient: str) -> Net:
    """A stock network with the same weights, whatever the given one has run."""
    copied = stock_net(net.row, gradient, type(net)).to(next(net.parameters()).device)
    copied.load_state_dict(net.state_dict())
    return copied


def accelerated(net: Net, gradient: str, half_width: float = HALF_WIDTH) -> tuple[Net, Report]:
    """An accelerated copy of a network that has not run yet. half_width: of the window."""
    fast = copy.deepcopy(net)
    window = half_width if gradient == "window" else None
    return fast, sparse_backend.accelerate(fast, gradient=gradient, strict=True, backward_threshold=window)


def build(
    row: Row,
    gradient: str,
    seed: int = 0,
    kind: type[Net] = Net,
    half_width: float = HALF_WIDTH,
    device: torch.device | str = "cpu",
) -> Models:
    """All of them with the same weights, and their input, on one device."""
    torch.manual_seed(seed)
    x, labels = (value.to(device) for value in make_input(row, torch.Generator().manual_seed(seed)))
    stock = stock_net(row, gradient, kind).to(device)
    scaled = []
    if row.active is not None:
        scaled = scale_to_activity(stock, x[:_SCALING_STEPS], row.active)
        stock = copy_of(stock, gradient)
    fast, report = accelerated(stock, gradient, half_width)
    reference = stock
    if gradient == "window":
        reference = kind(row, surrogates.fast_sigmoid(SLOPE).windowed(half_width)).to(device)
        reference.load_state_dict(stock.state_dict())
    return Models(row, gradient, x, labels, stock, fast, reference, report, scaled)
