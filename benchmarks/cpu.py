"""One row on the CPU: build, scale, check, time."""

from __future__ import annotations

import copy
from typing import Any

import snntorch.surrogate
import torch

import sparse_backend
from sparse_backend import surrogates

from .check import Agreement, compare
from .network import Net, scale_to_activity
from .rows import ROWS, make_input
from .timing import interleaved

__all__ = ["measure"]

_WINDOW = 0.1
_SLOPE = 25.0


def measure(name: str, gradient: str, repeats: int, warm_up: int, seed: int = 0) -> dict[str, Any]:
    """Stock against accelerated on a row, as plain data.

    With "window" both sides use the fast sigmoid of slope 25, accelerated with half-width 0.1, and gradients
    are checked against the stock network with the same cut. The others use snnTorch's default surrogate.
    """
    row = ROWS[name]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    x, labels = make_input(row, generator)
    window = gradient == "window"
    stock = Net(row, snntorch.surrogate.fast_sigmoid(_SLOPE) if window else None)
    scaled = scale_to_activity(stock, x, row.active) if row.active is not None else []
    fast = copy.deepcopy(stock)
    report = sparse_backend.accelerate(
        fast, gradient=gradient, strict=True, backward_threshold=_WINDOW if window else None
    )
    reference = stock
    if window:
        reference = Net(row, surrogates.fast_sigmoid(_SLOPE).windowed(_WINDOW))
        reference.load_state_dict(stock.state_dict())
    agreement = compare(reference, fast, x, labels)
    seconds = interleaved({"stock": stock, "accelerated": fast}, x, labels, repeats, warm_up)
    stats = sparse_backend.stats(fast)
    return {
        "row": name,
        "gradient": gradient,
        "seconds": seconds,
        "repeats": repeats,
        "agreement": vars(agreement),
        "agrees": _agrees(agreement, gradient),
        "input_density": float((x != 0).float().mean()),
        "gains": [{"gain": gain, "near_threshold": fraction} for gain, fraction in scaled],
        "layers": [dict(vars(layer)) for layer in stats],
        "surrogates": [layer.surrogate for layer in report if layer.surrogate],
    }


def _agrees(agreement: Agreement, gradient: str) -> bool:
    return agreement.holds(exact=gradient != "sampled")
