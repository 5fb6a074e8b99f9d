"""Norse's LIF without recurrence, LIFBox and LI as data: Euler steps, reset to a value or by subtraction."""

from __future__ import annotations

from typing import Any, cast

import norse.torch as norse
import torch
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.lif import lif_feed_forward_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import Tensor, nn

from sparse_backend.adapters.base import Claim, Stock, per_neuron
from sparse_backend.errors import ArgumentError
from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec, Surrogate, surrogates

from .base import AcceleratedCell, AcceleratedSequence, NorseLayer, claim, surrogate_of

__all__ = [
    "AcceleratedLI",
    "AcceleratedLICell",
    "AcceleratedLIF",
    "AcceleratedLIFBoxCell",
    "AcceleratedLIFCell",
]


def _coefficients(module: nn.Module, like: Tensor, shape: torch.Size, **names: str) -> Coefficients | None:
    """Coefficients from members of the parameter tuple; rates are multiplied by dt, as upstream does."""
    values: dict[str, Tensor | float] = {}
    for coefficient, member in names.items():
        value: Any = getattr(module.p, member)
        if member.startswith("tau_"):
            value = module.dt * value
        try:
            values[coefficient] = per_neuron(member, value, like, shape)
        except ArgumentError:
            return None  # depends on the batch
    return Coefficients.of(like, **values)


class LIFLayer(NorseLayer):
    """`lif_feed_forward_step`: i' = i + x, v_d = v + a((v_leak - v) + i'), v = (1 - z) v_d + z v_reset."""

    fields = ("tau_syn_inv", "tau_mem_inv", "v_leak", "v_th", "v_reset")
    state_type = norse.LIFFeedForwardState

    def neuron(self, module: nn.Module, like: Tensor, shape: torch.Size) -> Neuron | None:
        """a = dt/tau_mem, b = dt/tau_syn."""
        surrogate = surrogate_of(module.p)
        coefficients = _coefficients(
            *(module, like, shape),
            membrane="tau_mem_inv",
            synapse="tau_syn_inv",
            leak="v_leak",
            threshold="v_th",
            reset="v_reset",
        )
        if coefficients is None or not isinstance(surrogate, Surrogate):
            return None
        return Neuron(NeuronSpec("euler", poles=2, post="value", surrogate=surrogate), coefficients)


class LIFBoxLayer(NorseLayer):
    """`lif_box_feed_forward_step`: v_d = v + a((x + v_leak) - v), then reset to a value or by subtraction."""

    fields = ("tau_mem_inv", "v_leak", "v_th", "v_reset")
    state_type = norse.LIFBoxFeedForwardState

    def neuron(self, module: nn.Module, like: Tensor, shape: torch.Size) -> Neuron | None:
        """a = dt/tau_mem."""
        surrogate = surrogate_of(module.p)
        coefficients = _coefficients(
            *(module, like, shape), membrane="tau_mem_inv", leak="v_leak", threshold="v_th", reset="v_reset"
        )
        if coefficients is None or not isinstance(surrogate, Surrogate):
            return None
        value = cast(Any, module.p).reset_method is reset_value
        spec = NeuronSpec("euler", post="value" if value else "subtract_all", surrogate=surrogate)
        return Neuron(spec, coefficients)


class LILayer(NorseLayer):
    """`li_feed_forward_step`: the step of LIF without threshold and reset; the output is v."""

    fields = ("tau_syn_inv", "tau_mem_inv", "v_leak")
    state_type = norse.LIState
    output_is_membrane = True

    def neuron(self, module: nn.Module, like: Tensor, shape: torch.Size) -> Neuron | None:
        """a = dt/tau_mem, b = dt/tau_syn."""
        coefficients = _coefficients(
            *(module, like, shape), membrane="tau_mem_inv", synapse="tau_syn_inv", leak="v_leak"
        )
        if coefficients is None:
            return None
        return Neuron(NeuronSpec("euler", poles=2, fires=False, surrogate=surrogates.zero()), coefficients)


class AcceleratedLIFCell(AcceleratedCell, norse.LIFCell):
    """`norse.torch.LIFCell`, computed by whole sequences."""

    upstream = norse.LIFCell
    layer = LIFLayer()

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """Whether this module's options can be accelerated."""
        return claim(module, cls, lif_feed_forward_step, "LIF, reset to v_reset")


class AcceleratedLIF(AcceleratedSequence, norse.LIF):
    """`norse.torch.LIF`, computed by whole sequences."""

    upstream = norse.LIF
    layer = LIFLayer()

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """Whether this module's options can be accelerated."""
        return claim(module, cls, lif_feed_forward_step, "LIF, reset to v_reset")


class AcceleratedLIFBoxCell(AcceleratedCell, norse.LIFBoxCell):
    """`norse.torch.LIFBoxCell`, computed by whole sequences."""

    upstream = norse.LIFBoxCell
    layer = LIFBoxLayer()

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """Whether this module's options can be accelerated."""
        method = cast(Any, module.p).reset_method
        if method is not reset_value and method is not reset_subtract:
            return Stock(f"reset_method {getattr(method, '__name__', method)!s} is not one of Norse's")
        name = "reset to v_reset" if method is reset_value else "reset by subtraction"
        return claim(module, cls, lif_box_feed_forward_step, f"LIFBox, {name}")


class AcceleratedLICell(AcceleratedCell, norse.LICell):
    """`norse.torch.LICell`, computed by whole sequences."""

    upstream = norse.LICell
    layer = LILayer()

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """Whether this module's options can be accelerated."""
        return claim(module, cls, li_feed_forward_step, "LI, no spikes", fires=False)


class AcceleratedLI(AcceleratedSequence, norse.LI):
    """`norse.torch.LI`, computed by whole sequences."""

    upstream = norse.LI
    layer = LILayer()

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """Whether this module's options can be accelerated."""
        return claim(module, cls, li_feed_forward_step, "LI, no spikes", fires=False)
