"""The stand-ins for `nn.Linear` and the convolutions in a spiking model.

They are recorded, so that a Linear runs as one with its neuron and a convolution over the whole sequence.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from sparse_backend.adapters.base import DirectCall
from sparse_backend.recording import (
    is_deferred,
    next_feed,
    record_feed,
    record_module_call,
    resolve,
    take_feed_calls,
)

__all__ = ["AcceleratedConv1d", "AcceleratedConv2d", "AcceleratedConv3d", "AcceleratedLinear", "examine"]


class AcceleratedLinear(DirectCall, nn.Linear):
    """`nn.Linear` whose product with a step's input is computed when the whole sequence is known."""

    upstream: ClassVar[type[nn.Module]] = nn.Linear

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module's, which is passed by where the call is simply the next step of a recorded loop."""
        if len(args) == 1 and not (kwargs or is_dynamo_compiling()):
            out = next_feed(self, args[0])
            if out is not None:
                return out
        return super().__call__(*args, **kwargs)

    def forward(self, input: Tensor) -> Tensor:
        """y = x W^T + b; input `[B, N_in]` (one step) or `[T, B, N_in]`."""
        if torch.compiler.is_compiling() or not isinstance(input, Tensor):
            return nn.Linear.forward(self, input)
        out = record_feed(self, input)
        return nn.Linear.forward(self, resolve(input)) if out is NotImplemented else out


take_feed_calls(AcceleratedLinear, globals())


class _AcceleratedConvolution(nn.Module):
    """Mixed in before a convolution. On a recorded input the function that upstream calls is recorded by
    itself; here it is for the first layer, whose input is real."""

    upstream: ClassVar[type[nn.Module]]
    function: ClassVar[Any]

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of one step's input, a batch or a single sample."""
        mine: Any = self
        if not (torch.compiler.is_compiling() or is_deferred(input)) and isinstance(input, Tensor):
            options = (mine.stride, mine.padding, mine.dilation, mine.groups)
            out = record_module_call(self, mine.function, (input, mine.weight, mine.bias, *options))
            if out is not NotImplemented:
                return out
        result: Tensor = self.upstream.forward(self, input)
        return result


class AcceleratedConv1d(_AcceleratedConvolution, nn.Conv1d):
    """`nn.Conv1d`, computed by whole sequences."""

    upstream = nn.Conv1d
    function = staticmethod(torch.conv1d)


class AcceleratedConv2d(_AcceleratedConvolution, nn.Conv2d):
    """`nn.Conv2d`, computed by whole sequences."""

    upstream = nn.Conv2d
    function = staticmethod(torch.conv2d)


class AcceleratedConv3d(_AcceleratedConvolution, nn.Conv3d):
    """`nn.Conv3d`, computed by whole sequences."""

    upstream = nn.Conv3d
    function = staticmethod(torch.conv3d)


_CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    cls.upstream: cls for cls in (AcceleratedConv1d, AcceleratedConv2d, AcceleratedConv3d)
}


def examine(module: nn.Module) -> type[nn.Module] | str | None:
    """The class that takes a feed's place, the reason why it stays stock, or None if it is not a feed."""
    if isinstance(module, (AcceleratedLinear, _AcceleratedConvolution)):
        return type(module)
    if type(module) in _CONVOLUTIONS:
        return _convolution(module)
    if not isinstance(module, nn.Linear):
        return None
    if isinstance(module, nn.LazyLinear):
        return "its weight does not exist before the first call"
    # Before any look at its weight: spectral_norm moves on with each access.
    if type(module) is not nn.Linear:
        return f"{type(module).__name__} is not a plain nn.Linear: its weight may be computed at each call"
    if "forward" in vars(module):
        return "its forward method was replaced on the instance"
    if "weight" not in module._parameters:
        return "its weight is computed at each call (weight_norm, spectral_norm or pruning)"
    weight = module._parameters["weight"]
    return None if weight is None or weight.dim() != 2 else AcceleratedLinear


def _convolution(module: nn.Module) -> type[nn.Module] | None:
    """The class for a convolution whose call is one function of its own parameters; others need none."""
    plain = getattr(module, "padding_mode", None) == "zeros" and not {"forward", "_conv_forward"} & set(
        vars(module)
    )
    held = module._parameters
    return (
        _CONVOLUTIONS[type(module)] if plain and held.get("weight") is not None and "bias" in held else None
    )
