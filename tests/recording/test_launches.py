"""Recording computes nothing: a recorded step makes views, so that on a GPU it launches no kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from sparse_backend import recording

from .conftest import Twins, record

PER_STEP = {"select", "as_strided", "detach", "alias", "expand", "view", "_lazy_clone"}
"""Operations without a kernel: views, and copy-on-write aliases."""


def operations(run: Callable[[], object]) -> dict[str, int]:
    with profile(use_kineto=False) as profiler:
        run()
    counts: dict[str, int] = {}
    for event in profiler.function_events:
        if event.name.startswith("aten::"):
            name = event.name.removeprefix("aten::")
            counts[name] = counts.get(name, 0) + 1
    return counts


def test_a_recorded_loop_launches_nothing_per_step(net: Twins, x: Tensor) -> None:
    """Twice the steps: more views, nothing else more. A stream's first step may prepare something."""
    longer = torch.cat([x, x])
    for frames in (x, longer):
        record(net.fast, frames)
        recording.flush()
    once = operations(lambda: record(net.fast, x))
    recording.flush()
    twice = operations(lambda: record(net.fast, longer))
    more = {name for name, count in twice.items() if count > once.get(name, 0)}

    assert more <= PER_STEP


def test_executing_it_does(net: Twins, x: Tensor) -> None:
    kept = record(net.fast, x)
    found = operations(lambda: torch.stack(kept.mem2).sum())
    assert "sum" in found
