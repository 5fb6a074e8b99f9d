"""How near a kernel is to what the machine can do: measured ceilings, and the least time that work takes.

The floor of a kernel call is the time of the bytes it must move, each at the measured bandwidth of the place
where they lie, or of the multiply-adds it must do at the measured peak, whichever is larger.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import native

__all__ = ["Ceilings", "Work", "ceilings", "compress_work", "product_work"]

_REPEATS = 5
_PLACES = 4
_MIB = 1 << 20
_AHEAD = (0, 512, 1024, 2048, 4096, 8192)
"""Floats that a prefetch may be ahead: how far is best differs between machines, so all are tried."""


@dataclass(frozen=True)
class Ceilings:
    """Of all of torch's threads together.

    memory, cache: bytes per second of one array read in order, from memory and from the last-level cache.
    rows, updates: bytes of rows per second, in random order from a matrix of half an L2 cache, read or
        read-modify-written (each byte counted once).
    multiply_adds: float32, per second, from registers: more than torch's matrix product on many machines.
    last_level: size in bytes of the last-level cache, which decides between memory and cache.
    """

    memory: float
    cache: float
    rows: float
    updates: float
    multiply_adds: float
    last_level: int


@dataclass(frozen=True)
class Work:
    """What a kernel call has to do, at least.

    streamed: bytes read or written once in order.  rows, updates: bytes of matrix rows read, or added to.
    multiply_adds: scalar ones; an addition, multiplication or comparison by itself counts as one.
    """

    streamed: float = 0.0
    rows: float = 0.0
    updates: float = 0.0
    multiply_adds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def seconds(self, limits: Ceilings) -> float:
        """The floor."""
        order = limits.memory if self.streamed > limits.last_level / 2 else limits.cache
        moving = self.streamed / order + self.rows / limits.rows + self.updates / limits.updates
        return max(moving, self.multiply_adds / limits.multiply_adds)


def compress_work(entries: int, item: int, events: int) -> Work:
    """Reading a dense input of `entries` elements of `item` bytes and listing its events as int32."""
    return Work(streamed=entries * item + 4.0 * events)


def product_work(form: str, rows: int, inputs: int, width: int, events: int, active: int) -> Work:
    """One product of a layer over `rows` = T B entries of `[inputs]` and `[width]`, float32.

    form: "gather" adds a row of W^T per event below; "spike" adds lam to a row of dW^T per event below,
        "trace" adds the filtered input per active entry; "sampled" is a dot product of lam with a row of W^T
        per active entry below, "scatter" adds a row of W per active entry; "gemm" is dense.
    events: non-zero entries of the input (of its active entries, for "sampled").
    active: entries with a non-zero innovation.
    """
    listed = 4.0 * events
    if form == "gather":
        return Work(streamed=listed, rows=4.0 * events * width, multiply_adds=float(events) * width)
    if form == "spike":
        return Work(streamed=listed, updates=4.0 * events * width, multiply_adds=float(events) * width)
    if form == "trace":
        filtering = Work(streamed=listed, multiply_adds=float(rows) * inputs)
        adds = float(active) * inputs
        return filtering + Work(streamed=8.0 * active, updates=4.0 * adds, multiply_adds=adds)
    if form == "sampled":
        return Work(streamed=8.0 * events, rows=4.0 * events * width, multiply_adds=float(events) * width)
    if form == "scatter":
        adds = float(active) * inputs
        return Work(streamed=8.0 * active, rows=4.0 * adds, multiply_adds=adds)
    return Work(multiply_adds=float(rows) * inputs * width)


@functools.cache
def ceilings() -> Ceilings:
    """Measured once per process, in a few seconds. Raises: NoCompilerError."""
    library = native.load("ceilings")
    threads = torch.get_num_threads()
    last_level = _cache_size("SC_LEVEL3_CACHE_SIZE", 32 * _MIB)
    width = int(library.row_width())
    rows = max(64, _cache_size("SC_LEVEL2_CACHE_SIZE", _MIB) // 2 // (4 * width))
    count = 100 * rows
    order = torch.randint(rows, (count,), dtype=torch.int32)
    moved = 4.0 * width * count * threads
    matrices = torch.ones(threads, rows, width)  # not zeros: those are one page until they are written
    arguments = (native.address(order), native.c_int64(count), threads)
    rounds = 1 << 20
    multiplied = float(library.round_size()) * rounds * threads
    return Ceilings(
        memory=_stream(library, 6 * last_level, threads),
        # Part of it may be another's: a third is what one can count on.
        cache=_stream(library, last_level // 3, threads),
        rows=moved / _best(lambda: library.read_rows(native.address(matrices), *arguments)),
        updates=moved
        / _best(lambda: library.update_rows(native.address(matrices), native.c_int64(rows), *arguments)),
        multiply_adds=multiplied
        / _best(lambda: library.multiply_add(native.c_int64(rounds), native.c_float(0.5), threads)),
        last_level=last_level,
    )


def _stream(library: native.CDLL, size: int, threads: int) -> float:
    unit = 128 * threads
    count = size // 4 // unit * unit
    shortest = float("inf")
    # Memory in several places: how its pages happen to lie makes a difference of a third.
    for _ in range(_PLACES):
        data = torch.ones(count + max(_AHEAD))  # what is prefetched past the end exists
        start, length = native.address(data), native.c_int64(count)
        for ahead in _AHEAD:
            read = functools.partial(library.stream, start, length, native.c_int64(ahead), threads)
            shortest = min(shortest, _best(read))
    return 4.0 * count / shortest


def _best(work: Callable[[], object]) -> float:
    """The shortest of several runs: a ceiling is what was reached once."""
    work()
    found = float("inf")
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        work()
        found = min(found, time.perf_counter() - begin)
    return found


def _cache_size(name: str, default: int) -> int:
    try:
        return os.sysconf(name) or default
    except (ValueError, OSError):
        return default
