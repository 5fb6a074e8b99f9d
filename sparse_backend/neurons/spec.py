"""A neuron as data: the structure of its step (`NeuronSpec`) and its numbers (`Coefficients`).

One parametrized step covers every neuron here (docs/how-it-works.md); adding one means choosing a row of
these fields.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from torch import Tensor

from ..constants import number
from ..errors import ArgumentError
from . import surrogates
from .surrogates import Surrogate

__all__ = ["Coefficients", "Neuron", "NeuronSpec", "decode"]

Integrator = Literal["decay", "euler"]
PreReset = Literal["none", "subtract", "cut_leak", "wipe"]
PostReset = Literal["none", "subtract", "zero", "value", "subtract_all"]


@dataclass(frozen=True)
class NeuronSpec:
    """The structure of one time step. With r = H(m[t-1] - threshold), detached, and s = H(u - threshold):

    integrator: "decay"  w = rho m[t-1] + k i'            (snnTorch)
                "euler"  w = m[t-1] + a ((leak - m[t-1]) + i')   (Norse; rho = 1 - a, k = a)
    poles: 1    i' = I[t]
           2    i' = alpha i[t-1] + I[t] (decay), i' = i[t-1] + I[t] and then i[t] = i' - b i' (euler)
    pre: what the previous spike does to this step's membrane: nothing, "subtract" u = w - r threshold,
         "cut_leak" (the old membrane is dropped, the input kept), "wipe" (u = 0, input included)
    post: what this step's own spike does to the carried membrane m: "none" m = u,
         "subtract" m = u - (s - r) threshold, "zero" m = u - (s - r) u,
         "value" m = (1 - s) u + s reset, "subtract_all" m = u - s threshold
    fires: False for a leaky integrator, whose output is m itself.
    """

    integrator: Integrator = "decay"
    poles: int = 1
    pre: PreReset = "none"
    post: PostReset = "none"
    fires: bool = True
    surrogate: Surrogate = field(default_factory=surrogates.atan)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("integrator", get_args(Integrator)),
            ("poles", (1, 2)),
            ("pre", get_args(PreReset)),
            ("post", get_args(PostReset)),
        ):
            if getattr(self, name) not in allowed:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be one of {allowed}")
        if not self.fires and (self.pre, self.post) != ("none", "none"):
            raise ArgumentError(
                f"pre={self.pre!r}, post={self.post!r}: a neuron that does not fire has no reset"
            )

    @property
    def uses_previous_spike(self) -> bool:
        """Whether r = H(m[t-1] - threshold) enters the step."""
        return self.pre != "none" or self.post in ("subtract", "zero")

    def uses(self, coefficient: str) -> bool:
        """Whether the step reads this field of `Coefficients`; the gradient of the others is zero."""
        return coefficient in self.coefficients

    @functools.cached_property
    def coefficients(self) -> tuple[str, ...]:
        """The fields of `Coefficients` that the step reads, in their order."""
        read = {
            "membrane": True,
            "gain": self.integrator == "decay",
            "synapse": self.poles == 2,
            "leak": self.integrator == "euler",
            "threshold": self.fires,
            "reset": self.post == "value",
            "graded": self.fires,
        }
        return tuple(name for name, does in read.items() if does)

    def codes(self) -> dict[str, int]:
        """The structure as the numbers of src_cuda/common/spec.hpp, which lists the names in the same
        order."""
        return self._codes

    @functools.cached_property
    def _codes(self) -> dict[str, int]:
        return {
            "integrator": get_args(Integrator).index(self.integrator),
            "pre": get_args(PreReset).index(self.pre),
            "post": get_args(PostReset).index(self.post),
        }

    def encode(self) -> str:
        """A canonical string for operator schemas; `decode` is its inverse."""
        return self._encoded

    @functools.cached_property
    def _encoded(self) -> str:
        surrogate = self.surrogate
        numbers = ",".join(value.hex() for value in (*surrogate.params, surrogate.window))
        structure = f"{self.integrator}/{self.poles}/{self.pre}/{self.post}/{int(self.fires)}"
        return f"{structure}/{surrogate.kind}:{numbers}"


@functools.lru_cache(maxsize=256)
def decode(text: str) -> NeuronSpec:
    """The NeuronSpec that `NeuronSpec.encode` wrote as text."""
    integrator, poles, pre, post, fires, surrogate = text.split("/")
    kind, _, numbers = surrogate.partition(":")
    *params, window = (float.fromhex(number) for number in numbers.split(","))
    return NeuronSpec(
        integrator,  # type: ignore[arg-type]  # checked by NeuronSpec itself
        int(poles),
        pre,  # type: ignore[arg-type]
        post,  # type: ignore[arg-type]
        bool(int(fires)),
        Surrogate(kind, tuple(params), window),
    )


@dataclass(frozen=True)
class Coefficients:
    """The numbers of a step, each a 0-dim tensor or one value per neuron `[N]`; differentiable.

    membrane: rho ("decay") or a = dt/tau_mem ("euler").   gain: k ("decay"; "euler" has k = a).
    synapse: alpha ("decay", two poles) or b = dt/tau_syn ("euler", two poles).
    leak: resting potential ("euler").   threshold: u is compared with it.
    reset: the membrane after a spike under post="value".   graded: the value of an output spike.
    A field that the spec does not use may hold any number; its gradient is zero.
    """

    membrane: Tensor
    gain: Tensor
    synapse: Tensor
    leak: Tensor
    threshold: Tensor
    reset: Tensor
    graded: Tensor

    @classmethod
    def of(cls, like: Tensor, **values: Tensor | float) -> Coefficients:
        """Fill what is not named with its neutral value (0, gain and graded 1), in the dtype and device of
        `like`."""
        neutral = {"gain": 1.0, "graded": 1.0}
        filled = {field.name: values.get(field.name, neutral.get(field.name, 0.0)) for field in fields(cls)}
        return cls(**{name: _as(value, like) for name, value in filled.items()})

    def tensors(self) -> tuple[Tensor, ...]:
        """The seven tensors in field order, as operators take them."""
        return _coefficients(self)


_coefficients = operator.attrgetter(*(field.name for field in fields(Coefficients)))


@dataclass(frozen=True)
class Neuron:
    """A neuron layer: structure and numbers."""

    spec: NeuronSpec
    coefficients: Coefficients


def _as(value: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value if value.dtype == like.dtype and value.device == like.device else value.to(like)
    return number(value, like)
