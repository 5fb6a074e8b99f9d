"""Sparse surrogate-gradient training for snnTorch and Norse models.

report = sparse_backend.accelerate(model)   # in place; the training code stays as it is
print(report)
sparse_backend.restore(model)
"""

from __future__ import annotations

from . import errors, functional
from .accelerate import accelerate, accelerated, restore
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    SparseBackendError,
    UnsupportedLayerError,
)
from .install import Installation, install, installed, uninstall
from .neurons import Surrogate, surrogates
from .options import Options
from .report import LayerReport, Report
from .stats import Stats, stats
from .verify import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "Installation",
    "LayerReport",
    "Options",
    "Report",
    "SparseBackendError",
    "Stats",
    "Surrogate",
    "UnsupportedLayerError",
    "Verification",
    "__version__",
    "accelerate",
    "accelerated",
    "errors",
    "functional",
    "install",
    "installed",
    "restore",
    "stats",
    "surrogates",
    "uninstall",
    "verify",
]
