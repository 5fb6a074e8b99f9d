"""The options that every entry point shares: keyword, command-line flag or environment variable."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any

from .errors import ArgumentError, ArgumentTypeError

__all__ = ["GRADIENT_MODES", "Options", "disabled", "native_allowed"]

GRADIENT_MODES = ("sampled", "exact", "window")
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}


@dataclass(frozen=True)
class Options:
    """How the backward pass of accelerated layers is computed.

    gradient: "sampled" (unbiased, sparse for every surrogate), "exact" (stock's gradient to rounding) or
        "window" (Perez-Nieves & Goodman 2021: the surrogate is cut off beyond `backward_threshold`).
    budget: expected fraction of active entries per layer under "sampled", in (0, 1].
    backward_threshold: half-width of the window in membrane units; None means 0.2 x the layer's threshold.
    seed: seed of the sampling; torch's own generators are never touched.
    strict: a layer that would stay stock raises `UnsupportedLayerError`.
    """

    gradient: str = "sampled"
    budget: float = 0.05
    backward_threshold: float | None = None
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.gradient not in GRADIENT_MODES:
            raise ArgumentError(
                f"gradient={self.gradient!r} must be one of {', '.join(map(repr, GRADIENT_MODES))}"
            )
        _require_number("budget", self.budget)
        if not 0 < self.budget <= 1:
            raise ArgumentError(f"budget={self.budget!r} must lie in (0, 1]: it is a fraction of all entries")
        if self.backward_threshold is not None:
            _require_number("backward_threshold", self.backward_threshold)
            if not (self.backward_threshold > 0 and math.isfinite(self.backward_threshold)):
                raise ArgumentError(
                    f"backward_threshold={self.backward_threshold!r} must be a positive, finite half-width "
                    "in membrane units"
                )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ArgumentTypeError(f"seed={self.seed!r} must be an int, not {type(self.seed).__name__}")
        if not isinstance(self.strict, bool):
            raise ArgumentTypeError(
                f"strict={self.strict!r} must be a bool, not {type(self.strict).__name__}"
            )

    @classmethod
    def from_environment(cls, **overrides: Any) -> Options:
        """Defaults from SPARSE_BACKEND_* variables, with keyword arguments (unless None) on top.

        Raises: ArgumentError when a variable cannot be read, or an unknown option is named.
        """
        known = {field.name for field in fields(cls)}
        unknown = set(overrides) - known
        if unknown:
            raise ArgumentError(
                f"unknown option {min(unknown)!r}; the options are {', '.join(sorted(known))}"
            )
        values: dict[str, Any] = {}
        for name in known:
            text = os.environ.get(f"SPARSE_BACKEND_{name.upper()}")
            if text is not None:
                values[name] = _parse(name, text)
        values.update({name: value for name, value in overrides.items() if value is not None})
        native_allowed()  # so that a variable that cannot be read raises here, and not in a backward pass
        return cls(**values)


def disabled() -> bool:
    """Whether SPARSE_BACKEND_DISABLE asks for everything to run stock."""
    return _parse_bool("SPARSE_BACKEND_DISABLE", os.environ.get("SPARSE_BACKEND_DISABLE", ""))


def native_allowed() -> bool:
    """Whether SPARSE_BACKEND_NATIVE lets the native CPU kernels run; it does unless it is 0."""
    text = os.environ.get("SPARSE_BACKEND_NATIVE", "")
    # "auto" and an empty string are what a build may have been told under the same name.
    return text.strip().lower() in ("", "auto") or _parse_bool("SPARSE_BACKEND_NATIVE", text)


def _require_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{name}={value!r} must be a number, not {type(value).__name__}")


def _parse(name: str, text: str) -> Any:
    variable = f"SPARSE_BACKEND_{name.upper()}"
    if name == "gradient":
        return text
    if name == "strict":
        return _parse_bool(variable, text)
    try:
        return int(text) if name == "seed" else float(text)
    except ValueError:
        raise ArgumentError(
            f"{variable}={text!r} must be {'an integer' if name == 'seed' else 'a number'}"
        ) from None


def _parse_bool(variable: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE or lowered in _FALSE:
        return lowered in _TRUE
    raise ArgumentError(f"{variable}={text!r} must be 1 or 0")
