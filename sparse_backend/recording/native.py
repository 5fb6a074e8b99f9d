"""The common call of a recorded loop, "this module's next step", in C++ (src_cuda/recording/).

`next_feed` and `next_step` decide in a microsecond what module call, adapter and `record.py` decide in six.
They take up the step if it is an ordinary one: the input and the states are what the streams' last steps
returned, nothing that `Watch` remembers has changed, no mode matters and no hook waits. Otherwise they change
nothing and return None, and the call goes its usual way. Where the module was not built, that is always so.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..options import native_allowed
from ..torch_private import (
    GLOBAL_HOOKS,
    MODES,
    MODULE_CALL,
    MODULE_GETATTR,
    a_look_tells,
    place,
    rely_on_look,
    wrap,
)
from .capture import Inputs, Run
from .deferred import Deferred, as_subclass
from .neuron_stream import NeuronStream
from .segment import Segment, thread
from .stream import FeedStream, Stream
from .watch import ABSENT, Watch
from .wrappers import CONCLUSIVE, Wrappers

__all__ = [
    "next_feed",
    "next_step",
    "not_known",
    "quicken_attributes",
    "restore_attributes",
    "stands_in",
    "steps_in_a_row",
    "take_feed_calls",
    "take_neuron_calls",
]


def not_known(*_: Any) -> None:
    """The answer of a module that was not built."""
    return None


def _connected() -> Any:
    try:
        if not native_allowed() or not CONCLUSIVE or GLOBAL_HOOKS is None:
            return None
        module: Any = importlib.import_module("sparse_backend._recording")
    except (ImportError, ArgumentError):  # the doctor says so; `accelerate` raises the latter
        return None
    tells = a_look_tells(module.at_rest)
    if tells:
        rely_on_look(module.at_rest)
    module.connect(
        {
            **{kind.__name__: kind for kind in (Deferred, FeedStream, NeuronStream, Stream, Segment)},
            **{kind.__name__: kind for kind in (Inputs, Run, Wrappers, Watch, Tensor)},
            **{"ABSENT": ABSENT, "thread": thread, "wrap": wrap, "link": as_subclass},
            **{"place": place, "base": Tensor._base, "offset": Tensor.storage_offset},
            **{"strides": Tensor.stride, "shape": Tensor.shape, "dtype": Tensor.dtype},
            "is_neg": Tensor.is_neg,
            "requires_grad": Tensor.requires_grad,
            "grad_enabled": torch.is_grad_enabled,
            "inference_enabled": torch.is_inference_mode_enabled,
            **{"modes": MODES, "a_look_tells": tells, "hooks": GLOBAL_HOOKS},
            **{"Module": nn.Module, "module_call": MODULE_CALL, "module_getattr": MODULE_GETATTR},
        }
    )
    module.keep_spares()
    return module


_native = _connected()
next_feed: Callable[[nn.Module, Any], Tensor | None] = not_known if _native is None else _native.next_feed
"""(module, input) of a Linear: the deferred output, or None."""
next_step: Callable[[nn.Module, Any, Any], tuple[Tensor, Any] | None] = (
    not_known if _native is None else _native.next_step
)
"""(module, input, state) of a neuron: (output, new state), or None; a state may be a tuple of tensors."""


def _one_by_one(tensors: Sequence[Any], index: int) -> int:
    return 1


steps_in_a_row: Callable[[Sequence[Any], int], int] = (
    _one_by_one if _native is None else _native.steps_in_a_row
)
"""(tensors, index of a deferred one) -> how many of them from there on are surely steps of one stream and
slot, one after the other, not real and nothing but themselves; at least 1."""


def stands_in(function: Callable[..., Any], original: Callable[..., Any]) -> None:
    """Ordinary steps stay ordinary where `function` is in the place of `nn.Module.__call__`: it passes the
    calls of accelerated modules on to `original` and does nothing else to them.

    Counts only where `original` is torch's own function; the last such `function` is remembered.
    """
    if _native is not None:
        _native.stands_in(function, original)


def take_feed_calls(cls: type[nn.Module], names: dict[str, Any]) -> None:
    """Let calls of a Linear's class ask for `next_feed` before any Python runs, and only then its `__call__`.

    names: the globals of that `__call__`, which asks for `next_feed` by this name.
    """
    if _native is not None:
        _native.take_feed_calls(cls, names)


def take_neuron_calls(cls: type[nn.Module], names: dict[str, Any], runtime: str, previous: object) -> None:
    """The same for a neuron that keeps its state in the buffer `mem`, and `next_step`.

    runtime: the name of an attribute, whose own attribute `previous` is set at every step.
    """
    if _native is not None:
        _native.take_neuron_calls(cls, names, runtime, previous)


_quick: weakref.WeakKeyDictionary[type[nn.Module], weakref.WeakSet[nn.Module]] = weakref.WeakKeyDictionary()


def quicken_attributes(containers: Iterable[nn.Module]) -> None:
    """Let the attributes of these modules' classes be found without the detour that Python makes to
    `nn.Module.__getattr__`: with the same result, and until `restore_attributes` has had all of them."""
    for container in containers:
        cls = type(container)
        if _native is not None and _native.quicken_attributes(cls):
            _quick.setdefault(cls, weakref.WeakSet()).add(container)


def restore_attributes(containers: Iterable[nn.Module]) -> None:
    for container in containers:
        cls = type(container)
        users = _quick.get(cls)
        if users is None:
            continue
        users.discard(container)
        if not users:
            del _quick[cls]
            _native.restore_attributes(cls)
