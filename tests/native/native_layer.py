"""Calls of the native module on torch tensors: addresses and strides in, tensors out of its handles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_backend.ops import memory

from .torch_loop import Spec

_cpu = pytest.importorskip("sparse_backend._cpu", reason="built without the native CPU module")

COEFFICIENTS = ("membrane", "gain", "synapse", "leak", "threshold", "reset", "graded")
Rows = tuple[Tensor, Tensor]  # ptr [B * T + 1], idx


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def dtype_code(dtype: torch.dtype) -> int:
    codes = {torch.float32: "FLOAT32", torch.float64: "FLOAT64", torch.uint8: "UINT8", torch.bool: "BOOL"}
    code: int = getattr(_cpu, codes[dtype])
    return code


def events_of(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Batch-major ptr, idx and val of a dense [T, B, N] tensor, written in plain torch."""
    rows = dense.transpose(0, 1).reshape(-1, dense.shape[-1])
    mask = rows != 0
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    return ptr, mask.nonzero()[:, 1].to(torch.int32), rows[mask]


def packed(dense: Tensor, where: Rows) -> Tensor:
    """dense [T, B, N] read at event positions."""
    rows = dense.transpose(0, 1).reshape(-1, dense.shape[-1])
    row = torch.repeat_interleave(torch.arange(rows.shape[0]), where[0].diff())
    return rows[row, where[1].long()].contiguous()


def taken(events: Any, rows: int) -> Rows:
    """The lists of a native result, which has them no more."""
    ptr = memory.adopt(events.take_ptr(), (rows + 1,), torch.int64)
    return ptr, memory.adopt(events.take_idx(), (events.count,), torch.int32)


@dataclass
class Feed:
    """A dense current, or events with a weight [N, n_in] and a bias."""

    current: Tensor | None = None
    events: tuple[Tensor, Tensor, Tensor | None] | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


@dataclass
class Outputs:
    spikes: Rows
    active: Rows
    u: Tensor
    carriers: Tensor
    resets: Rows
    dense_spikes: Tensor
    membrane: Tensor
    m_last: Tensor
    i_last: Tensor


