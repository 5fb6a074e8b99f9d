"""Which form of each product is cheapest on a GPU, from counts that are known before the work starts.

An event form moves one row segment through the L2 cache per event; a matrix product is bound by its
multiply-adds. `ratio` is what a multiply-add by events costs in those of a matrix product: events win below a
density of 1 / ratio. It is timed once per device and kept in a file, so that later runs choose alike.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .cuda_place import dtype_code, module, place

__all__ = ["chunk_steps", "dense_wins", "measure", "ratio"]

_EXPECTED = {torch.float32: 18.0, torch.float64: 40.0}
"""On paper for an H100: 5.5 TB/s of random rows from L2 against 50 Tflop/s of float32 and 55 of float64."""
_LAMBDA_SHARE = 0.4
"""Part of L2 that one chunk of lambda may take; W, dW and the events want the rest."""
_L2_SIZE = 40 << 20
"""Where torch does not tell the size of L2: an A100's."""


def ratio(device: torch.device, dtype: torch.dtype) -> float:
    """Cost of a multiply-add by events over one of a matrix product, for float32 or float64 on this device.

    Timed where that has not been done yet (a few milliseconds, and the host waits); the expected value under
    `torch.use_deterministic_algorithms`, where no timing may decide what is computed.
    """
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return _EXPECTED[dtype]
    tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return _timed(device.index or 0, dtype, tf32)


def dense_wins(density: float, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a matrix product is cheaper than adding a row per event at this density of events."""
    return density * ratio(device, dtype) > 1


def chunk_steps(steps: int, row_bytes: int, block: int, device: torch.device) -> int:
    """Time steps of lambda, of row_bytes each, to work on at a time: a multiple of `block`."""
    size = _L2_SIZE
    if device.type == "cuda":
        size = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", size)
    fitting = int(size * _LAMBDA_SHARE) // max(1, row_bytes)
    return min(max(fitting // block, 1) * block, -(-steps // block) * block)


@functools.cache
def _timed(index: int, dtype: torch.dtype, tf32: bool) -> float:
    device = torch.device("cuda", index)
    key = f"{dtype}{' tf32' if tf32 else ''}, torch {torch.__version__}"
    name = torch.cuda.get_device_name(device).replace(" ", "-").replace("/", "-")
    file = _cache_folder() / f"cuda-{name}.json"
    try:
        known = dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        known = {}
    if not isinstance(known.get(key), float):
        known[key] = round(measure(device, dtype), 2)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known, indent=1))
        except OSError:
            pass  # without a place to keep it, it is timed in every process
    return float(known[key])


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse_backend"


def measure(
    device: torch.device, dtype: torch.dtype, *, inputs: int = 256, width: int = 256, rows: int = 1 << 14
) -> float:
    """Time dW by events and as a matrix product, `rows` rows of lambda `[rows, width]` in L2; their ratio."""
    generator = torch.Generator(device).manual_seed(0)
    lam = torch.randn(rows, width, dtype=dtype, device=device, generator=generator)
    x = torch.randn(rows, inputs, dtype=dtype, device=device, generator=generator)
    per_input = max(1, rows // 32)
    grouped = torch.randint(
        rows, (inputs * per_input,), device=device, generator=generator, dtype=torch.int32
    )
    offsets = torch.arange(inputs + 1, device=device) * per_input
    d_weight_t = torch.empty(inputs, width, dtype=dtype, device=device)
    arguments = {
        "lambda": lam.data_ptr(),
        "grouped": grouped.data_ptr(),
        "offsets": offsets.data_ptr(),
        "d_weight_t": d_weight_t.data_ptr(),
    }
    products = module().products(
        **arguments, dtype=dtype_code(dtype), steps=rows, batch=1, inputs=inputs, width=width, chunk=rows,
        **place(device),
    )  # fmt: skip
    by_events = _seconds(lambda: module().weight_gradient(products, 0), device) / grouped.numel()
    dense = _seconds(lambda: lam.t() @ x, device) / (rows * inputs)
    return by_events / dense


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 9) -> float:
    """Median time of the work, after a warm-up."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(repeats + 2):
        wait()
        start = time.perf_counter()
        for _ in range(4):
            work()
        wait()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[repeats // 2] / 4
