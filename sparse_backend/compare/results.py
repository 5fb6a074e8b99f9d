"""What a comparison measured, as data: one `VariantResult` per run of the script, and what follows."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "PHASES",
    "GradientDifference",
    "LayerActivity",
    "VariantResult",
    "gradient_differences",
    "parse_accuracies",
]

PHASES = ("forward", "backward", "optimizer")


@dataclass
class LayerActivity:
    """One neuron layer: the fraction of its entries [T, B, N] that spiked, and that were active.

    first: on the first training batch.  last: on the last batch that was looked at.
    active: None where the run is stock, which treats every entry as active.
    """

    name: str
    kind: str
    first_spikes: float | None = None
    last_spikes: float | None = None
    first_active: float | None = None
    last_active: float | None = None


@dataclass
class GradientDifference:
    """A parameter's gradient on the first batch against stock's: |g - g0| / |g0|, and their cosine."""

    name: str
    relative: float
    cosine: float


@dataclass
class VariantResult:
    """One run of the script.

    phases: seconds of each training step by phase, in order.  observed: numbers of the steps that were looked
        into, which timings leave out.  wall: seconds from the first training step to the end.
    memory, device_memory: peak bytes of a training step above what was held before the first one.
    accuracy: (epoch, accuracy in [0, 1], seconds since the first training step).
    """

    name: str
    options: dict[str, Any] | None
    phases: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    observed: list[int] = field(default_factory=list)
    wall: float = 0.0
    memory: int | None = None
    device_memory: int | None = None
    layers: list[LayerActivity] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    flushes: list[tuple[int, str]] = field(default_factory=list)
    accuracy: list[tuple[int, float, float]] = field(default_factory=list)
    gradients: list[GradientDifference] | None = None
    gradient_problem: str | None = None
    exit_code: int | None = None

    @property
    def steps(self) -> int:
        """Training steps that ran to the end of `optimizer.step()`."""
        return len(self.phases["forward"])

    def totals(self) -> list[float]:
        """Seconds of each training step, all phases."""
        return [sum(parts) for parts in zip(*(self.phases[phase] for phase in PHASES), strict=True)]

    def median(self, phase: str = "step") -> float | None:
        """Median seconds of a phase, or of the whole step, over the steps that nothing disturbed."""
        series = self.totals() if phase == "step" else self.phases[phase]
        kept = [value for number, value in enumerate(series) if number not in self.observed] or series
        return statistics.median(kept) if kept else None

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> VariantResult:
        """Read what `save` wrote."""
        data = json.loads(path.read_text())
        data["layers"] = [LayerActivity(**layer) for layer in data["layers"]]
        data["flushes"] = [tuple(row) for row in data["flushes"]]
        data["accuracy"] = [tuple(row) for row in data["accuracy"]]
        return cls(**data)


def gradient_differences(
    reference: dict[str, torch.Tensor], other: dict[str, torch.Tensor]
) -> list[GradientDifference]:
    """The first-batch gradients of two runs, per parameter. Raises: ValueError if the parameters differ."""
    if [(n, g.shape) for n, g in reference.items()] != [(n, g.shape) for n, g in other.items()]:
        raise ValueError("the runs trained different parameters")
    rows = []
    for name, expected in reference.items():
        a, b = expected.double().flatten(), other[name].double().flatten()
        norm_a, norm_b = float(a.norm()), float(b.norm())
        relative = float((b - a).norm()) / norm_a if norm_a else (0.0 if not norm_b else float("inf"))
        cosine = float(a @ b) / (norm_a * norm_b) if norm_a and norm_b else float(norm_a == norm_b)
        rows.append(GradientDifference(name, relative, cosine))
    return rows


_EPOCH = re.compile(r"\bepochs?\b\W{0,4}(\d+)", re.IGNORECASE)
_ACCURACY = re.compile(
    r"(?:\b(?P<set>test|val|valid|validation|eval)\w*[\s_.-]*(?:set[\s_-]*)?)?\bacc(?:uracy)?\b"
    r"[^\d\n]{0,12}?(?P<value>\d+(?:\.\d+)?(?:e-?\d+)?)\s*(?P<percent>%?)",
    re.IGNORECASE,
)


def parse_accuracies(line: str) -> tuple[int, float] | None:
    """(epoch, accuracy in [0, 1]) of a line that has both, as "epoch 3 test accuracy 0.97"; else None.

    Of several accuracies the one that says test, val or eval counts, else the last. 97 %, 97 and 0.97 are
    the same.
    """
    epoch = _EPOCH.search(line)
    found = list(_ACCURACY.finditer(line.replace("_", " ")))
    if epoch is None or not found:
        return None
    match = next((m for m in found if m["set"]), found[-1])
    value = float(match["value"])
    if match["percent"] or value > 1:
        value /= 100
    return (int(epoch[1]), value) if value <= 1 else None
