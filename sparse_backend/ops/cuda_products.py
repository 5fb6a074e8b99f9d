"""The products of the backward pass on a CUDA device, chunk by chunk of time steps: dW and the input
gradient.

lambda of one chunk, `[C, B, N]`, stays in L2 from the reverse scan that writes it to the products that read
it, each in the cheaper of its forms (cuda_cost.py). Matrix products are torch's: no kernel of ours would be
faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import cuda_cost, cuda_place
from .contract import Layer, LayerGradients, LayerOutputs, OutputGradients, scan_form
from .cuda_lists import gather, scatter, to_dense
from .cuda_place import dtype_code, module, place
from .native_call import Call

__all__ = ["ChunkProducts", "by_events", "dense_input", "forms", "transposed"]


def transposed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """W^T `[N_in, N]`: the event forms read and write rows of it."""
    return weight.to(dtype).t().contiguous()


def dense_input(layer: Layer) -> Tensor:
    """The input as `[T, B, N_in]`, in the dtype of the computation."""
    if not layer.packed:
        return layer.dense_input()
    assert layer.in_ptr is not None and layer.in_idx is not None and layer.in_val is not None
    shape = (layer.steps, layer.m0.shape[0], layer.inputs)
    return to_dense(layer.in_ptr, layer.in_idx, layer.in_val, shape, layer.m0.dtype)


def _dense_wins(layer: Layer, count: int) -> bool:
    """Whether a matrix product is cheaper than `count` events among the `[T, B, N_in]` entries of the input.

    While a CUDA graph is captured the true count is unknown and the lists have room for every entry; the
    events that will be there are few wherever this package makes sense.
    """
    if cuda_place.capturing(layer.m0.device):
        return False
    entries = max(1, layer.steps * layer.m0.shape[0] * layer.inputs)
    return cuda_cost.dense_wins(count / entries, layer.m0.device, layer.m0.dtype)


def by_events(layer: Layer) -> bool:
    """Whether the input is events and adding a row of W^T, or of dW^T, per event is cheaper than a matrix
    product."""
    return layer.packed and layer.weight is not None and not _dense_wins(layer, layer.in_idx.numel())  # type: ignore[union-attr]


def _samples(layer: Layer) -> bool:
    """Whether dL/dx is a dot product per listed entry of the layer below."""
    return (
        layer.weight is not None
        and layer.in_aidx is not None
        and not _dense_wins(layer, layer.in_aidx.numel())
    )


def forms(layer: Layer, out: LayerOutputs, grads: OutputGradients | None = None) -> dict[str, str]:
    """The form chosen for each product, for reports; without gradients, the one to expect."""
    answer = {"scan": scan_form(layer, grads)}
    if layer.weight is None:
        return answer | {"feed": "constant" if layer.constant else "current"}
    answer["feed"] = "events" if by_events(layer) else "gemm"
    if layer.gradient != "none":
        answer["weight_gradient"] = "spike" if by_events(layer) else "gemm"
        if layer.packed and layer.source.requires_grad:
            answer["input_gradient"] = "sampled" if _samples(layer) else "gemm"
    return answer


class ChunkProducts:
    """dW and dL/dx of a layer, written into a `LayerGradients` while chunks of lambda come by, the last one
    first."""

    def __init__(self, layer: Layer, wants: dict[str, bool], result: LayerGradients) -> None:
        self.layer, self.result = layer, result
        like, dtype = layer.m0, layer.m0.dtype
        steps, batch, width = layer.shape
        weighted = layer.weight is not None
        self.weight_form = (
            "" if not (wants["weight"] and weighted) else "spike" if by_events(layer) else "gemm"
        )
        self.source_form = self._source_form(wants["source"])
        needs_lambda = bool(self.weight_form or self.source_form)
        block = int(module().BLOCK_STEPS)
        self.chunk = steps
        if needs_lambda and self.source_form != "current":
            self.chunk = cuda_cost.chunk_steps(steps, batch * width * dtype.itemsize, block, like.device)
        self.lam = like.new_empty((min(self.chunk, steps), batch, width)) if needs_lambda else None
        self.call = Call(
            dtype=dtype_code(dtype), steps=steps, batch=batch, inputs=layer.inputs, width=width,
            chunk=self.chunk, **place(like.device),
        )  # fmt: skip
        if self.lam is not None:
            self.call.write("lambda", self.lam)
        self.weight_t: Tensor | None = None
        if self.weight_form == "spike":
            self.weight_t = like.new_empty((layer.inputs, width))
            self.call.write("d_weight_t", self.weight_t)
            self._group_inputs()
        if self.source_form == "sampled":
            assert layer.weight is not None and layer.in_aidx is not None
            self.call.read("weight_t", transposed(layer.weight, dtype))
        if self.source_form in ("sampled", "gather", "gemm-gather"):
            assert layer.in_aidx is not None
            self.low = like.new_zeros(layer.in_aidx.numel())
            self.call.read("low_ptr", layer.in_aptr)
            self.call.read("low_idx", layer.in_aidx)
            self.call.write("d_low", self.low)
        if self.source_form == "gemm":
            result.source = layer.source.new_empty((steps, batch, layer.inputs))

    def _source_form(self, wanted: bool) -> str:
        layer = self.layer
        if not wanted or (layer.weight is None and layer.constant):
            return ""
        if layer.weight is None:
            return "current" if layer.in_aidx is None else "gather"
        if layer.in_aidx is None:
            return "gemm"
        return "sampled" if _samples(layer) else "gemm-gather"

    def _group_inputs(self) -> None:
        """Group the input events by input within each chunk, in the order of the rows."""
        layer, native = self.layer, module()
        assert layer.in_idx is not None and layer.in_val is not None
        device = layer.m0.device
        cells = -(-layer.steps // self.chunk) * layer.inputs * layer.m0.shape[0]
        counts = torch.zeros(cells, dtype=torch.int32, device=device)
        offsets = torch.zeros(cells + 1, dtype=torch.int64, device=device)
        events = layer.in_idx.numel()
        self.call.read("in_ptr", layer.in_ptr)
        self.call.read("in_idx", layer.in_idx)
        self.call.read("in_val", layer.in_val, layer.m0.dtype)
        self.call.write("counts", counts)
        self.call.write("offsets", offsets)
        self.call.write("grouped", torch.empty(events, dtype=torch.int32, device=device))
        if layer.in_val.numel():
            self.call.write("grouped_val", layer.m0.new_empty(events))
        native.count_inputs(native.products(**self.call.fields))
        torch.cumsum(counts, 0, out=offsets[1:])
        native.group_inputs(native.products(**self.call.fields))

    def chunks(self) -> Iterator[tuple[int, int]]:
        """(begin, end) of each chunk, the last one first."""
        for begin in reversed(range(0, self.layer.steps, self.chunk)):
            yield begin, min(self.layer.steps, begin + self.chunk)

    def lambda_fields(self, begin: int, end: int) -> dict[str, Any]:
        """Where the reverse scan of a chunk writes lambda."""
        if self.lam is None:
            return {}
        strides = {"d_current_stride_t": self.lam.stride(0), "d_current_stride_b": self.lam.stride(1)}
        return {"d_current": self.lam.data_ptr(), **strides}

    def add(self, begin: int, end: int) -> None:
        """Add the products of a chunk whose lambda is there."""
        native, last = module(), end == self.layer.steps
        if self.weight_form == "spike":
            native.weight_gradient(native.products(**self.call.fields), begin // self.chunk)
        if self.weight_form == "gemm":
            self._weight_product(begin, end, last)
        if self.source_form == "sampled":
            native.input_gradient(native.products(**self.call.fields), begin, end)
        elif self.source_form == "gather":
            self._gather(self._rows(begin, end), begin)
        elif self.source_form in ("gemm", "gemm-gather"):
            assert self.layer.weight is not None
            below = self._rows(begin, end) @ self.layer.weight.to(self.layer.m0.dtype)
            if self.source_form == "gemm":
                self.result.source[begin:end] = below
            else:
                self._gather(below, begin)

    def _rows(self, begin: int, end: int) -> Tensor:
        assert self.lam is not None
        return self.lam[: end - begin]

    def _gather(self, dense: Tensor, begin: int) -> None:
        layer = self.layer
        assert layer.in_aptr is not None and layer.in_aidx is not None
        gather(dense, layer.in_aptr, layer.in_aidx, layer.steps, begin, self.low)

    def _weight_product(self, begin: int, end: int, first: bool) -> None:
        layer = self.layer
        if layer.packed:
            assert layer.in_ptr is not None and layer.in_idx is not None and layer.in_val is not None
            shape = (layer.steps, layer.m0.shape[0], layer.inputs)
            x = layer.m0.new_empty((end - begin, *shape[1:]))
            scatter(layer.in_ptr, layer.in_idx, layer.in_val, shape, begin, x)
        else:
            x = layer.source[begin:end].to(layer.m0.dtype)
        rows = self._rows(begin, end).flatten(0, 1).t()
        if first:
            self.result.weight = rows @ x.flatten(0, 1)
        else:
            self.result.weight.addmm_(rows, x.flatten(0, 1))

    def finish(self) -> None:
        """Hand over what is complete now that every chunk has been added."""
        dtype = self.layer.source.dtype
        if self.weight_t is not None:
            self.result.weight = self.weight_t.t().contiguous()
        if self.source_form == "current":
            assert self.lam is not None
            self.result.source = self.lam.to(dtype)
        if self.source_form in ("sampled", "gather", "gemm-gather"):
            self.result.source = self.low.to(dtype)
