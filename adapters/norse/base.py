"""What Norse's cells and time modules have in common: states in and out, and reading parameter tuples."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from sparse_backend.adapters.base import Claim, DirectCall, NeuronLayer, Stock, check_threshold, version
from sparse_backend.recording import (
    is_deferred,
    next_step,
    record_sequence,
    record_step,
    resolve,
    resolve_all,
)
from sparse_backend.runtime import RUNTIME, LayerRuntime
from sparse_backend.torch_private import modes_matter

from .surrogates import recognise

__all__ = [
    "AcceleratedCell",
    "AcceleratedModule",
    "AcceleratedSequence",
    "NorseLayer",
    "claim",
    "surrogate_of",
]


def surrogate_of(p: Any) -> Any:
    """The surrogate of a parameter tuple, or the reason why there is none."""
    alpha = p.alpha
    if isinstance(alpha, Tensor):
        if alpha.numel() != 1:
            return f"alpha has shape {tuple(alpha.shape)}: one value per layer is supported"
        alpha = alpha.detach()
    return recognise(p.method, float(alpha))


class NorseLayer(NeuronLayer):
    """Norse's part of what recording asks.

    fields: the members of the parameter tuple that the step reads.
    state_type: the NamedTuple of states that upstream's step returns, in the order (v, i).
    """

    attributes: tuple[str, ...] | None = ("activation", "p", "dt", "record_states")
    fields: ClassVar[tuple[str, ...]]
    state_type: ClassVar[type[Any]]

    def parameters(self, module: nn.Module) -> tuple[Tensor, ...]:
        """The tensors of the parameter tuple; they are no parameters of the module."""
        p = module.p
        values = (getattr(p, name) for name in self.fields)
        return tuple(value for value in values if isinstance(value, Tensor))


class AcceleratedModule(DirectCall):
    """Mixed in before an upstream class: the same calls and results, computed by whole sequences."""

    upstream: ClassVar[type[nn.Module]]
    layer: ClassVar[NorseLayer]

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """What to do with a module of the upstream class."""
        raise NotImplementedError

    def _recorded(self, input_tensor: Any, state: Any, record: Any) -> Any:
        """(output, state) of a recorded call, or NotImplemented."""
        if not isinstance(input_tensor, Tensor) or not self._accepts():
            return NotImplemented
        if not is_deferred(input_tensor) and input_tensor.is_sparse:
            return NotImplemented
        first = self._initial(input_tensor) if state is None else state
        tensors = tuple(getattr(first, name, None) for name in self.layer.state_type._fields)
        if not all(isinstance(value, Tensor) for value in tensors):
            return NotImplemented
        out = record(self, self.layer, input_tensor, tensors)
        if out is NotImplemented:
            return NotImplemented
        output, final = out
        return output, self.layer.state_type(*final)

    def _initial(self, input_tensor: Tensor) -> Any:
        # Upstream starts in float32 and is promoted by the first step's input.
        first = cast(Any, self).state_fallback(input_tensor)
        dtype = input_tensor.dtype
        if dtype == torch.float32 or all(value.dtype == dtype for value in first):
            return first
        return type(first)(*(value.to(dtype) for value in first))

    def _accepts(self) -> bool:
        """Whether the options are still ones that can be accelerated; read again only when one has changed.

        Raises: ArgumentError for a non-finite threshold. (A negative one is usual: potentials may be in
        millivolts.)
        """
        held = self.__dict__
        runtime: LayerRuntime = held[RUNTIME]
        p = self.p
        threshold = getattr(p, "v_th", None)
        fingerprint = (
            held["activation"],
            id(p),
            held["dt"],
            getattr(p, "method", None),
            held.get("record_states"),
            id(threshold),
            version(threshold) if isinstance(threshold, Tensor) else None,
        )
        if fingerprint == runtime.fingerprint:
            return runtime.reason is None
        if modes_matter():
            return False  # under fake tensors or a tracer no value can be read: upstream runs then
        claim = self.examine(self)
        runtime.reason = claim.reason if isinstance(claim, Stock) else None
        if runtime.reason is None and isinstance(threshold, Tensor):
            check_threshold(runtime.name, threshold, positive=False)
        # The tuple itself is kept so that its id is not given to another one.
        runtime.fingerprint, runtime.held = fingerprint, p
        return runtime.reason is None


class AcceleratedCell(AcceleratedModule):
    """A cell: one time step per call."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module's, which is passed by where the call is simply the next step of a recorded loop."""
        if len(args) == 2 and not (kwargs or is_dynamo_compiling()):
            out = next_step(self, *args)
            if out is not None:
                return out[0], self.layer.state_type(*out[1])
        return super().__call__(*args, **kwargs)

    def forward(self, input_tensor: Tensor, state: Any | None = None) -> Any:
        """(output, state) of one step; input `[B, N]`."""
        if torch.compiler.is_compiling():
            return self.upstream.forward(self, input_tensor, state)
        out = self._recorded(input_tensor, state, record_step)
        if out is NotImplemented:
            return self.upstream.forward(self, resolve(input_tensor), resolve_all(state))
        return out


class AcceleratedSequence(AcceleratedModule):
    """A time module: the whole sequence per call."""

    def forward(self, input_tensor: Tensor, state: Any | None = None) -> Any:
        """(outputs, final state); input `[T, B, N]`."""
        if torch.compiler.is_compiling():
            return self.upstream.forward(self, input_tensor, state)
        out = self._recorded(input_tensor, state, record_sequence)
        if out is NotImplemented:
            return self.upstream.forward(self, resolve(input_tensor), resolve_all(state))
        return out


def claim(
    module: nn.Module, accelerated: type[nn.Module], step: Any, neuron: str, fires: bool = True
) -> Claim | Stock:
    """The Claim for a module that computes `step`, else Stock with the reason."""
    if module.activation is not step:
        return Stock(
            f"its step is {getattr(module.activation, '__name__', module.activation)!s}, not {step.__name__}"
        )
    if getattr(module, "record_states", False):
        return Stock("record_states=True: every state is asked for")
    dt = module.dt
    if isinstance(dt, Tensor) and dt.numel() != 1:
        return Stock(f"dt has shape {tuple(dt.shape)}: one time step per layer is supported")
    surrogate = surrogate_of(module.p) if fires else None
    return Stock(surrogate) if isinstance(surrogate, str) else Claim(accelerated, neuron, surrogate)
