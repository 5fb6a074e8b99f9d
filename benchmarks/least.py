"""The least that a whole training step can take: kernels at their floors, and what no backend can spare."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from .network import training_loss
from .rows import Row

__all__ = ["least_step"]

_REPEATS = 9


def least_step(row: Row, labels: Tensor, kernels: list[dict[str, Any]], optimizer: float) -> dict[str, float]:
    """Seconds of the operators' floors, of the script's loss (forward and backward) and of its optimizer.

    kernels: as `kernel_times` gives them, with floors.  optimizer: seconds of its step, as timed.
    Neither the loop over time nor autograd nor Python is in the sum, "step": no program reaches it.
    """
    operators = sum(entry["floor"] or 0.0 for entry in _without_repetition(kernels))
    loss = _loss_time(row, labels)
    return {
        **{"operators": operators, "loss": loss, "optimizer": optimizer},
        "step": operators + loss + optimizer,
    }


def _without_repetition(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without torch's products where an operator has one inside, and so in its own floor."""
    inside = any("gemm" in entry["forms"].split(", ") for entry in kernels)
    return [entry for entry in kernels if not (inside and entry["forms"] == "torch")]


def _loss_time(row: Row, labels: Tensor) -> float:
    shape = (row.steps, row.batch, row.widths[-1])
    spikes, membrane = (torch.zeros(shape).requires_grad_() for _ in range(2))
    samples = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        training_loss(row, spikes, membrane, labels).backward()
        samples.append(time.perf_counter() - begin)
        spikes.grad = membrane.grad = None
    return statistics.median(samples)