class NativeLayer:
    """One layer's arguments, kept alive with the tensors that they point to."""

    def __init__(
        self,
        spec: Spec,
        coefficients: dict[str, Tensor],
        feed: Feed,
        m0: Tensor | None,
        i0: Tensor | None,
        cuts: Tensor | None,
        shape: tuple[int, int, int],
        threads: int = 1,
    ) -> None:
        self.shape, self.dtype = shape, coefficients["membrane"].dtype
        steps, batch, width = shape
        self.keep: list[Tensor | None] = [m0, i0, cuts, *coefficients.values(), feed.current, feed.bias]
        fields = {
            "dtype": dtype_code(self.dtype),
            "steps": steps,
            "batch": batch,
            "width": width,
            "threads": threads,
            "integrator": _cpu.INTEGRATORS[spec.integrator],
            "poles": spec.poles,
            "pre": _cpu.PRES[spec.pre],
            "post": _cpu.POSTS[spec.post],
            "fires": spec.fires,
            "surrogate": _cpu.SURROGATES[spec.surrogate],
            "surrogate_p0": spec.p0,
            "surrogate_p1": spec.p1,
            "surrogate_window": spec.window,
            "gradient": _cpu.GRADIENTS[spec.rule],
            "level": spec.level,
            "key": spec.key,
            "m0": address(m0),
            "i0": address(i0),
            "cuts": address(cuts),
        }
        for name in COEFFICIENTS:
            value = coefficients[name]
            fields |= {name: address(value), f"{name}_per_neuron": value.numel() > 1}
        if feed.current is not None:
            constant = feed.current.dim() == 2
            fields |= {"current": address(feed.current), "current_stride_b": feed.current.stride(-2)}
            fields["current_stride_t"] = 0 if constant else feed.current.stride(0)
        if feed.weight is not None and feed.events is not None:
            inputs = feed.weight.shape[1]
            self.weight_t = torch.full((inputs, _cpu.padded_width(width)), torch.nan, dtype=self.dtype)
            _cpu.transpose_weight(
                address(feed.weight),
                address(self.weight_t),
                width,
                inputs,
                feed.weight.stride(0),
                fields["dtype"],
                threads,
            )
            ptr, idx, val = feed.events
            self.keep += [ptr, idx, val]
            fields |= {
                "inputs": inputs,
                "in_ptr": address(ptr),
                "in_idx": address(idx),
                "in_val": address(val),
            }
            fields |= {"weight_t": address(self.weight_t), "bias": address(feed.bias)}
        self.args = _cpu.layer(**fields)

    def forward(
        self, *, carriers: int = 0, includes_spikes: bool = False, contiguous: bool = False
    ) -> Outputs:
        steps, batch, width = self.shape
        count, rows, args = bin(carriers).count("1"), batch * steps, self.args
        # Strides other than the contiguous ones: every second batch element of a wider tensor.
        apart = 1 if contiguous else 2
        dense = torch.full((steps, apart * batch, width), torch.nan, dtype=self.dtype)[:, ::apart]
        membrane = torch.full((steps, batch, width), torch.nan, dtype=self.dtype)
        m_last = torch.full((batch, width), torch.nan, dtype=self.dtype)
        i_last = torch.full((batch, width), torch.nan, dtype=self.dtype)
        self.tails = torch.zeros(2, max(count, 1), batch, width, dtype=self.dtype)
        args.want_spikes = args.want_active = args.want_resets = True
        args.active_includes_spikes, args.carriers = includes_spikes, carriers
        args.spikes, args.spikes_stride_t, args.spikes_stride_b = (
            address(dense),
            dense.stride(0),
            dense.stride(1),
        )
        args.membrane_out, args.membrane_stride_t = address(membrane), membrane.stride(0)
        args.membrane_stride_b, args.m_last, args.i_last = (
            membrane.stride(1),
            address(m_last),
            address(i_last),
        )
        args.carrier_m_last, args.carrier_i_last = address(self.tails[0]), address(self.tails[1])
        handle = _cpu.forward(args)
        lists = [taken(events, rows) for events in (handle.spikes, handle.active, handle.resets)]
        found = handle.active.count
        u = memory.adopt(handle.active.take_values(), (found,), self.dtype)
        values = memory.adopt(handle.active.take_extras(), (found, count), self.dtype)
        return Outputs(lists[0], lists[1], u, values, lists[2], dense, membrane, m_last, i_last)

    def backward(
        self,
        saved: Outputs,
        *,
        dense: bool,
        g_packed: Tensor | None = None,
        g_spikes: Tensor | None = None,
        g_membrane: Tensor | None = None,
        g_m_last: Tensor | None = None,
        g_i_last: Tensor | None = None,
        low: Rows | None = None,
        learn: tuple[str, ...] = COEFFICIENTS,
        form: int = 0,
        x: Tensor | None = None,
    ) -> dict[str, Tensor]:
        steps, batch, width = self.shape
        args = self.args

        def room(*shape: int) -> Tensor:
            return torch.full(shape, torch.nan, dtype=self.dtype)

        out = {"current": room(steps, batch, width), "current_sum": room(batch, width)}
        out |= {"m0": room(batch, width), "i0": room(batch, width), "bias": room(width)}
        out |= {name: room(width) for name in learn}
        if args.weight_t:
            out["weight"] = room(width, args.inputs)
            if low is not None:
                out["low"] = room(low[1].numel())
        fields = {f"d_{name}": address(value) for name, value in out.items()}
        fields |= {"d_current_stride_t": batch * width, "d_current_stride_b": width}
        if low is not None:
            fields |= {"low_ptr": address(low[0]), "low_idx": address(low[1])}
        lists = {"active": saved.active, "spike": saved.spikes, "reset": saved.resets}
        for name, (ptr, idx) in lists.items():
            fields |= {f"{name}_ptr": address(ptr), f"{name}_idx": address(idx)}
        fields |= {"active_u": address(saved.u), "active_carriers": address(saved.carriers)}
        for name, value in (("g_spikes", g_spikes), ("g_membrane", g_membrane)):
            if value is not None:
                fields |= {name: address(value), f"{name}_stride_t": value.stride(0)}
                fields[f"{name}_stride_b"] = value.stride(1)
        fields |= {
            "g_active": address(g_packed),
            "g_m_last": address(g_m_last),
            "g_i_last": address(g_i_last),
        }
        fields["form"] = form
        if x is not None:
            fields |= {"x": address(x), "x_stride_t": x.stride(0), "x_stride_b": x.stride(1)}
        grads = _cpu.gradients(**fields)
        (_cpu.backward_dense if dense else _cpu.backward)(args, grads)
        return out
