"""The layer operator on the native CPU kernels (src_cuda/cpu/): addresses in, events out.

Products are done by events where that is cheaper and by a matrix product where it is not, torch's or the
kernels' own (cost.py decides). The backward pass runs from saved events when the surrogate is sparse;
otherwise the kernels recompute the trajectory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..constants import number
from ..torch_private import read_pointer
from . import cost, memory, reference
from .contract import (
    COEFFICIENTS,
    NEEDS,
    Layer,
    LayerGradients,
    LayerOutputs,
    OutputGradients,
    scan_form,
)
from .native_call import Call, by_events, dense_input, describe, dtype_code, module

__all__ = ["backward", "compress", "forms", "forward", "gather", "lists", "to_dense"]

_FORM_CODES = {"spike": 1, "trace": 2}


def compress(x: Tensor, limit: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """(ptr, idx, val) of a dense `[T, B, N_in]` input, or None when its density is above `limit`."""
    codes = {torch.uint8: module().UINT8, torch.bool: module().BOOL}
    code = codes.get(x.dtype)
    if code is None:
        code = dtype_code(x.dtype)
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        x = x.contiguous()
    steps, batch, inputs = x.shape
    found = module().compress(
        *(read_pointer(x), steps, batch, inputs, x.stride(0), x.stride(1), code),
        limit=limit,
        threads=torch.get_num_threads(),
    )
    if found is None:
        return None
    return lists(found, steps * batch, x.dtype if x.dtype.is_floating_point else torch.float32)


def lists(found: Any, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(ptr, idx, val) of a native list, whose memory they take over. dtype: of the values."""
    ptr, idx = _take(found, rows)
    count = found.count if found.valued else 0
    return ptr, idx, memory.adopt(found.take_values(), (count,), dtype)


def _take(events: Any, rows: int) -> tuple[Tensor, Tensor]:
    """ptr and idx of a native list, whose memory they take over."""
    ptr = memory.adopt(events.take_ptr(), (rows + 1,), torch.int64)
    return ptr, memory.adopt(events.take_idx(), (events.count,), torch.int32)


def to_dense(
    ptr: Tensor, idx: Tensor, val: Tensor, shape: tuple[int, int, int], dtype: torch.dtype
) -> Tensor:
    """The events as a dense `[T, B, N]` tensor."""
    steps, batch, width = shape
    out = memory.lasting(shape, dtype)
    val = val.to(dtype)
    module().scatter(
        *(read_pointer(ptr), read_pointer(idx), read_pointer(val) if val.numel() else 0, steps, batch, width),
        *(out.data_ptr(), out.stride(0), out.stride(1), dtype_code(dtype), torch.get_num_threads()),
    )
    return out


def gather(dense: Tensor, ptr: Tensor, idx: Tensor) -> Tensor:
    """The entries of a `[T, B, N]` tensor at the events, `[E]`."""
    if dense.shape[-1] > 1 and dense.stride(-1) != 1:
        dense = dense.contiguous()
    out = dense.new_empty(idx.numel())
    module().gather(
        *(read_pointer(ptr), read_pointer(idx), dense.shape[0], dense.shape[1]),
        *(read_pointer(dense), dense.stride(0), dense.stride(1)),
        *(out.data_ptr(), dtype_code(dense.dtype), torch.get_num_threads()),
    )
    return out


