"""The best dense program we know: one matrix product over all steps per product, one native scan per layer.

It is stock's network and gives stock's gradients. Large buffers are kept from step to step, since memory that
the system has to clear again would cost it a third of its time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import native
from ..network import BETA, SLOPE, Net, training_loss
from ..rows import Row
from .over_time import OverTime
from .unavailable import UnavailableError

__all__ = ["build"]

_THRESHOLD = 1.0


class _Buffers:
    """Memory of one layer, by use; valid until the same use in the next step."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def get(self, use: str, *shape: int) -> Tensor:
        held = self._held.get(use)
        if held is None or held.shape != shape:
            held = self._held[use] = torch.empty(shape)
        return held


class _Scan:
    """The neurons of one layer over all steps, on `[T, B N]`."""

    def __init__(self, steps: int, surrogate: int, parameter: float) -> None:
        self.steps, self.surrogate, self.parameter = steps, surrogate, parameter
        self.buffers = _Buffers()
        self._library = native.load("dense_scan")

    def forward(self, current: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """(z, u) `[T, columns]`; current is that, and is overwritten with u, or `[columns]`."""
        constant = current.numel() == columns and self.steps > 1
        u = self.buffers.get("u", self.steps, columns) if constant else current
        z = self.buffers.get("z", self.steps, columns)
        self._library.scan_forward(
            *(native.address(current), native.c_int64(0 if constant else columns)),
            *(native.address(u), native.address(z), native.c_int64(self.steps), native.c_int64(columns)),
            *(native.c_float(BETA), native.c_float(_THRESHOLD), torch.get_num_threads()),
        )
        return z.view(self.steps, columns), u.view(self.steps, columns)

    def reverse(
        self, u: Tensor, g_z: Tensor | None, g_u: Tensor | None, want_lam: bool
    ) -> tuple[Tensor | None, Tensor]:
        """lam `[T, columns]` and its sum over time `[columns]`."""
        steps, columns = u.shape
        stride = 0
        if g_z is not None:
            stride = 0 if g_z.stride(0) == 0 else columns
            g_z = (g_z[0] if stride == 0 else g_z).contiguous().view(-1, columns)
        g_u = None if g_u is None else g_u.contiguous()
        lam = self.buffers.get("lam", steps, columns) if want_lam else None
        total = self.buffers.get("total", columns)
        self._library.scan_reverse(
            *(native.address(u), native.address(g_z), native.c_int64(stride), native.address(g_u)),
            *(native.address(lam), native.address(total), native.c_int64(steps), native.c_int64(columns)),
            *(native.c_float(BETA), native.c_float(_THRESHOLD)),
            *(self.surrogate, native.c_float(self.parameter), torch.get_num_threads()),
        )
        return lam, total


class _LinearLayer(torch.autograd.Function):
    """x `[T, B, N_in]`, or `[B, N_in]` at every step, to (z, u) `[T, B, N]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, scan: _Scan) -> tuple[Tensor, Tensor]:
        batch, width = x.shape[-2], weight.shape[0]
        rows = x.reshape(-1, x.shape[-1])
        current = scan.buffers.get("current", rows.shape[0], width)
        torch.addmm(bias, rows, weight.t(), out=current)
        z, u = scan.forward(current, batch * width)
        ctx.save_for_backward(rows, weight)
        ctx.set_materialize_grads(False)
        ctx.scan, ctx.u, ctx.shape = scan, u, x.shape
        return z.view(-1, batch, width), u.view(-1, batch, width)

    @staticmethod
    def backward(ctx: Any, g_z: Tensor | None, g_u: Tensor | None) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        scan, width = ctx.scan, weight.shape[0]
        constant = len(ctx.shape) == 2
        lam, total = scan.reverse(ctx.u, _flat(g_z), _flat(g_u), want_lam=not constant)
        total = total.view(-1, width)
        lam = total if lam is None else lam.view(-1, width)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = torch.mm(lam, weight, out=scan.buffers.get("d_x", *rows.shape)).view(ctx.shape)
        return d_x, lam.t() @ rows, total.sum(0), None


class _Neurons(torch.autograd.Function):
    """A current `[T, B, ...]` to (z, u) of the same shape; the current is overwritten."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, scan: _Scan) -> tuple[Tensor, Tensor]:
        z, u = scan.forward(current, current[0].numel())
        ctx.set_materialize_grads(False)
        ctx.scan, ctx.u, ctx.shape = scan, u, current.shape
        return z.view(current.shape), u.view(current.shape)

    @staticmethod
    def backward(ctx: Any, g_z: Tensor | None, g_u: Tensor | None) -> tuple[Tensor | None, None]:
        lam, _ = ctx.scan.reverse(ctx.u, _flat(g_z), _flat(g_u), want_lam=True)
        return lam.view(ctx.shape), None


def _flat(g: Tensor | None) -> Tensor | None:
    return None if g is None else g.flatten(1)


class DenseNet(nn.Module):
    """Linear layers as one function with their scan; convolutions are torch's own, over T B images."""

    def __init__(self, row: Row, stock: Net, gradient: str) -> None:
        super().__init__()
        self.row = row
        self.feeds = stock.feeds
        surrogate = (1, SLOPE) if gradient == "window" else (0, 2.0)
        self._scans = [_Scan(row.steps, *surrogate) for _ in self.feeds]

    def forward(self, x: Tensor, record_all: bool = False) -> tuple[list[Tensor], Tensor]:
        """As `Net.forward`; the next call overwrites what is returned."""
        series = []
        for feed, scan in zip(self.feeds, self._scans, strict=True):
            if isinstance(feed, nn.Linear):
                x, u = _LinearLayer.apply(x, feed.weight, feed.bias, scan)
            else:
                x, u = _Neurons.apply(OverTime(feed)(x).contiguous(), scan)
            series.append(x)
        return (series if record_all else series[-1:]), u

    def loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The row's training loss, a scalar."""
        spikes, membrane = self(x)
        return training_loss(self.row, spikes[-1], membrane, labels)


def build(row: Row, stock: Net, gradient: str) -> DenseNet:
    """Stock's network and surrogate, uncut. Raises: UnavailableError without a C++ compiler."""
    try:
        return DenseNet(row, stock, gradient)
    except native.NoCompilerError as error:
        raise UnavailableError(str(error)) from error
