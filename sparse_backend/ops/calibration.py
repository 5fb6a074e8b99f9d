"""The cost model's constants for this machine: measured once, kept in the user's cache directory.

SPARSE_BACKEND_COSTS says where they come from: `fixed` for the constants that are written down here, or the
path of a JSON file to use in place of `$XDG_CACHE_HOME/sparse_backend/costs.json`. An entry belongs to one
processor, instruction set and version of torch and of this package. Without a file to keep them in nothing is
measured: forms chosen anew at each start could give results that differ in the last bits.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["FIXED", "Costs", "costs", "describe", "measure"]

_ENOUGH = 4.0
"""A constant further than this factor from the fixed one is a disturbed measurement."""
_LOWEST_PRODUCT = 1 / 16
"""Matrix tiles may make the kernels' own product several times as fast as torch's."""


@dataclass(frozen=True)
class Costs:
    """What one multiply-add costs in each form, in units of one in torch's matrix product.

    feed_row: in adding a row of W^T per input event.  weight_row: in adding a row of lam to dW per input
    event.  trace_row: in adding the filtered input to dW per active entry.  dot: in a sampled dot product.
    product: in the kernels' own matrix product.
    """

    feed_row: float = 2.5
    weight_row: float = 2.5
    trace_row: float = 3.5
    dot: float = 3.0
    product: float = 1.0


FIXED = Costs()
"""Between what AVX-512 (1.9, 1.8, 2.8, 2.5) and SSE2 (3.5, 3.1, 6.8, 3.4) take; the product with fused
multiply-adds (SSE2 has none: 3.3)."""


@functools.cache
def _found(place: str) -> tuple[Costs, str]:
    """(constants, where they come from)."""
    from . import backend

    native = backend.native()
    if place == "fixed" or native is None:
        return FIXED, "fixed"
    try:
        path, key = Path(place), _key(native)
    except ValueError as error:  # an instruction set that is not there
        return FIXED, f"fixed: {error}"
    known = _read(path)
    kept = _valid(known.get(key))
    if kept is not None:
        return kept, str(path)
    if not _writable(path):
        return FIXED, f"fixed: {path} cannot be written"
    found = measure(native)
    if _write(path, _read(path) | {key: asdict(found)}):
        return found, str(path)
    return FIXED, f"fixed: {path} cannot be written"


def costs() -> Costs:
    """The constants in force, as the first question finds them. Never raises: what cannot be read or measured
    is replaced by the fixed ones."""
    return _in_force()[0]


def describe() -> str:
    """The constants in force and where they come from, for people."""
    values, origin = _in_force()
    return ", ".join(f"{name} {value:.3g}" for name, value in asdict(values).items()) + f" ({origin})"


@functools.cache
def _in_force() -> tuple[Costs, str]:
    return _found(_place())


def _place() -> str:
    named = os.environ.get("SPARSE_BACKEND_COSTS", "").strip()
    return named or _default_place(os.environ.get("XDG_CACHE_HOME"))


@functools.cache
def _default_place(cache: str | None) -> str:
    cache = cache or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "sparse_backend", "costs.json")


def _key(native: Any) -> str:
    from .. import __version__

    return " | ".join((_processor(), native.isa(), torch.__version__, __version__))


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
        lines = dict(line.split(":", 1) for line in info if ":" in line)
        named = {name.strip(): value.strip() for name, value in lines.items()}
        parts = [
            named.get(name, "") for name in ("vendor_id", "cpu family", "model", "model name", "CPU part")
        ]
        if any(parts):
            return " ".join(part for part in parts if part)
    return platform.processor() or platform.machine()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _valid(entry: Any) -> Costs | None:
    names = {field.name for field in fields(Costs)}
    if not isinstance(entry, dict) or set(entry) != names:
        return None
    if not all(type(value) in (int, float) and 0 < value < math.inf for value in entry.values()):
        return None
    return Costs(**{name: float(value) for name, value in entry.items()})


def _writable(path: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path.parent, os.W_OK) and not path.is_dir()


def _write(path: Path, content: dict[str, Any]) -> bool:
    """Whole or not at all: another process may read the file at any time."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        os.replace(name, path)
    except OSError:
        return False
    return True


