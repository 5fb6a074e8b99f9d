"""The measured network: an ordinary snnTorch module with an explicit time loop."""

from __future__ import annotations

from collections.abc import Callable

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.nn import functional

from .rows import Row

__all__ = ["Net", "scale_to_activity"]

_BETA = 0.95
_HALF_WIDTH = 0.1
_TOLERANCE = 0.05
_MAX_GAIN = 1e3
_BISECTIONS = 30


class Net(nn.Module):
    """Linear and Leaky layers in turn.

    record_all: also return the hidden layers' spikes, for the check; a training step has no use for them.
    """

    def __init__(self, row: Row, spike_grad: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.steps, self.loss = row.steps, row.loss
        self.fcs = nn.ModuleList(nn.Linear(a, b) for a, b in zip(row.widths, row.widths[1:], strict=False))
        self.lifs = nn.ModuleList(snn.Leaky(beta=_BETA, spike_grad=spike_grad) for _ in self.fcs)

    def forward(self, x: Tensor, record_all: bool = False) -> tuple[list[Tensor], Tensor]:
        """x: `[T, B, N]` or, the same at every step, `[B, N]`.

        Returns: spikes `[T, B, N]`, of every layer with `record_all`, else of the last; its membrane
        potential.
        """
        mems = [lif.init_leaky() for lif in self.lifs]
        spikes: list[list[Tensor]] = [[] for _ in self.lifs]
        membrane = []
        for step in range(self.steps):
            out = x[step] if x.dim() == 3 else x
            for layer, (fc, lif) in enumerate(zip(self.fcs, self.lifs, strict=True)):
                out, mems[layer] = lif(fc(out), mems[layer])
                if record_all or layer == len(mems) - 1:
                    spikes[layer].append(out)
            membrane.append(mems[-1])
        kept = spikes if record_all else spikes[-1:]
        return [torch.stack(series) for series in kept], torch.stack(membrane)

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The row's training loss, a scalar."""
        spikes, membrane = self(x)
        if self.loss == "count":
            return functional.cross_entropy(spikes[0].sum(0), labels)
        # As snnTorch's tutorial 5 writes it.
        loss = torch.zeros((), dtype=membrane.dtype)
        for step in range(self.steps):
            loss = loss + functional.cross_entropy(membrane[step], labels)
        return loss


def scale_to_activity(net: Net, x: Tensor, target: float) -> list[tuple[float, float]]:
    """Scale each layer's weights until `target` of its entries have |u - threshold| < 0.1, from below.

    Returns: the gain and the fraction reached, per layer.
    """
    found = []
    with torch.no_grad():
        for fc, lif in zip(net.fcs, net.lifs, strict=True):
            gain, fraction, out = _search(fc(x), lif, target)
            for parameter in fc.parameters():
                parameter.mul_(gain)
            found.append((gain, fraction))
            x = out
    return found


def _search(current: Tensor, lif: nn.Module, target: float) -> tuple[float, float, Tensor]:
    low, gain = 0.0, 0.1
    fraction, spikes = _run(current * gain, lif)
    while fraction < target and gain < _MAX_GAIN:
        low, gain = gain, gain * 1.5
        fraction, spikes = _run(current * gain, lif)
    high = gain
    for _ in range(_BISECTIONS):
        if abs(fraction / target - 1) < _TOLERANCE:
            break
        gain = (low + high) / 2
        fraction, spikes = _run(current * gain, lif)
        low, high = (low, gain) if fraction > target else (gain, high)
    return gain, fraction, spikes


def _run(current: Tensor, lif: nn.Module) -> tuple[float, Tensor]:
    mem = lif.init_leaky()
    spikes, close = [], 0
    for step in range(current.shape[0]):
        spk, mem = lif(current[step], mem)
        spikes.append(spk)
        close += int(((mem - 1).abs() < _HALF_WIDTH).sum())
    return close / current.numel(), torch.stack(spikes)
