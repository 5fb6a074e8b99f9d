"""Adapters: what the neuron classes of other libraries mean.

The built-in ones are for snnTorch and Norse; either library may be missing. Third parties add theirs through
the entry-point group `sparse_backend.adapters`, whose members are `Adapter` objects or functions that return
one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from importlib.metadata import entry_points

from .base import Adapter, Claim, NeuronLayer, Stock

__all__ = ["GROUP", "Adapter", "Claim", "NeuronLayer", "Stock", "adapters", "unavailable"]

GROUP = "sparse_backend.adapters"
_BUILT_IN = {"snntorch": "snntorch", "norse": "norse"}  # adapter -> the library whose presence it needs


@functools.lru_cache(maxsize=1)
def _load() -> tuple[tuple[Adapter, ...], dict[str, str]]:
    found: dict[str, Adapter] = {}
    missing: dict[str, str] = {}
    for name, library in _BUILT_IN.items():
        if importlib.util.find_spec(library) is None:
            missing[name] = f"{library} is not installed"
            continue
        try:
            found[name] = importlib.import_module(f"{__name__}.{name}").adapter
        except Exception as error:  # a broken installation of one library must not take the other one with it
            missing[name] = f"{library} cannot be used: {type(error).__name__}: {error}"
    for point in entry_points(group=GROUP):
        if point.name in found or point.name in missing:
            continue
        try:
            loaded = point.load()
            makes_one = isinstance(loaded, type) or not isinstance(loaded, Adapter)
            adapter = loaded() if makes_one and callable(loaded) else loaded
            if not isinstance(adapter, Adapter):
                raise TypeError(f"{adapter!r} has no name and examine()")
        except Exception as error:
            missing[point.name] = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"sparse_backend adapter {point.name!r} ({point.value}) is ignored: {error}", stacklevel=2
            )
            continue
        found[point.name] = adapter
    return tuple(found.values()), missing


def adapters() -> tuple[Adapter, ...]:
    """The adapters that can be used here, found once per process."""
    return _load()[0]


def unavailable() -> dict[str, str]:
    """Adapters that cannot be used here, and why."""
    return dict(_load()[1])
