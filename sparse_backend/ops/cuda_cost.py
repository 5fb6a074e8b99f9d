"""Which form of each product is cheapest on a GPU, from counts that are known before the work starts.

An event form moves one row segment through the L2 cache per event; a matrix product is bound by its multiply-
adds. `ratio` is what a multiply-add by events costs in those of a matrix product: events win below a density
of 1 / ratio.
"""

from __future__ import annotations

import torch

__all__ = ["chunk_steps", "dense_wins", "ratio"]

_L2_BYTES = {8: 4.5e12, 9: 5.5e12}
"""Random rows of a few hundred bytes from L2, bytes/s, by compute capability (A100, H100); newer parts count
as the last."""
_FLOPS = {
    (8, torch.float32, False): 18e12,
    (8, torch.float32, True): 120e12,
    (8, torch.float64, False): 18e12,
    (9, torch.float32, False): 50e12,
    (9, torch.float32, True): 400e12,
    (9, torch.float64, False): 55e12,
}
"""torch's matrix product at the sizes of a layer, flop/s; True: with TF32 allowed."""
_LAMBDA_SHARE = 0.4
"""Part of L2 that one chunk of lambda may take; W, dW and the events want the rest."""
_L2_SIZE = 40 << 20


def ratio(device: torch.device, dtype: torch.dtype) -> float:
    """Cost of a multiply-add by events over one of a matrix product, for float32 or float64 on this
    device."""
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else max(_L2_BYTES)
    major = min(max(major, min(_L2_BYTES)), max(_L2_BYTES))
    tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return (dtype.itemsize / _L2_BYTES[major]) / (2 / _FLOPS[major, dtype, tf32])


def dense_wins(density: float, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a matrix product is cheaper than adding a row per event at this density of events."""
    return density * ratio(device, dtype) > 1


def chunk_steps(steps: int, row_bytes: int, block: int, device: torch.device) -> int:
    """Time steps of lambda, of row_bytes each, that are worked on at a time: a multiple of `block`, or
    all."""
    size = _L2_SIZE
    if device.type == "cuda":
        size = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", size)
    fitting = int(size * _LAMBDA_SHARE) // max(1, row_bytes)
    return min(max(fitting // block, 1) * block, -(-steps // block) * block)
