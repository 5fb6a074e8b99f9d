"""A training script as users run it: `python script.py` against `python -m sparse_backend script.py`.

Each side is a process of its own, so that neither profits from what the other does to caches, to the
allocator or to torch's classes; they take turns, because the machine is now quicker and now slower.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

from .job import Job, run_job
from .measure import Settings, begin
from .models import HALF_WIDTH
from .rows import Row
from .timing import PHASES, Samples, medians, ratios

__all__ = ["measure_script"]


def measure_script(
    name: str,
    row: Row,
    gradient: str,
    settings: Settings,
    told: Callable[[str], None] = lambda what: None,
    *,
    rounds: int,
) -> dict[str, Any]:
    """As `measure.measure`, without taking the step apart; a sample is the median of one process's steps.

    rounds: processes of each side.  told: hears what is being done.
    """
    models, result = begin(name, row, gradient, settings, told)
    if not result["agrees"]:
        return result
    steps = settings.warm_up + settings.repeats
    told_script = {"gradient": gradient, "seed": settings.seed, "steps": steps}
    job = Job(row, models.stock.state_dict(), told_script)
    options = ["--strict", "--gradient", gradient]
    if gradient == "window":
        options += ["--backward-threshold", str(HALF_WIDTH)]
    sides = {"stock": [], "accelerated": ["-m", "sparse_backend", *options]}
    samples: dict[str, Samples] = {side: {phase: [] for phase in PHASES} for side in sides}
    losses: dict[str, list[float]] = {side: [] for side in sides}
    for index in range(rounds):
        for side, through in sides.items():
            told(f"{name} {gradient}: {side}, round {index + 1} of {rounds}")
            answer = run_job("benchmarks.training", job, through)
            losses[side].append(answer["losses"][0])  # later ones know of Adam's rounding
            for phase in PHASES:
                timed = answer["seconds"][phase][settings.warm_up :]
                samples[side][phase].append(statistics.median(timed))
    result["losses"] = losses
    # Each diverging element may have any loss; the rest is rounding.
    agreement = result["agreement"]
    allowed = 1e-5 + agreement["diverged"] / agreement["batch"]
    result["agrees"] = all(
        math.isclose(one, other, rel_tol=allowed) for one, other in zip(*losses.values(), strict=True)
    )
    if not result["agrees"]:
        return result
    return result | {
        "peers": {},
        "repeats": settings.repeats,
        "rounds": rounds,
        "samples": samples,
        "seconds": {side: medians(phases) for side, phases in samples.items()},
        "ratios": {"stock": ratios(samples, "stock")},
    }
