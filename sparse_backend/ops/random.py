"""The counter-based generator behind sampled gradients: one number per (batch element, neuron), no state.

The same function stands in src_cuda/common/random.hpp. It is keyed, so that a draw does not depend on
threads, on the device or on torch's generators, and neighbouring batch elements and neurons are decorrelated
by two rounds of mixing.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mix", "offsets", "stream_key"]

_MASK = (1 << 64) - 1
_GAMMA, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def mix(value: int) -> int:
    """splitmix64 of one integer, as an unsigned 64-bit value (Steele, Lea & Flood 2014)."""
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * _M1) & _MASK
    value = ((value ^ (value >> 27)) * _M2) & _MASK
    return value ^ (value >> 31)


def stream_key(seed: int, layer: int, call: int) -> int:
    """The key of one layer's draw in one call, as a signed 64-bit integer (what operator schemas take)."""
    return _signed(mix(mix(mix(seed) ^ layer) ^ call))


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch's shift is arithmetic


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(_GAMMA)
    x = (x ^ _shift(x, 30)) * _signed(_M1)
    x = (x ^ _shift(x, 27)) * _signed(_M2)
    return x ^ _shift(x, 31)


def offsets(key: int, batch: int, width: int, like: Tensor) -> Tensor:
    """Uniform offsets in [0, 1) with 24 bits, `[B, N]`, in the dtype and on the device of `like`."""
    rows = torch.arange(batch, device=like.device, dtype=torch.int64)[:, None] << 32
    bits = _mix(_mix(rows | torch.arange(width, device=like.device)) ^ key)
    return (_shift(bits, 40)).to(like.dtype) * 2.0**-24
