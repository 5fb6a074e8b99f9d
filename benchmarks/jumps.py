"""Batch elements in which rounding decides a surrogate derivative.

A window's derivative jumps at its edges. An entry whose membrane potential lies closer to an edge than
float32 sums in different orders do to each other may be active in stock and not in another program, both
rightly: spikes agree, gradients do not. Such entries are found in float64, from the stock network alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .network import Net

__all__ = ["double_precision", "exact_steps", "undecided_elements"]

_UNIT = 2.0**-24
"""The largest relative error of one float32 rounding."""
_DEVIATIONS = 3.0
"""How many times the estimate of `exact_steps` float32 may be off. Among the millions of entries near the
threshold in the rows, stock's and the accelerated network's membrane potentials are by 2.9 at most."""


@torch.no_grad()
def undecided_elements(stock: Net, x: Tensor, spikes: Sequence[Tensor]) -> Tensor:
    """bool `[B]`: whether the element has an entry of which rounding decides the derivative, or the spike.

    x: the input.  spikes: of all layers, `[T, B, ...]`.
    """
    constant = stock.row.coding == "direct"
    found = torch.zeros(x.shape[0 if constant else 1], dtype=torch.bool, device=x.device)
    net = double_precision(stock)
    sources = (x.expand(stock.row.steps, *x.shape) if constant else x, *spikes)
    for layer, (feed, lif, fired) in enumerate(zip(net.feeds, net.lifs, spikes, strict=True)):
        # Upstream's surrogates that these networks have, atan and fast_sigmoid, have no jumps.
        jumps = getattr(lif.spike_grad, "jumps", ())
        if not jumps:
            continue
        steps = exact_steps(feed, lif, sources[layer], constant and layer == 0)
        for given, (spike, membrane, rounding) in zip(fired, steps, strict=True):
            undecided = spike != given
            for jump in jumps:
                undecided |= (membrane - lif.threshold - jump).abs() < _DEVIATIONS * rounding
            found |= undecided.flatten(1).any(1)
    return found


def double_precision(stock: Net) -> Net:
    """The same network in float64, whatever the given one has run."""
    net = type(stock)(stock.row, stock.lifs[0].spike_grad)
    net.load_state_dict(stock.state_dict())
    return net.to(next(stock.parameters()).device, torch.float64)


def exact_steps(
    feed: nn.Module, lif: nn.Module, rows: Tensor, constant: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Per step the spikes, the membrane potential, and how far float32 is expected to be from it: `[B, ...]`.

    feed, lif: in float64.  rows: `[T, B, ...]`; constant: all alike, so that they are rounded alike as well.

    Each rounding is taken as random, of the size of what is rounded, and decays with the membrane. Those of
    different steps add up as variances; those of a constant current are the same at each step, and add up.
    """
    magnitude = copy.deepcopy(feed)  # of the terms that a current is the sum of
    for parameter in magnitude.parameters():
        parameter.abs_()
    decay = float(lif.beta)  # type: ignore[arg-type]
    membrane = torch.zeros_like(feed(rows[0].double()))
    variance, repeated = torch.zeros_like(membrane), torch.zeros_like(membrane)
    for row in rows:
        before = membrane
        spikes, membrane = lif(feed(row.double()), before)
        of_current = _UNIT * magnitude(row.double().abs())
        variance = decay**2 * variance + _UNIT**2 * (before**2 + membrane**2)
        if constant:
            repeated = decay * repeated + of_current
        else:
            variance += of_current**2
        yield spikes, membrane, variance.sqrt() + repeated
