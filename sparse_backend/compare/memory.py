"""Peak memory of training steps, by the operating system's count and, on a GPU, by torch's."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from .results import VariantResult

__all__ = ["begin_step", "end_step", "resident"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_baseline: dict[str, int] = {}


def resident(peak: bool = False) -> int | None:
    """Bytes of this process in memory, now or at most since the last `begin_step`; None where unknown."""
    key = "VmHWM:" if peak else "VmRSS:"
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return None


def begin_step() -> None:
    """Forget the peak so far: that of loading data or of an evaluation is not a training step's."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # Linux: sets VmHWM back to VmRSS
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        _baseline.setdefault("cuda", torch.cuda.memory_allocated())
    now = resident()
    if now is not None:
        _baseline.setdefault("host", now)


def end_step(result: VariantResult) -> None:
    """Note the peak of the step in the result, above what was held before the first step."""
    peak = resident(peak=True)
    if peak is not None and "host" in _baseline:
        result.memory = max(result.memory or 0, peak - _baseline["host"])
    if "cuda" in _baseline:
        held = torch.cuda.max_memory_allocated() - _baseline["cuda"]
        result.device_memory = max(result.device_memory or 0, held)