def forward(layer: Layer) -> LayerOutputs:
    """See `sparse_backend::layer` in schema.py."""
    native, spec = module(), layer.spec
    steps, batch, width = layer.shape
    call = describe(layer, need_input=True)
    out = LayerOutputs.empty(layer)
    like = layer.m0
    call.write("m_last", _set(out, "m_last", torch.empty_like(like)))
    if spec.poles == 2:
        call.write("i_last", _set(out, "i_last", torch.empty_like(like)))
    if layer.want_membrane:
        call.write_strided("membrane_out", _set(out, "membrane", memory.lasting(layer.shape, like.dtype)))
    if layer.want_spikes and spec.fires:
        call.write_strided("spikes", _set(out, "spikes", memory.lasting(layer.shape, like.dtype)))
    listed = layer.lists_active
    carriers = layer.carriers if listed and not layer.exact_reset else 0
    count = carriers.bit_count()
    if count:
        tails = _set(out, "tails", like.new_empty((2, count, batch, width)))
        call.fields |= {"carrier_m_last": tails[0].data_ptr(), "carrier_i_last": tails[1].data_ptr()}
    call.fields |= {"want_spikes": spec.fires, "want_active": listed, "carriers": carriers}
    passed = native.layer(**call.fields)
    saves_resets = listed and not layer.exact_reset and native.needs_resets(passed)
    passed.want_resets = saves_resets
    result = native.forward(passed)
    if not spec.fires:
        return out
    rows, dtype = steps * batch, like.dtype
    graded = layer.coefficients.graded
    if graded is not number(1.0, like) and (graded.dim() or float(graded) != 1.0):
        out.val = memory.empty((result.spikes.count,), dtype)
        result.write_spike_values(out.val.data_ptr())
    out.ptr, out.idx = _take(result.spikes, rows)
    if listed:
        active = result.active
        out.aptr, out.aidx = _take(active, rows)
        out.au = memory.adopt(active.take_values(), (active.count,), dtype)
        if count:
            out.sensitivities = memory.adopt(active.take_extras(), (active.count, count), dtype)
        if saves_resets:
            out.rptr, out.ridx = _take(result.resets, rows)
    out.carrier = layer.new_carrier(out)
    return out


def backward(layer: Layer, out: LayerOutputs, grads: OutputGradients, needs: int) -> LayerGradients:
    """See `sparse_backend::layer_backward` in schema.py."""
    native = module()
    _, batch, width = layer.shape
    like = layer.m0
    carriers = layer.carriers
    recompute = grads.need_trajectory(layer)
    below = _input_form(layer) if needs & NEEDS["source"] and layer.packed else "gemm"
    call = describe(layer, need_input=recompute, need_dots=below == "sampled")
    g = Call()
    if layer.exact_reset:
        call.fields["gradient"] = native.GRADIENTS["exact"]
        _pass_drawn_gradients(g, layer, out, grads)
    else:
        _pass_spike_gradients(g, layer, out, grads)
    _pass_saved(g, layer, out, grads, recompute)
    result = LayerGradients.empty(layer)
    for name, vector in (("m0", "d_m0"), ("i0", "d_i0")):
        if needs & NEEDS[name]:
            g.write(vector, _set(result, name, like.new_zeros((batch, width))))
    if needs & NEEDS["coefficients"]:
        rows = _set(result, "coefficients", like.new_zeros((len(COEFFICIENTS), width)))
        for row, name in zip(rows, COEFFICIENTS, strict=True):
            if layer.learns(name):
                g.write(f"d_{name}", row)
    if not recompute:
        call.fields["carriers"] = carriers if needs & NEEDS["coefficients"] else 0
        if out.tails.numel():
            call.read("carrier_m_last", out.tails[0])
            call.read("carrier_i_last", out.tails[1])
    finish = _request_products(g, layer, out, needs, result, below, recompute, grads.membrane is None)
    run = native.backward_dense if recompute else native.backward
    run(native.layer(**call.fields), native.gradients(**g.fields))
    finish()
    if layer.exact_reset and layer.learns("graded") and needs & NEEDS["coefficients"]:
        result.coefficients[COEFFICIENTS.index("graded")] = _graded_gradient(layer, out, grads)
    return result


def forms(layer: Layer, out: LayerOutputs, grads: OutputGradients | None = None) -> dict[str, str]:
    """The form chosen for each product, for reports; without gradients, the one to expect."""
    answer = {"scan": scan_form(layer, grads)}
    if layer.weight is None:
        return answer | {"feed": "constant" if layer.constant else "current"}
    answer["feed"] = "events" if by_events(layer) else "gemm"
    if layer.gradient != "none":
        answer["weight_gradient"] = _weight_form(layer, out, recomputed=answer["scan"] == "recompute")
        if layer.packed and layer.source.requires_grad:
            answer["input_gradient"] = _input_form(layer)
    return answer


