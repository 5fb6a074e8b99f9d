"""Small tensors that are the same everywhere: made once, and never written to."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["empty", "number", "zeros"]

_known: dict[tuple[float | None, torch.dtype, torch.device], Tensor] = {}
_MOST_KNOWN = 1024
"""A number that a script changes at every step would add one each time."""


def number(value: float, like: Tensor) -> Tensor:
    """`value` as a 0-dim tensor in the dtype and on the device of `like`."""
    return _constant(float(value), like.dtype, like.device)


def empty(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor `[0]` on the device of `like`, in its dtype unless another is given."""
    if type(like) is not Tensor:
        return like.new_empty(0, dtype=dtype)  # a fake tensor, say, which mixes with its own kind only
    return _constant(None, dtype or like.dtype, like.device)


def zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros that take no memory and must not be written to, in the dtype and on the device of `like`."""
    zero = number(0.0, like) if type(like) is Tensor else like.new_zeros(())
    return zero.expand(shape)


def _constant(value: float | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    found = _known.get((value, dtype, device))
    if found is None:
        with torch.inference_mode(False), torch.no_grad():
            if value is None:
                found = torch.empty(0, dtype=dtype, device=device)
            else:
                found = torch.tensor(value, dtype=dtype, device=device)
        if type(found) is Tensor:  # under a mode it may be anything
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[value, dtype, device] = found
    return found
