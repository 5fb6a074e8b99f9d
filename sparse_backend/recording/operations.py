"""Operations without a state between two layers: which ones are recorded, and how each runs over time.

A recorded operation is called for a whole stretch of time steps at once where that gives what the calls at
each step would have given, and for one step after the other where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OPERATIONS", "Call", "Operand", "Rule", "can_wait", "over_time"]


@dataclass(frozen=True)
class Operand:
    """Stands in a recorded call's arguments for its tensor number `index`."""

    index: int


@dataclass(frozen=True)
class Call:
    """A call of a torch function, its tensors taken out.

    shapes: of the tensors, at a single step.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    shapes: tuple[torch.Size, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(map(len, self.shapes))

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that is no tensor, given by position or by name."""
        given = dict(self.kwargs)
        return given[name] if name in given else self.args[position] if len(self.args) > position else default

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        def filled(value: Any) -> Any:
            return tensors[value.index] if type(value) is Operand else value

        return self.function(*map(filled, self.args), **{name: filled(v) for name, v in self.kwargs})


Rule = Callable[[Call, Sequence[Tensor], Sequence[bool]], Tensor | None]
"""(call, tensors, which of them are sequences `[t, *step]`) -> its results `[t, *step]` in one call, or None
where only one call per step gives them."""


def over_time(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> Tensor:
    """The results of a call at each step, `[t, *step]`; at least one of the tensors varies."""
    found = OPERATIONS[call.function](call, tensors, varies)
    if found is not None:
        return found
    steps = next(tensor.shape[0] for tensor, varying in zip(tensors, varies, strict=True) if varying)
    rows = [
        tensor.unbind() if varying else (tensor,) * steps
        for tensor, varying in zip(tensors, varies, strict=True)
    ]
    return torch.stack([call(row) for row in zip(*rows, strict=True)])


def _pointwise(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> Tensor | None:
    """Each entry by itself; tensors of a lower rank are broadcast within a step, not over time."""
    rank = max(call.ranks)
    if len({tensor.dtype for tensor in tensors}) > 1 and not all(call.ranks):
        return None  # a 0-dim tensor promotes the others less than a sequence of them would
    aligned = [
        tensor.reshape(tensor.shape[0], *[1] * (rank - own), *tensor.shape[1:])
        if varying and own < rank
        else tensor
        for tensor, varying, own in zip(tensors, varies, call.ranks, strict=True)
    ]
    result: Tensor = call(aligned)
    return result


def _only_first(varies: Sequence[bool]) -> bool:
    return varies[0] and not any(varies[1:])


def _trailing(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> Tensor | None:
    """Works on the last axes, whatever comes before them."""
    if not _only_first(varies):
        return None
    result: Tensor = call(tensors)
    return result


def _folded(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> Tensor | None:
    """Each sample of a batch `[B, C, ...]` by itself."""
    if not _only_first(varies) or call.ranks[0] < 2:
        return None
    first, *rest = tensors
    result: Tensor = call([first.flatten(0, 1), *rest])
    return result.unflatten(0, first.shape[:2])


def _spatial(rank: int) -> Rule:
    """The same, where a single sample is allowed: time takes the place of its batch. rank: of a batch."""

    def rule(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> Tensor | None:
        return (_trailing if call.ranks[0] < rank else _folded)(call, tensors, varies)

    return rule


def _padded(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> Tensor | None:
    """Padding by a constant looks at the last axes alone; the other kinds count the axes before them."""
    constant = call.argument(2, "mode", "constant") == "constant"
    rule = _trailing if constant else _spatial(len(call.argument(1, "pad")) // 2 + 2)
    return rule(call, tensors, varies)


def _product(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> Tensor | None:
    """x W with one matrix W for all steps."""
    return _trailing(call, tensors, varies) if call.ranks[1:] == (2,) else None


def _along(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> Tensor | None:
    """Along given axes of a step."""
    args, kwargs = call.args, dict(call.kwargs)
    dims = call.argument(1, "dim")
    if not _only_first(varies) or dims is None or dims == ():
        return None
    later = tuple([d + (d >= 0) for d in dims]) if isinstance(dims, tuple) else dims + (dims >= 0)
    if "dim" in kwargs:
        kwargs["dim"] = later
    else:
        args = (args[0], later, *args[2:])
    result: Tensor = replace(call, args=args, kwargs=tuple(kwargs.items()))(tensors)
    return result


def _each_step(call: Call, tensors: Sequence[Tensor], varies: Sequence[bool]) -> None:
    """Joins samples: only the call at each step gives what stock gives."""


_F, _T = functional, torch.Tensor


def _named(owners: Sequence[Any], *names: str) -> tuple[Any, ...]:
    """The functions of these names, where this torch has them."""
    found = (getattr(owner, name, None) for owner in owners for name in names)
    return tuple(function for function in found if function is not None)


_POINTWISE = (
    *_named(
        (torch, _T),
        *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "neg"),
        *("negative", "abs", "absolute", "square", "pow", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p"),
        *("reciprocal", "sign", "sin", "cos", "clamp", "clip", "clamp_min", "clamp_max", "maximum"),
        *("minimum", "lerp", "sigmoid", "tanh", "relu", "where", "masked_fill"),
    ),
    *_named(
        (_T,),
        *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"),
        *("__rtruediv__", "__rdiv__", "__div__", "__pow__", "__rpow__", "__neg__", "__abs__"),
    ),
    *_named(
        (_F,),
        *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
        *("sigmoid", "tanh", "hardtanh", "hardsigmoid", "hardswish", "logsigmoid", "softsign", "tanhshrink"),
        *("softshrink", "hardshrink", "threshold"),
    ),
    *_named((torch,), "selu", "celu", "threshold"),
)

_SPATIAL = (
    "conv",
    "conv_transpose",
    "max_pool",
    "avg_pool",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "lp_pool",
)

OPERATIONS: dict[Any, Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **{
        function: _spatial(dimensions + 2)
        for dimensions in (1, 2, 3)
        for function in _named((torch, _F), *(f"{name}{dimensions}d" for name in _SPATIAL))
    },
    **dict.fromkeys(
        _named((_F, torch), "group_norm", "instance_norm", "prelu", "interpolate", "local_response_norm"),
        _folded,
    ),
    **dict.fromkeys(_named((_F, torch), "linear", "layer_norm", "rms_norm"), _trailing),
    **dict.fromkeys((torch.matmul, _T.matmul, _T.__matmul__), _product),
    **dict.fromkeys(
        _named((torch, _T, _F), "softmax", "log_softmax", "sum", "mean", "amax", "amin", "logsumexp"), _along
    ),
    **dict.fromkeys(
        _named(
            (_F,),
            "cross_entropy",
            "nll_loss",
            "mse_loss",
            "l1_loss",
            "smooth_l1_loss",
            "binary_cross_entropy",
        ),
        _each_step,
    ),
    functional.batch_norm: _folded,
    functional.pad: _padded,
}
"""Function -> how it runs over time. None of them draws random numbers."""


def can_wait(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call changes nothing but its result."""
    if kwargs.get("inplace") or kwargs.get("out") is not None:
        return False
    if function is functional.batch_norm:
        return not kwargs.get("training", args[5] if len(args) > 5 else False)
    if function is functional.instance_norm:
        return kwargs.get("running_mean", args[1] if len(args) > 1 else None) is None
    return True
