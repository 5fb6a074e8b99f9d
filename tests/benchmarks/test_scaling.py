"""Weights scaled to an activity."""

from __future__ import annotations

import pytest
import torch

from benchmarks.network import Net
from benchmarks.rows import Row
from benchmarks.scaling import scale_to_activity


def scaled(active: float) -> list[tuple[float, float]]:
    torch.manual_seed(0)
    row = Row((200, 64, 5), 40, 16, 0.05, active)
    x = (torch.rand(40, 16, 200) < 0.05).float()
    return scale_to_activity(Net(row), x, active)


def test_a_fraction_that_can_be_had_is_reached() -> None:
    for gain, fraction in scaled(0.02):
        assert gain > 0 and fraction == pytest.approx(0.02, rel=0.1)


def test_one_that_cannot_gives_the_most_active_weights() -> None:
    """Not the largest ones: membranes of a thousand thresholds leave nothing but rounding to compare."""
    for gain, fraction in scaled(0.9):
        assert 0.1 < gain < 30 and fraction > 0.01