def _set(result: Any, name: str, value: Tensor) -> Tensor:
    setattr(result, name, value)
    return value


def _weight_form(
    layer: Layer, out: LayerOutputs, innovations_sparse: bool = True, recomputed: bool = False
) -> str:
    """innovations_sparse: False where a gradient reaches the membrane at every step, or the scan is dense.

    recomputed: whether the scan is the dense one, which reads a dense input as a current only.
    """
    if recomputed and not layer.packed:
        return "gemm"
    steps, batch, width = layer.shape
    share = layer.density if layer.packed else 1.0
    listed = innovations_sparse and layer.lists_active
    active = out.aidx.numel() / (steps * batch * width) if listed else 1.0
    c = layer.coefficients
    scalar = c.membrane.dim() == c.gain.dim() == c.synapse.dim() == 0
    return cost.weight_gradient_form(share, active, layer.inputs, width, scalar, layer.packed)


def _input_form(layer: Layer) -> str:
    steps, batch, width = layer.shape
    active = 1.0
    if layer.in_aidx is not None:
        active = layer.in_aidx.numel() / max(1, steps * batch * layer.inputs)
    return cost.input_gradient_form(active, layer.inputs, width)


def _pass_spike_gradients(g: Call, layer: Layer, out: LayerOutputs, grads: OutputGradients) -> None:
    dtype = layer.m0.dtype
    g.read_strided("g_spikes", grads.dense_spikes(layer), dtype)
    if grads.carrier is not None and not layer.carrier_dense:
        g.read("g_active", grads.carrier, dtype)


def _pass_drawn_gradients(g: Call, layer: Layer, out: LayerOutputs, grads: OutputGradients) -> None:
    """For an exact scan that reads the spikes' gradient at the drawn entries only (`Layer.exact_reset`).

    The scan multiplies what it gets by the derivative, so the gradient is scaled by drawn value / derivative.
    """
    threshold = layer.coefficients.threshold
    x = out.au - (threshold[out.aidx.long()] if threshold.dim() else threshold)
    packed = torch.zeros_like(out.au)
    if grads.carrier is not None and not layer.carrier_dense:
        packed += grads.carrier
    dense = grads.dense_spikes(layer)
    if dense is not None:
        packed += gather(dense, out.aptr, out.aidx)
    packed *= reference.surrogate_value(layer.spec, layer, x) / layer.spec.surrogate.derivative(x)
    g.read("g_active", packed)


def _graded_gradient(layer: Layer, out: LayerOutputs, grads: OutputGradients) -> Tensor:
    """sum s dL/dz `[N]`: learning `graded` makes the carrier dense."""
    total = layer.m0.new_zeros(layer.m0.shape[1])
    dense = grads.dense_spikes(layer)
    if dense is not None:
        total.index_add_(0, out.idx.long(), gather(dense, out.ptr, out.idx).to(total.dtype))
    return total


def _pass_saved(g: Call, layer: Layer, out: LayerOutputs, grads: OutputGradients, recompute: bool) -> None:
    dtype = layer.m0.dtype
    g.read_strided("g_membrane", grads.membrane, dtype)
    g.read("g_m_last", grads.m_last, dtype)
    g.read("g_i_last", grads.i_last, dtype)
    lists = {"spike_ptr": out.ptr, "spike_idx": out.idx, "reset_ptr": out.rptr, "reset_idx": out.ridx}
    if grads.use_surrogate(layer):
        lists |= {"active_ptr": out.aptr, "active_idx": out.aidx, "active_u": out.au}
        if not recompute:
            lists["active_carriers"] = out.sensitivities
    for name, value in lists.items():
        g.read(name, value)


def _rows(x: Tensor, batch_major: bool) -> Tensor:
    """`[T, B, N]` as rows `[T*B, N]`, without a copy where memory has the order named."""
    return (x.transpose(0, 1) if batch_major else x).reshape(-1, x.shape[-1])


