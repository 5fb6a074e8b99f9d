"""snntorch.Lapicque as data: an RC circuit, m = (1 - dt/RC) m + (dt/C) I; zero reset wipes all of it."""

from __future__ import annotations

from typing import Literal, cast

import snntorch as snn
import torch
from torch import Tensor, nn

from sparse_backend.adapters.base import Claim, Stock, per_neuron
from sparse_backend.errors import ArgumentError
from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec, Surrogate

from .base import AcceleratedNeuron, SnnLayer, called_natively, claim, pre_reset, tensor_of
from .surrogates import recognise

__all__ = ["AcceleratedLapicque", "LapicqueLayer"]

_PRE: dict[str, Literal["none", "subtract", "wipe"]] = {
    "subtract": "subtract",
    "zero": "wipe",
    "none": "none",
}
_CIRCUIT = ("R", "C", "time_step")


class LapicqueLayer(SnnLayer):
    """How recording sees a Lapicque module."""

    def neuron(self, module: nn.Module, like: Tensor, shape: torch.Size) -> Neuron | None:
        """rho = 1 - dt/(R C), k = R (1/(R C)) dt, in upstream's order (`Lapicque._base_state_function`)."""
        surrogate = recognise(module.spike_grad)
        if not self.computes_in(module, like.dtype) or not isinstance(surrogate, Surrogate):
            return None
        resistance, capacitance, step = (tensor_of(module, name) for name in _CIRCUIT)
        try:
            coefficients = Coefficients.of(
                like,
                membrane=per_neuron("1 - dt/(R C)", 1 - (step / (resistance * capacitance)), like, shape),
                gain=per_neuron("dt/C", resistance * (1 / (resistance * capacitance)) * step, like, shape),
                threshold=per_neuron("threshold", tensor_of(module, "threshold"), like, shape),
                graded=per_neuron(
                    "graded_spikes_factor", tensor_of(module, "graded_spikes_factor"), like, shape
                ),
            )
        except ArgumentError:
            return None  # a coefficient that depends on the batch
        pre = _PRE[cast(str, pre_reset(module))]
        return Neuron(NeuronSpec(pre=pre, surrogate=surrogate), coefficients)

    def parameters(self, module: nn.Module) -> tuple[Tensor, ...]:
        """R, C, time step, threshold, graded spikes factor; upstream does not read beta here either."""
        return tuple(tensor_of(module, name) for name in (*_CIRCUIT, "threshold", "graded_spikes_factor"))


class AcceleratedLapicque(AcceleratedNeuron, snn.Lapicque):
    """`snntorch.Lapicque`, computed by whole sequences."""

    upstream = snn.Lapicque
    layer = LapicqueLayer()

    @classmethod
    def examine(cls, module: nn.Module) -> Claim | Stock:
        """Whether this module's options can be accelerated."""
        return claim(module, cls, f"Lapicque, reset {pre_reset(module)}")


called_natively(AcceleratedLapicque)
