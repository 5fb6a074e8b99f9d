"""The command-line form of `Options`, shared by the commands of `python -m sparse_backend`."""

from __future__ import annotations

import argparse
from typing import Any

from .options import GRADIENT_MODES

__all__ = ["add_options", "chosen_options"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --gradient, --budget, --backward-threshold, --seed and --strict; not given means None."""
    group = parser.add_argument_group("acceleration", "unset: SPARSE_BACKEND_* variables, else the defaults")
    group.add_argument("--gradient", choices=GRADIENT_MODES, help="sampled unless given")
    group.add_argument("--budget", type=float, help="expected active fraction under sampled (0.05)")
    group.add_argument(
        "--backward-threshold", type=float, help="half-width of the window, membrane units (0.2 x threshold)"
    )
    group.add_argument("--seed", type=int, help="seed of the sampling (0)")
    group.add_argument(
        "--strict", action="store_true", default=None, help="fail where a layer would stay stock"
    )


def chosen_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """The parsed options as keyword arguments of `accelerate`, `install` and `Options.from_environment`."""
    names = ("gradient", "budget", "backward_threshold", "seed", "strict")
    return {name: getattr(chosen, name) for name in names}