def measure(native: Any) -> Costs:
    """Time each form on small random data, on one thread; about 0.05 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bench = _Bench(native)
        unit = bench.product()
        found = {
            "feed_row": bench.feed(),
            "weight_row": bench.backward("weight", form=1),
            "trace_row": bench.backward("weight", form=2),
            "dot": bench.backward("low"),
            "product": bench.own_product(),
        }
    finally:
        torch.set_num_threads(threads)
    bounded = {}
    for name, seconds in found.items():
        usual = getattr(FIXED, name)
        lowest = _LOWEST_PRODUCT if name == "product" else usual / _ENOUGH
        bounded[name] = min(max(round(seconds / unit, 2), lowest), usual * _ENOUGH)
    return Costs(**bounded)


class _Bench:
    """Random events of one layer, and the seconds that a multiply-add takes in each form.

    A form's seconds are the difference between many and few events, so that what each call costs anyway
    cancels.
    """

    steps, batch, inputs, width = 32, 16, 512, 256
    few, many = 0.02, 0.12

    def __init__(self, native: Any) -> None:
        self.native = native
        self.generator = torch.Generator().manual_seed(0)
        self.rows = self.steps * self.batch
        shapes = (self.rows, self.inputs), (self.inputs, self.width), (self.rows, self.width)
        self.dense = [torch.rand(shape, generator=self.generator) for shape in shapes]
        self.weight_t = torch.rand(self.inputs, native.padded_width(self.width), generator=self.generator)
        self.lists = {
            (size, share): self._events(size, share)
            for size in (self.inputs, self.width)
            for share in (self.few, self.many)
        }
        self.membrane, self.threshold = torch.tensor(0.9), torch.tensor(1e30)

    def product(self) -> float:
        a, b, out = self.dense
        return _fastest(lambda: torch.mm(a, b, out=out))[0] / (self.rows * self.inputs * self.width)

    def own_product(self) -> float:
        a, b, out = self.dense
        sizes = (self.inputs, self.rows, b.data_ptr(), self.inputs, self.width)
        call = (a.data_ptr(), *sizes, out.data_ptr(), self.native.FLOAT32, 1)
        return _fastest(lambda: self.native.multiply(*call))[0] / (self.rows * self.inputs * self.width)

    def feed(self) -> float:
        def run(share: float) -> Callable[[], object]:
            layer = self._layer(share)
            return lambda: self.native.forward(layer)

        return self._slope(run, self.inputs, self.width)

    def backward(self, what: str, form: int = 0) -> float:
        """what: "weight" for dW, "low" for the input gradient at the listed entries."""
        listed = self.inputs if what == "low" or form == 1 else self.width
        d_weight = torch.empty(self.width, self.inputs)
        alive: list[Tensor] = [d_weight]

        def run(share: float) -> Callable[[], object]:
            ptr, idx = self.lists[self.width, share if listed == self.width else self.few]
            values = torch.ones(idx.numel())
            request = {"active_ptr": ptr.data_ptr(), "active_idx": idx.data_ptr()}
            request |= {"active_u": values.data_ptr(), "g_active": values.data_ptr(), "form": form}
            alive.append(values)
            if what == "low":
                ptr, idx = self.lists[self.inputs, share]
                alive.append(torch.empty(idx.numel()))
                request |= {
                    "low_ptr": ptr.data_ptr(),
                    "low_idx": idx.data_ptr(),
                    "d_low": alive[-1].data_ptr(),
                }
            else:
                request["d_weight"] = d_weight.data_ptr()
            layer = self._layer(share if form == 1 else self.few)
            gradients = self.native.gradients(**request)
            return lambda: self.native.backward(layer, gradients)

        return self._slope(run, listed, self.width if listed == self.inputs else self.inputs)

    def _slope(self, run: Callable[[float], Callable[[], object]], listed: int, row: int) -> float:
        events = self.lists[listed, self.many][1].numel() - self.lists[listed, self.few][1].numel()
        many, few = _fastest(run(self.many), run(self.few))
        return (many - few) / (events * row)

    def _layer(self, share: float) -> Any:
        ptr, idx = self.lists[self.inputs, share]
        return self.native.layer(
            dtype=self.native.FLOAT32,
            steps=self.steps,
            batch=self.batch,
            width=self.width,
            inputs=self.inputs,
            threads=1,
            in_ptr=ptr.data_ptr(),
            in_idx=idx.data_ptr(),
            weight_t=self.weight_t.data_ptr(),
            membrane=self.membrane.data_ptr(),
            threshold=self.threshold.data_ptr(),
            surrogate=self.native.SURROGATES["straight_through"],
            gradient=self.native.GRADIENTS["exact"],
        )

    def _events(self, size: int, share: float) -> tuple[Tensor, Tensor]:
        where = (torch.rand(self.rows, size, generator=self.generator) < share).nonzero()
        counts = torch.bincount(where[:, 0], minlength=self.rows)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), where[:, 1].to(torch.int32)


def _fastest(*runs: Callable[[], object], times: int = 5) -> list[float]:
    """Seconds of this thread, which do not run while other programs have the processor. In turn, so that a
    slow moment of the machine does not lie in one of two alone."""
    best = [math.inf] * len(runs)
    for _ in range(times):
        for i, run in enumerate(runs):
            start = time.thread_time()
            run()
            best[i] = min(best[i], time.thread_time() - start)
    return best
