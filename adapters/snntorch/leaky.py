"""snntorch.Leaky as data: m = beta m + I; reset by subtraction, to zero or none, at once or delayed."""

from __future__ import annotations

from typing import Any, Literal, cast

import snntorch as snn
import torch
from torch import Tensor, nn

from sparse_backend.adapters.base import Claim, Stock, per_neuron
from sparse_backend.errors import ArgumentError
from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec, Surrogate

from .base import MECHANISMS, AcceleratedNeuron, SnnLayer, called_natively, claim, pre_reset, tensor_of
from .surrogates import recognise

__all__ = ["AcceleratedLeaky", "LeakyLayer"]

_PRE: dict[str, Literal["none", "subtract", "cut_leak"]] = {
    "subtract": "subtract",
    "zero": "cut_leak",
    "none": "none",
}

_GRADED = "graded_spikes_factor"


def _post_reset(module: nn.Module) -> Literal["none", "subtract", "zero"]:
    # Without the delay upstream asks `reset_mechanism_val`, which may differ from what `state_function` does.
    if module.reset_delay:
        return "none"
    value = int(tensor_of(module, "reset_mechanism_val"))
    return cast(Literal["none", "subtract", "zero"], MECHANISMS[value])


class LeakyLayer(SnnLayer):
    """How recording sees a Leaky module."""

    def neuron(self, module: nn.Module, like: Tensor, shape: torch.Size) -> Neuron | None:
        """rho = beta clamped to [0, 1], as in `Leaky._base_state_function`."""
        surrogate = recognise(module.spike_grad)
        if not self.computes_in(module, like.dtype) or not isinstance(surrogate, Surrogate):
            return None
        threshold = tensor_of(module, "threshold")
        try:
            coefficients = Coefficients.of(
                like,
                membrane=per_neuron("beta", tensor_of(module, "beta").clamp(0, 1), like, shape),
                threshold=per_neuron("threshold", threshold, like, shape),
                graded=per_neuron(_GRADED, tensor_of(module, _GRADED), like, shape),
            )
        except ArgumentError:
            return None  # a coefficient that depends on the batch
        pre = _PRE[cast(str, pre_reset(module))]
        return Neuron(NeuronSpec(pre=pre, post=_post_reset(module), surrogate=surrogate), coefficients)

    def parameters(self, module: nn.Module) -> tuple[Tensor, ...]:
        """beta, threshold, graded spikes factor and, where it is asked, the reset mechanism's number."""
        # Asked at every step of a recorded loop, hence without a function call for each of them.
        parameters, buffers = module._parameters, module._buffers
        held: tuple[Any, ...] = (
            parameters["beta"] if "beta" in parameters else buffers["beta"],
            parameters["threshold"] if "threshold" in parameters else buffers["threshold"],
            parameters[_GRADED] if _GRADED in parameters else buffers[_GRADED],
        )
        if not module.__dict__["reset_delay"]:
            held = (*held, buffers["reset_mechanism_val"])
        return held


class AcceleratedLeaky(AcceleratedNeuron, snn.Leaky):
    """`snntorch.Leaky`, computed by whole sequences."""

    upstream = snn.Leaky
    layer = LeakyLayer()

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """Whether this module's options can be accelerated."""
        graded = tensor_of(module, _GRADED)
        if not module.reset_delay and graded.device.type != "meta" and bool((graded.detach() == 0).any()):
            return Stock("graded_spikes_factor=0 with reset_delay=False: upstream divides by it")
        mechanism = pre_reset(module)
        delay = "" if module.reset_delay else ", reset_delay=False"
        return claim(module, cls, f"Leaky, reset {mechanism}{delay}")


called_natively(AcceleratedLeaky)
