"""The common call of a recorded loop, "this module's next step", in C++ (src_cuda/recording/).

`next_feed` and `next_step` decide in a microsecond what module call, adapter and `record.py` decide in six.
They take up the step if it is an ordinary one: the input and the states are what the streams' last steps
returned, nothing that `Watch` remembers has changed, no mode matters and no hook waits. Otherwise they change
nothing and return None, and the call goes its usual way. Where the module was not built, that is always so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..options import native_allowed
from ..torch_private import GLOBAL_HOOKS, MODE_QUESTIONS, address, wrap
from .capture import Inputs
from .deferred import Deferred, as_subclass
from .neuron_stream import NeuronStream
from .segment import Segment, thread
from .stream import FeedStream, Stream
from .watch import ABSENT, Watch
from .wrappers import CONCLUSIVE, Wrappers

__all__ = ["next_feed", "next_step", "not_known"]


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
    module.connect(
        {
            **{kind.__name__: kind for kind in (Deferred, FeedStream, NeuronStream, Stream, Segment)},
            **{kind.__name__: kind for kind in (Inputs, Wrappers, Watch, Tensor)},
            **{"ABSENT": ABSENT, "thread": thread, "address": address, "wrap": wrap, "link": as_subclass},
            "grad_enabled": torch.is_grad_enabled,
            "inference_enabled": torch.is_inference_mode_enabled,
            **{"modes": MODE_QUESTIONS, "hooks": GLOBAL_HOOKS},
            **{"module_class": vars(nn.Module), "module_call": nn.Module.__call__},
        }
    )
    return module


_native = _connected()
next_feed: Callable[[nn.Module, Any], Tensor | None] = not_known if _native is None else _native.next_feed
"""(module, input) of a Linear: the deferred output, or None."""
next_step: Callable[[nn.Module, Any, Any], tuple[Tensor, Any] | None] = (
    not_known if _native is None else _native.next_step
)
"""(module, input, state) of a neuron: (output, new state), or None; a state may be a tuple of tensors."""
