"""What snnTorch's first-order neurons have in common: state rules, output rules, how options are read."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, cast

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from sparse_backend.adapters.base import Claim, DirectCall, NeuronLayer, Stock, check_threshold, version
from sparse_backend.errors import SparseBackendError
from sparse_backend.neurons import Surrogate
from sparse_backend.recording import (
    is_pending,
    next_step,
    previous_state,
    record_step,
    resolve,
    shape_of,
    take_neuron_calls,
)
from sparse_backend.runtime import RUNTIME, LayerRuntime
from sparse_backend.torch_private import modes_matter

from .surrogates import numbers_of, recognise

__all__ = ["AcceleratedNeuron", "SnnLayer", "called_natively", "examine_options", "pre_reset", "tensor_of"]

# Where the state before the last step is found, called as a weak reference is: nowhere, since the step
# started from zeros; or where recording keeps it.
_ZEROS = type(None)
_RECORDED: Callable[[], None] = lambda: None  # noqa: E731
MECHANISMS = ("subtract", "zero", "none")  # snn.SpikingNeuron.reset_dict, by value


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A buffer or parameter, without `nn.Module.__getattr__`, which costs as much as all else in a step."""
    value = module._buffers.get(name)
    if value is None:
        value = module._parameters.get(name)
    return getattr(module, name) if value is None else value


def pre_reset(module: nn.Module) -> str | None:
    """The mechanism of the module's `state_function`, fixed at init whatever `reset_mechanism` says later."""
    function = getattr(module.state_function, "__func__", None)
    for mechanism, method in zip(MECHANISMS, ("_base_sub", "_base_zero", "_base_int"), strict=True):
        if function is getattr(type(module), method):
            return mechanism
    return None


def fingerprint_of(module: nn.Module) -> tuple[Any, ...]:
    """All that decides what a step computes and is no tensor, and the threshold's identity and version."""
    held = module.__dict__
    threshold = module._buffers.get("threshold")
    if threshold is None:
        threshold = tensor_of(module, "threshold")
    return (
        held["spike_grad"],
        held["state_function"],
        held.get("reset_delay"),
        held["state_quant"],
        held["inhibition"],
        held["surrogate_disable"],
        id(threshold),
        version(threshold),
    )


def examine_options(module: nn.Module, surrogate: Surrogate | str) -> str | None:
    """Why the module's options keep it stock, or None."""
    if module.surrogate_disable:
        return "surrogate_disable=True: no gradient passes its spikes"
    if module.inhibition:
        return "inhibition=True: the neurons of a layer depend on each other"
    if module.state_quant:
        return "state_quant is set: the membrane potential is quantised at each step"
    if isinstance(surrogate, str):
        return surrogate
    if pre_reset(module) is None:
        return "its state_function was replaced"
    if module.state_function.__self__ is not module:  # type: ignore[union-attr]
        return "its state_function belongs to another module (a shallow copy)"
    replaced = [name for name in ("fire", "mem_reset", "forward") if name in vars(module)]
    return f"its method {replaced[0]} was replaced on the instance" if replaced else None


class SnnLayer(NeuronLayer):
    """snnTorch's part of what recording asks."""

    attributes: tuple[str, ...] | None = (
        *("spike_grad", "state_function", "reset_delay"),
        *("state_quant", "inhibition", "surrogate_disable"),
    )
    absent: tuple[str, ...] = ("reset",)

    def memory(self, module: nn.Module) -> dict[Any, Any] | None:
        """The runtime's, as long as the numbers in the surrogate's closure are the same."""
        runtime: LayerRuntime = module.__dict__[RUNTIME]
        numbers = numbers_of(module.spike_grad)
        if numbers is None:
            return None
        if runtime.kept_for != numbers:
            runtime.kept_for = numbers
            runtime.kept.clear()
        return runtime.kept

    def output_dtype(self, module: nn.Module, dtype: torch.dtype) -> torch.dtype:
        """Upstream's surrogates return float32 whatever comes in; one of ours keeps the dtype."""
        spikes = dtype if isinstance(module.spike_grad, Surrogate) else torch.float32
        graded = tensor_of(module, "graded_spikes_factor")
        return (
            torch.promote_types(spikes, graded.dtype)
            if graded.dim() and graded.is_floating_point()
            else spikes
        )

    def computes_in(self, module: nn.Module, dtype: torch.dtype) -> bool:
        """Whether `dtype` will do: upstream rounds its reset to float32 unless the surrogate is ours."""
        return dtype == torch.float32 or isinstance(module.spike_grad, Surrogate)


