"""Event lists on a CUDA device: from dense inputs, from a forward scan's bits, and back to dense tensors.

A list's entries are bits first. Their counts per row add up to `ptr`; its last element is the list's size,
which the host has to know to allocate `idx` (see cuda.py on what happens while a CUDA graph is captured).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..torch_private import read_pointer
from . import cuda_cost, cuda_place
from .contract import Layer
from .cuda_place import dtype_code, module, place
from .native_call import Call

__all__ = ["ScanLists", "compress", "gather", "scatter", "to_dense", "words"]


def words(width: int) -> int:
    """Words of 32 neighbouring neurons, one warp each."""
    return -(-width // int(module().LANES))


def _pointers(rows: dict[str, Any], device: torch.device) -> Tensor:
    """`ptr` of the list whose bits `rows` describes."""
    counts = torch.empty(rows["steps"] * rows["batch"] + 1, dtype=torch.int64, device=device)
    module().count_rows(module().bit_rows(**rows, ptr=counts.data_ptr()))
    return counts.cumsum(0)


def compress(x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """(ptr, idx, val) of a dense `[T, B, N_in]` input, or None where a matrix product with it is cheaper.

    x: float32, float64, float16, bfloat16, uint8 or bool; `val` has its dtype if that is float32 or float64,
    else float32. None also for other dtypes and while a CUDA graph is captured.
    """
    code = dtype_code(x.dtype)
    if code is None or cuda_place.capturing(x.device):
        return None
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        x = x.contiguous()
    native, (steps, batch, inputs) = module(), x.shape
    count = words(inputs)
    bits = torch.empty(batch * steps, count, dtype=torch.int32, device=x.device)
    odd = torch.zeros(1, dtype=torch.int32, device=x.device)
    rows = {"bits": bits.data_ptr(), "stride_b": steps * count, "stride_t": count, "stride_word": 1}
    rows |= {"steps": steps, "batch": batch, "width": inputs, **place(x.device)}
    dense = {"x": read_pointer(x), "x_stride_t": x.stride(0), "x_stride_b": x.stride(1), "dtype": code}
    native.mark_entries(native.dense_input(**rows, **dense, odd=odd.data_ptr()))
    ptr = _pointers(rows, x.device)
    events, valued = torch.cat([ptr[-1:], odd]).tolist()
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if cuda_cost.dense_wins(events / x.numel(), x.device, dtype):
        return None
    idx = torch.empty(events, dtype=torch.int32, device=x.device)
    val = torch.empty(events if valued else 0, dtype=dtype, device=x.device)
    native.write_entries(
        native.dense_input(**rows, **dense, ptr=ptr.data_ptr()),
        *(idx.data_ptr(), val.data_ptr() if valued else 0, dtype_code(dtype)),
    )
    return ptr, idx, val


@dataclass
class ScanLists:
    """The bits that a forward scan leaves, and the u of active entries in the order of the scan.

    Each (b, word) has `region` places for its active entries. A quarter of all entries is enough for most
    layers; the scan says how many there were, and runs again with enough room where that was too little.
    """

    layer: Layer
    bits: dict[str, Tensor]
    before: Tensor
    u: Tensor
    carriers: Tensor
    summary: Tensor
    region: int

    @classmethod
    def empty(cls, layer: Layer, names: list[str], carriers: int, region: int) -> ScanLists:
        steps, batch, width = layer.shape
        like, shape = layer.m0, (batch, words(width), steps)
        listed = "active" in names
        entries = shape[:2] + (region,) if listed else (0,)
        return cls(
            layer,
            {name: like.new_empty(shape, dtype=torch.int32) for name in names},
            like.new_empty(shape if listed else 0, dtype=torch.int32),
            like.new_empty(entries),
            like.new_empty((*entries, carriers)),
            torch.zeros(2, dtype=torch.int64, device=like.device),
            region,
        )

    def describe(self, call: Call) -> None:
        """Tell the scan where its bits go."""
        stems = {"spikes": "spike_bits", "active": "active_bits", "resets": "reset_bits"}
        for name, value in self.bits.items():
            call.write(stems[name], value)
        call.write("summary", self.summary)
        if "active" in self.bits:
            call.write("active_before", self.before)
            call.write("staged_u", self.u)
            call.write("staged_carriers", self.carriers)
            call.fields["region"] = self.region

    def _rows(self, name: str) -> dict[str, Any]:
        steps, batch, width = self.layer.shape
        strides = {"stride_b": words(width) * steps, "stride_t": 1, "stride_word": steps}
        sizes = {"steps": steps, "batch": batch, "width": width}
        return {"bits": self.bits[name].data_ptr(), **strides, **sizes, **place(self.layer.m0.device)}

    def pointers(self) -> dict[str, Tensor]:
        """`ptr` of each list."""
        return {name: _pointers(self._rows(name), self.layer.m0.device) for name in self.bits}

    def write_spikes(self, ptr: Tensor, size: int, valued: bool) -> tuple[Tensor, Tensor]:
        """(idx, val) of the output spikes; val is empty unless a spike's value can differ from one."""
        like, graded = self.layer.m0, self.layer.coefficients.graded.to(self.layer.m0.dtype)
        idx, val = like.new_empty(size, dtype=torch.int32), like.new_empty(size if valued else 0)
        targets = {"ptr": ptr.data_ptr(), "idx": idx.data_ptr(), "val": val.data_ptr() if valued else 0}
        value = {"graded": read_pointer(graded), "graded_per_neuron": graded.dim() > 0}
        module().write_spikes(
            module().spike_list(**self._rows("spikes"), **targets, **value, dtype=dtype_code(like.dtype))
        )
        return idx, val

    def write_resets(self, ptr: Tensor, size: int) -> Tensor:
        """idx of the entries with r = 1."""
        idx = self.layer.m0.new_empty(size, dtype=torch.int32)
        targets = {"ptr": ptr.data_ptr(), "idx": idx.data_ptr()}
        module().write_spikes(module().spike_list(**self._rows("resets"), **targets))
        return idx

    def write_active(self, ptr: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(idx, u, sensitivities) of the active entries."""
        like, count = self.layer.m0, self.carriers.shape[-1]
        idx, u = like.new_empty(size, dtype=torch.int32), like.new_empty(size)
        sensitivities = like.new_empty((size, count) if count else 0)
        call = Call(**self._rows("active"), ptr=ptr.data_ptr(), idx=idx.data_ptr(), region=self.region)
        call.fields |= {"carrier_count": count, "dtype": dtype_code(like.dtype)}
        for name, target in (("u", u), ("carriers", sensitivities)):
            call.write(name, target)
        for name, staged in (
            ("before", self.before),
            ("staged_u", self.u),
            ("staged_carriers", self.carriers),
        ):
            call.read(name, staged)
        module().write_active(module().active_list(**call.fields))
        return idx, u, sensitivities


def _expansion(
    ptr: Tensor, idx: Tensor, val: Tensor | None, dense: Tensor, sizes: tuple[int, int, int], begin: int
) -> Any:
    steps, batch, width = sizes
    fields: dict[str, Any] = {
        "ptr": read_pointer(ptr),
        "idx": read_pointer(idx),
        "dense": read_pointer(dense),
    }
    fields |= {"stride_t": dense.stride(0), "stride_b": dense.stride(1), "dtype": dtype_code(dense.dtype)}
    fields |= {"steps": steps, "batch": batch, "width": width, "begin": begin, "end": begin + dense.shape[0]}
    fields["val"] = read_pointer(val) if val is not None and val.numel() else 0
    return module().expansion(**fields, **place(dense.device))


def scatter(
    ptr: Tensor, idx: Tensor, val: Tensor, shape: tuple[int, int, int], begin: int, out: Tensor
) -> Tensor:
    """Write steps `begin` and on of the events (of a `[T, B, N]` tensor, shape) densely to out `[C, B,
    N]`."""
    val = val.to(out.dtype)
    module().scatter(_expansion(ptr, idx, val, out, shape, begin))
    return out


def to_dense(
    ptr: Tensor, idx: Tensor, val: Tensor, shape: tuple[int, int, int], dtype: torch.dtype
) -> Tensor:
    """The events as a dense `[T, B, N]` tensor."""
    return scatter(ptr, idx, val, shape, 0, torch.empty(shape, dtype=dtype, device=idx.device))


def gather(
    dense: Tensor,
    ptr: Tensor,
    idx: Tensor,
    steps: int | None = None,
    begin: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """The entries of dense `[C, B, N]`, steps `begin` and on of `steps`, at the events: `[E]`, zero at other
    steps."""
    if dense.shape[-1] > 1 and dense.stride(-1) != 1:
        dense = dense.contiguous()
    if out is None:
        out = dense.new_zeros(idx.numel())
    sizes = (steps or dense.shape[0], dense.shape[1], dense.shape[2])
    module().gather(_expansion(ptr, idx, out, dense, sizes, begin))
    return out
