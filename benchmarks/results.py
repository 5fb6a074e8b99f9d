"""Where results are kept, with the machine that they belong to."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from sparse_backend.compare.machine import describe

__all__ = ["write"]

_RESULTS = Path(__file__).parent / "results"


def write(results: list[dict[str, Any]], kind: str, path: Path | None, limits: dict[str, Any] | None) -> Path:
    """Write a JSON file, by default results/<kind>-<time>.json; returns its path.

    path: the file, or a folder for one with that name.
    limits: the measured ceilings of the machine.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{kind}-{stamp}.json"
    path = path or _RESULTS / name
    if path.is_dir():
        path /= name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": {**describe(), "ceilings": limits}, "results": results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