class AcceleratedNeuron(DirectCall):
    """Mixed in before an upstream class: the same calls, attributes and results, by whole sequences."""

    upstream: ClassVar[type[nn.Module]]
    layer: ClassVar[SnnLayer]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module's, which is passed by where the call is simply the next step of a recorded loop."""
        if not (kwargs or is_dynamo_compiling()):
            held = self.__dict__
            hidden = held["init_hidden"]
            if len(args) == 2 - hidden:
                buffers = held["_buffers"]
                out = next_step(self, args[0], buffers["mem"] if hidden else args[1])
                if out is not None:
                    buffers["mem"] = out[1]
                    held[RUNTIME].previous = _RECORDED
                    return out[0] if hidden and not held["output"] else out
        return super().__call__(*args, **kwargs)

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        """One step, as upstream: (spk, mem), or spk alone with `init_hidden` and without `output`."""
        if torch.compiler.is_compiling():
            return self.upstream.forward(self, input_, mem)
        held, buffers = self.__dict__, self._buffers
        runtime: LayerRuntime = held[RUNTIME]
        if not isinstance(input_, Tensor) or not self._accepts(runtime):
            return self._stock(input_, mem)
        if mem is None:
            state = buffers.get("mem")
        elif held["init_hidden"] or not isinstance(mem, Tensor) or type(mem) is nn.Parameter:
            return self._stock(input_, mem)
        else:
            state = buffers["mem"] = mem
        if state is None:
            return self._stock(input_, mem)
        known = (state,) if shape_of(state) == shape_of(input_) else None
        out = record_step(self, self.layer, input_, known)
        if out is NotImplemented:
            return self._stock(input_, mem)
        spk, (new,) = out
        if known is None:
            runtime.previous = _ZEROS
        else:
            runtime.previous = _RECORDED if is_pending(state) else weakref.ref(state)
        held.pop("reset", None)
        buffers["mem"] = new
        return spk if held["init_hidden"] and not held["output"] else (spk, new)

    def _accepts(self, runtime: LayerRuntime) -> bool:
        """Whether the options are still ones that can be accelerated; read again only when one has changed.

        Raises: ArgumentError for a negative or non-finite threshold.
        """
        fingerprint = fingerprint_of(self)
        if fingerprint == runtime.fingerprint:
            return runtime.reason is None
        if modes_matter():
            return False  # under fake tensors or a tracer no value can be read: upstream runs then
        claim = self.examine(self)
        runtime.reason = claim.reason if isinstance(claim, Stock) else None
        if runtime.reason is None:
            check_threshold(runtime.name, tensor_of(self, "threshold"), positive=True)
        runtime.fingerprint = fingerprint
        return runtime.reason is None

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """What to do with a module of the upstream class."""
        raise NotImplementedError

    def _stock(self, input_: Any, mem: Any) -> Any:
        buffers = self._buffers
        if isinstance(buffers.get("mem"), Tensor):
            buffers["mem"] = resolve(buffers["mem"])
        return self.upstream.forward(self, resolve(input_), resolve(mem))

    @property
    def reset(self) -> Tensor:
        """Upstream's detached reset signal H(mem_before - threshold) of the last step, computed when read."""
        held = self.__dict__
        if "reset" not in held:
            runtime: LayerRuntime = held[RUNTIME]
            if runtime.previous is None:
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute 'reset' before its first step"
                )
            mem = self._buffers["mem"]
            assert mem is not None
            before = runtime.previous()
            if before is None:
                before = torch.zeros_like(mem) if runtime.previous is _ZEROS else previous_state(mem)
            if before is None:
                raise SparseBackendError(
                    f"the reset of layer {runtime.name!r} follows from the membrane potential before its "
                    "last step, which was not kept: read it at once, hold on to that mem, or stay stock"
                )
            with torch.no_grad():
                held["reset"] = cast(Any, self).mem_reset(resolve(before))
        return held["reset"]

    @reset.setter
    def reset(self, value: Tensor) -> None:
        self.__dict__["reset"] = value

    def settle(self) -> None:
        """Compute attributes that are computed when read, before the module goes back to upstream's class."""
        with contextlib.suppress(SparseBackendError):
            if self.__dict__[RUNTIME].previous is not None:
                _ = self.reset


def called_natively(cls: type[AcceleratedNeuron]) -> None:
    """From now on the ordinary steps of this class are taken up without a Python frame."""
    # In the class itself: a new `nn.Module.__call__` goes down to the classes that have none of their own.
    cls.__call__ = AcceleratedNeuron.__call__  # type: ignore[method-assign]
    take_neuron_calls(cls, globals(), RUNTIME, _RECORDED)


def claim(module: nn.Module, accelerated: type[nn.Module], neuron: str) -> Claim | Stock:
    """The Claim for a module whose options can be accelerated, else Stock with the reason."""
    surrogate = recognise(module.spike_grad)
    reason = examine_options(module, surrogate)
    if reason is not None:
        return Stock(reason)
    assert isinstance(surrogate, Surrogate) and issubclass(accelerated, snn.SpikingNeuron)
    return Claim(accelerated, neuron, surrogate)