def _request_products(
    g: Call,
    layer: Layer,
    out: LayerOutputs,
    needs: int,
    result: LayerGradients,
    below: str,
    recompute: bool,
    innovations_listed: bool,
) -> Callable[[], None]:
    """Ask for dW, db and dx in their cheapest forms, dx in that of `below`; returns what is left to do after
    the scan."""
    like, dtype = layer.m0, layer.m0.dtype
    steps, batch, width = layer.shape
    wants = {name: bool(needs & bit) for name, bit in NEEDS.items()}
    if layer.weight is None:
        return _request_current(g, layer, wants["source"], result)
    sparse = not recompute and innovations_listed
    form = _weight_form(layer, out, sparse, recompute) if wants["weight"] else ""
    if wants["bias"]:
        g.write("d_bias", _set(result, "bias", like.new_empty(width)))
    if form in ("spike", "trace"):
        if not layer.packed:
            g.read_strided("x", layer.source, dtype)
        g.write("d_weight", _set(result, "weight", like.new_empty((width, layer.inputs))))
        g.fields["form"] = _FORM_CODES[form]
    low: Tensor | None = None
    if wants["source"] and below == "sampled":
        assert layer.in_aidx is not None
        low = memory.empty((layer.in_aidx.numel(),), dtype)
        g.read("low_ptr", layer.in_aptr)
        g.read("low_idx", layer.in_aidx)
        g.write("d_low", low)
    everywhere: Tensor | None = None
    if wants["source"] and below == "gemm-fused":
        assert layer.weight is not None
        g.read("weight", layer.weight.detach(), dtype)
        padded = module().padded_width(layer.inputs)
        rows = g.write("d_input", memory.empty((batch, steps, padded), dtype))
        everywhere = rows.transpose(0, 1)[..., : layer.inputs]
    lam: Tensor | None = None
    if form == "gemm" or (wants["source"] and below == "gemm"):
        # In the layout of the input (events are batch-major), so that its rows and those of lam line up.
        rows = memory.empty((batch, steps, width) if layer.packed else layer.shape, dtype)
        lam = g.write_strided("d_current", rows.transpose(0, 1) if layer.packed else rows)

    def finish() -> None:
        if lam is not None and form == "gemm":
            result.weight = _rows(lam, layer.packed).t() @ _rows(dense_input(layer), layer.packed)
        if low is not None:
            result.source = low.to(layer.source.dtype)
        dense = everywhere
        if lam is not None and wants["source"] and below == "gemm":
            dense = _times_weight(layer, lam)
        if dense is None:
            return
        if layer.in_aptr is not None:
            assert layer.in_aidx is not None
            dense = gather(dense, layer.in_aptr, layer.in_aidx)
        result.source = dense.to(layer.source.dtype)

    return finish


def _times_weight(layer: Layer, lam: Tensor) -> Tensor:
    """lam W `[T, B, N_in]`, in the layout of lam."""
    assert layer.weight is not None
    steps, batch, _ = layer.shape
    rows = _rows(lam, layer.packed)
    dense = memory.empty((rows.shape[0], layer.inputs), lam.dtype)
    torch.mm(rows, layer.weight.detach(), out=dense)
    if layer.packed:
        return dense.view(batch, steps, -1).transpose(0, 1)
    return dense.view(steps, batch, -1)


def _request_current(g: Call, layer: Layer, wanted: bool, result: LayerGradients) -> Callable[[], None]:
    """dL/dI is the gradient itself where no weight stands between."""
    if not wanted:
        return lambda: None
    like = layer.m0
    if layer.constant:
        total = g.write("d_current_sum", like.new_empty(like.shape))
    else:
        total = g.write_strided("d_current", memory.lasting(layer.shape, like.dtype))

    def finish() -> None:
        value = total
        if layer.in_aptr is not None:
            assert layer.in_aidx is not None
            value = gather(value, layer.in_aptr, layer.in_aidx)
        result.source = value.to(layer.source.dtype)

    return finish
