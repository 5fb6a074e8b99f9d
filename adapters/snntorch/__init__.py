"""snnTorch: Leaky and Lapicque are accelerated; the other neurons say why they are not."""

from __future__ import annotations

import snntorch as snn
from torch import nn

from sparse_backend.adapters.base import Claim, Stock, instance_reason

from .base import AcceleratedNeuron
from .lapicque import AcceleratedLapicque
from .leaky import AcceleratedLeaky

__all__ = ["AcceleratedLapicque", "AcceleratedLeaky", "SnnTorchAdapter", "adapter"]

_ACCELERATED: dict[type[nn.Module], type[AcceleratedNeuron]] = {
    snn.Leaky: AcceleratedLeaky,
    snn.Lapicque: AcceleratedLapicque,
}


class SnnTorchAdapter:
    """Reads the neurons of snnTorch."""

    name = "snntorch"

    def examine(self, module: nn.Module) -> Claim | Stock | None:
        """What to do with the module; None if it is not a neuron of snnTorch."""
        if isinstance(module, AcceleratedNeuron):
            return type(module).examine(module)
        if not isinstance(module, snn.SpikingNeuron):
            return None
        accelerated = _ACCELERATED.get(type(module))
        if accelerated is not None:
            reason = instance_reason(module, _ACCELERATED)
            return accelerated.examine(module) if reason is None else Stock(reason)
        return Stock(
            instance_reason(module, _ACCELERATED)
            or f"snntorch.{type(module).__name__} has no sparse form yet"
        )


adapter = SnnTorchAdapter()
