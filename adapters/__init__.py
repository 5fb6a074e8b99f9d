"""Adapters: what the neuron classes of other libraries mean.

The built-in ones are for snnTorch and Norse; either library may be missing. Third parties add theirs through
the entry-point group `sparse_backend.adapters`, whose members are `Adapter` objects or functions that return
one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from importlib.metadata import entry_points

from .base import Adapter, Claim, NeuronLayer, Stock

__all__ = ["GROUP", "Adapter", "Claim", "NeuronLayer", "Stock", "adapters", "unavailable"]

GROUP = "sparse_backend.adapters"
_BUILT_IN = {"snntorch": "snntorch", "norse": "norse"}  # adapter -> the library whose presence it needs


@functools.cache
def _built_in(name: str) -> Adapter | str:
    """The adapter, or why it cannot be used here."""
    library = _BUILT_IN[name]
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    try:
        adapter: Adapter = importlib.import_module(f"{__name__}.{name}").adapter
    except Exception as error:  # a broken installation of one library must not take the other one with it
        return f"{library} cannot be used: {type(error).__name__}: {error}"
    return adapter


@functools.cache
def _from_entry_points() -> tuple[tuple[Adapter, ...], dict[str, str]]:
    found: dict[str, Adapter] = {}
    missing: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        if point.name in _BUILT_IN or point.name in found or point.name in missing:
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


def _built_ins(idle: bool) -> dict[str, Adapter | str]:
    """Until its library has been imported no model can hold an adapter's neurons, and importing one that a
    script does not use would cost it half a second: such idle ones are loaded only when asked for."""
    return {
        name: _built_in(name)
        for name, library in _BUILT_IN.items()
        if idle or library in sys.modules or importlib.util.find_spec(library) is None
    }


def adapters(idle: bool = False) -> tuple[Adapter, ...]:
    """The adapters that can be used here; with `idle`, also those whose library has not been imported yet."""
    built_in = (found for found in _built_ins(idle).values() if not isinstance(found, str))
    return (*built_in, *_from_entry_points()[0])


def unavailable(idle: bool = False) -> dict[str, str]:
    """Adapters that cannot be used here, and why."""
    missing = {name: found for name, found in _built_ins(idle).items() if isinstance(found, str)}
    return missing | _from_entry_points()[1]
