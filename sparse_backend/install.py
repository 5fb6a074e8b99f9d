"""`install`, `uninstall`: every snnTorch and Norse model of the process, whoever builds it.

`torch.nn.Module.__call__` is replaced by one that accelerates a module the first time it is called. A model
is called before its parts, so it is accelerated as a whole; the layers of a loop in a free function, which
are called directly, are accelerated one by one.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .accelerate import accelerate, examine, is_accelerated, restore
from .adapters import feeds
from .errors import UnsupportedLayerError
from .options import Options, disabled
from .recording import stands_in
from .report import Report
from .runtime import runtime_of

__all__ = ["Installation", "install", "installed", "uninstall"]


_KEPT_REPORTS = 64  # a process may build models without end


class Installation:
    """What `install` did: its options and, for each model that was called since, a Report."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._seen: dict[int, weakref.ref[nn.Module]] = {}
        self._models: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._reports: deque[Report] = deque(maxlen=_KEPT_REPORTS)
        self._feeds: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._neurons = 0

    @property
    def models(self) -> list[nn.Module]:
        """The modules with neurons that were accelerated at their first call, as long as they live."""
        return list(self._models)

    @property
    def reports(self) -> list[Report]:
        """The newest reports, in order, also those of models that are gone."""
        return list(self._reports)

    @property
    def neurons(self) -> int:
        """How many neuron layers were accelerated so far."""
        return self._neurons

    def knows(self, module: nn.Module) -> bool:
        """Whether the module was called before, by itself or within a model."""
        return id(module) in self._seen

    def meet(self, module: nn.Module) -> None:
        """Accelerate a module that is called for the first time, with all that it contains.

        Raises: UnsupportedLayerError under strict.
        """
        with self._lock:
            feed = feeds.examine(module)
            if feed is not None:
                # It says nothing by itself: only beside neurons is it their feed. Else it is asked again.
                if self._neurons:
                    self._remember([module])
                    self._take_feed(module, feed)
                return
            parts = list(module.modules())
            found = [part for part in parts if examine(part) is not None]
            if found:
                self._take_model(module)
            self._remember(parts)

    def undo(self) -> None:
        """Restore every module that was accelerated here."""
        for module in [*self._models, *self._feeds]:
            restore(module)

    def _take_feed(self, module: nn.Module, feed: type[nn.Module] | str) -> None:
        if isinstance(feed, type):
            module.__class__ = feed
            self._feeds.add(module)
        elif self.options.strict:
            raise UnsupportedLayerError(f"strict=True: {type(module).__name__} would stay stock: {feed}")

    def _take_model(self, module: nn.Module) -> None:
        report = accelerate(module, **vars(self.options))
        runtime = runtime_of(module)
        if runtime is not None:
            # A neuron by itself has no name; without one of their own, such layers would share their draws.
            name = f"{report.layers[0].kind.lower()}{self._neurons + 1}"
            runtime.configure(name, self._neurons, self.options)
            report.layers[0].name = name
        self._neurons += sum(not row.feed for row in report.accelerated)
        self._models.add(module)
        self._reports.append(report)

    def _remember(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            key = id(module)
            self._seen[key] = weakref.ref(module, functools.partial(_forget, self._seen, key))


def _forget(seen: dict[int, weakref.ref[nn.Module]], key: int, _: weakref.ref[nn.Module]) -> None:
    seen.pop(key, None)


_current: Installation | None = None
_original: Callable[..., Any] = nn.Module.__call__  # as the last `install` found it
_in_chain = False  # whether ours is Module.__call__, or called by what someone put in its place since


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    current = _current
    if current is None or id(module) in current._seen or is_accelerated(module):
        return _original(module, *args, **kwargs)
    if not torch.compiler.is_compiling():
        current.meet(module)
    # Its class may be another one now, and that may bring its own __call__.
    own = type(module).__call__
    return (_original if own is nn.Module.__call__ else own)(module, *args, **kwargs)


def install(
    *,
    gradient: str | None = None,
    budget: float | None = None,
    backward_threshold: float | None = None,
    seed: int | None = None,
    strict: bool | None = None,
) -> Installation:
    """Accelerate every snnTorch and Norse model of this process at its first call, also those built later.

    Options as for `accelerate`. A second call with the same options changes nothing; with other options the
    models take them at their next call. With SPARSE_BACKEND_DISABLE=1 nothing is installed. A model that
    `accelerate` has changed keeps the options that it was given there.

    Returns: the Installation, which lists models and reports as they come.
    Raises: ArgumentError, ArgumentTypeError for bad options. Under strict, the first call of a model raises
    UnsupportedLayerError if one of its layers would stay stock.
    """
    global _current, _original, _in_chain
    options = Options.from_environment(
        gradient=gradient, budget=budget, backward_threshold=backward_threshold, seed=seed, strict=strict
    )
    if disabled():
        return Installation(options)
    if _current is not None and _current.options == options:
        return _current
    uninstall()
    _current = Installation(options)
    if nn.Module.__call__ is _original:
        _in_chain = False  # someone has put back what was there before ours
    if not _in_chain and nn.Module.__call__ is not _call:
        _original = nn.Module.__call__
        stands_in(_call, _original)
        nn.Module.__call__ = _call  # type: ignore[method-assign]
    _in_chain = True
    return _current


def uninstall() -> None:
    """Undo `install`: its models are stock again, and so is `torch.nn.Module.__call__`.

    Without an installation nothing happens. Models that `accelerate` has changed stay accelerated.
    """
    global _current, _in_chain
    if _current is None:
        return
    if nn.Module.__call__ is _call:
        nn.Module.__call__ = _original  # type: ignore[method-assign]
        _in_chain = False
    # Otherwise someone has wrapped our function since: it stays in their chain and passes calls through.
    ended, _current = _current, None
    ended.undo()


def installed() -> Installation | None:
    """The Installation in force, or None."""
    return _current
