"""Norse: LIF without recurrence, LIFBox and LI are accelerated; the other neurons say why they are not."""

from __future__ import annotations

import norse.torch as norse
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import nn

from sparse_backend.adapters.base import Claim, Stock, instance_reason

from .base import AcceleratedModule
from .lif import AcceleratedLI, AcceleratedLICell, AcceleratedLIF, AcceleratedLIFBoxCell, AcceleratedLIFCell

__all__ = [
    "AcceleratedLI",
    "AcceleratedLICell",
    "AcceleratedLIF",
    "AcceleratedLIFBoxCell",
    "AcceleratedLIFCell",
    "NorseAdapter",
    "adapter",
]

_ACCELERATED: dict[type[nn.Module], type[AcceleratedModule]] = {
    cls.upstream: cls
    for cls in (AcceleratedLIFCell, AcceleratedLIF, AcceleratedLIFBoxCell, AcceleratedLICell, AcceleratedLI)
}
_NEURONS = (SNN, SNNCell, SNNRecurrent, SNNRecurrentCell, norse.LILinearCell)


class NorseAdapter:
    """Reads the neurons of Norse."""

    name = "norse"

    def examine(self, module: nn.Module) -> Claim | Stock | None:
        """What to do with the module; None if it is not a neuron of Norse."""
        if isinstance(module, AcceleratedModule):
            return type(module).examine(module)
        if not isinstance(module, _NEURONS):
            return None
        accelerated = _ACCELERATED.get(type(module))
        if accelerated is not None:
            reason = instance_reason(module, _ACCELERATED)
            return accelerated.examine(module) if reason is None else Stock(reason)
        reason = instance_reason(module, _ACCELERATED)
        if reason is None and isinstance(module, (SNNRecurrent, SNNRecurrentCell)):
            reason = f"norse {type(module).__name__} is recurrent: it has no sparse form yet"
        return Stock(reason or f"norse {type(module).__name__} has no sparse form yet")


adapter = NorseAdapter()
