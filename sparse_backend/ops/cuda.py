"""The layer operator on the native CUDA kernels (src_cuda/cuda/): device addresses and a stream in, events
out.

Forward is one launch over all time steps, backward one reverse scan per chunk of steps with lambda of the
chunk in L2. Everything runs on the current stream of the layer's device. The sizes of event lists are the
only thing that the host waits for, once per layer and once per dense input. While a CUDA graph is captured,
where it cannot wait, lists have room for every entry, products take their event forms, and a dense input
stays dense.

torch does what it does best: matrix products where they are cheaper than events (cuda_cost.py), running sums
of counts, transposes of weights, sums over the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from . import cuda_place
from .contract import COEFFICIENTS, NEEDS, Layer, LayerGradients, LayerOutputs, OutputGradients
from .cuda_lists import ScanLists, compress, gather, to_dense
from .cuda_place import available, dtype_code, module, place
from .cuda_products import ChunkProducts, by_events, dense_input, forms, transposed
from .native_call import Call, layer_call

__all__ = ["available", "backward", "compress", "forms", "forward", "gather", "to_dense"]


def forward(layer: Layer) -> LayerOutputs:
    """See `sparse_backend::layer` in schema.py."""
    with _full_precision(layer):
        return _forward(layer)


def backward(layer: Layer, out: LayerOutputs, grads: OutputGradients, needs: int) -> LayerGradients:
    """See `sparse_backend::layer_backward` in schema.py."""
    with _full_precision(layer):
        return _backward(layer, out, grads, needs)


def _full_precision(layer: Layer) -> torch.autocast:
    """Products in the dtype of the state, whatever autocast is in force around the operator."""
    return torch.autocast(layer.m0.device.type, enabled=False)


def _describe(layer: Layer, need_input: bool) -> Call:
    """The layer for the CUDA module; `need_input` when its input current will be evaluated."""
    call = layer_call(module(), layer, dtype_code(layer.m0.dtype), **place(layer.m0.device))
    if need_input:
        _pass_input(call, layer)
    return call


def _pass_input(call: Call, layer: Layer) -> None:
    dtype = layer.m0.dtype
    if layer.weight is None:
        call.read_strided("current", dense_input(layer), dtype)
    elif by_events(layer):
        call.read("in_ptr", layer.in_ptr)
        call.read("in_idx", layer.in_idx)
        call.read("in_val", layer.in_val, dtype)
        call.read("weight_t", transposed(layer.weight, dtype))
        call.read("bias", layer.bias, dtype)
    else:
        bias = None if layer.bias is None else layer.bias.to(dtype)
        call.read_strided(
            "current", functional.linear(dense_input(layer), layer.weight.to(dtype), bias), dtype
        )


def _forward(layer: Layer) -> LayerOutputs:
    spec, like = layer.spec, layer.m0
    out = LayerOutputs.empty(layer)
    call = _describe(layer, need_input=True)
    out.m_last = call.write("m_last", torch.empty_like(like))
    if spec.poles == 2:
        out.i_last = call.write("i_last", torch.empty_like(like))
    if layer.want_membrane:
        out.membrane = call.write_strided("membrane_out", like.new_empty(layer.shape))
    if layer.want_spikes and spec.fires:
        out.spikes = call.write_strided("spikes", like.new_empty(layer.shape))
    if not spec.fires:
        module().forward_scan(module().layer(**call.fields))
        return out
    carriers = layer.carriers if layer.lists_active and not layer.exact_reset else 0
    count = carriers.bit_count()
    if count:
        out.tails = like.new_empty((2, count, *like.shape))
        call.write("carrier_m_last", out.tails[0])
        call.write("carrier_i_last", out.tails[1])
    call.fields["carriers"] = carriers
    _make_lists(layer, call, count, out)
    out.carrier = layer.new_carrier(out)
    return out


def _make_lists(layer: Layer, call: Call, carriers: int, out: LayerOutputs) -> None:
    """Run the scan of a neuron that fires, and pack what it leaves into the lists of `out`."""
    steps, batch, width = layer.shape
    names = ["spikes"]
    if layer.lists_active:
        names.append("active")
        if layer.spec.post in ("subtract", "zero") and not layer.exact_reset:
            names.append("resets")
    lanes = int(module().LANES)
    fixed = cuda_place.capturing(layer.m0.device)
    room = lanes * steps if fixed else max(lanes, lanes * steps // 4)
    while True:
        lists = ScanLists.empty(layer, names, carriers, room)
        lists.describe(call)
        module().forward_scan(module().layer(**call.fields))
        pointers = lists.pointers()
        if fixed:
            sizes, valued = [steps * batch * width] * len(names), 1
            break
        *sizes, most, valued = torch.cat([ptr[-1:] for ptr in pointers.values()] + [lists.summary]).tolist()
        if most <= room:
            break
        room = most
    size = dict(zip(names, sizes, strict=True))
    out.ptr = pointers["spikes"]
    out.idx, out.val = lists.write_spikes(out.ptr, size["spikes"], bool(valued))
    if "active" in size:
        out.aptr = pointers["active"]
        out.aidx, out.au, out.sensitivities = lists.write_active(out.aptr, size["active"])
    if "resets" in size:
        out.rptr = pointers["resets"]
        out.ridx = lists.write_resets(out.rptr, size["resets"])


def _checkpoints(layer: Layer, call: Call) -> Tensor:
    """The state before every 16th step `[ceil(T/16), poles, B, N]`, from a forward scan that writes nothing
    else."""
    blocks = -(-layer.steps // int(module().BLOCK_STEPS))
    points = layer.m0.new_empty((blocks, layer.spec.poles, *layer.m0.shape))
    call.write("checkpoints", points)
    module().forward_scan(module().layer(**call.fields))
    return points


def _reverse(layer: Layer, out: LayerOutputs, grads: OutputGradients, recompute: bool) -> Call:
    """What every chunk of the reverse scan reads."""
    dtype = layer.m0.dtype
    scan = Call(recompute=recompute, drawn=layer.exact_reset)
    lists = {"active_ptr": out.aptr, "active_idx": out.aidx, "active_u": out.au}
    if not recompute:
        lists |= {"spike_ptr": out.ptr, "spike_idx": out.idx, "reset_ptr": out.rptr, "reset_idx": out.ridx}
        lists |= {"active_carriers": out.sensitivities}
    for name, value in lists.items():
        scan.read(name, value)
    if grads.carrier is not None and not layer.carrier_dense:
        scan.read("g_active", grads.carrier, dtype)
    scan.read_strided("g_spikes", grads.dense_spikes(layer), dtype)
    scan.read_strided("g_membrane", grads.membrane, dtype)
    scan.read("g_m_last", grads.m_last, dtype)
    scan.read("g_i_last", grads.i_last, dtype)
    return scan


def _backward(layer: Layer, out: LayerOutputs, grads: OutputGradients, needs: int) -> LayerGradients:
    native, like = module(), layer.m0
    wants = {name: bool(needs & bit) for name, bit in NEEDS.items()}
    recompute = grads.need_trajectory(layer)
    call = _describe(layer, need_input=recompute)
    if recompute:
        _checkpoints(layer, call)
    elif wants["coefficients"] and out.tails.numel():
        call.fields["carriers"] = layer.carriers
        call.read("carrier_m_last", out.tails[0])
        call.read("carrier_i_last", out.tails[1])
    scan = _reverse(layer, out, grads, recompute)
    result = LayerGradients.empty(layer)
    learned = [name for name in COEFFICIENTS if wants["coefficients"] and layer.learns(name)]
    total = wants["bias"] or (wants["source"] and layer.constant and layer.weight is None)
    sums = like.new_zeros((len(native.SUMS), *like.shape))
    scan.write("sums", sums)
    scan.fields["wanted"] = sum(1 << native.SUMS[name] for name in [*learned, *["current"] * total])
    if wants["m0"]:
        result.m0 = scan.write("d_m0", torch.empty_like(like))
    if wants["i0"] and layer.spec.poles == 2:
        result.i0 = scan.write("d_i0", torch.empty_like(like))
    elif wants["i0"]:
        result.i0 = torch.zeros_like(layer.i0)
    scan.write("mu", torch.empty_like(like))
    scan.write("carry", torch.empty_like(like))
    products = ChunkProducts(layer, wants, result)
    described = native.layer(**call.fields)
    for begin, end in products.chunks():
        fields = scan.fields | products.lambda_fields(begin, end)
        native.reverse_scan(described, native.reverse(**fields, begin=begin, end=end))
        products.add(begin, end)
    products.finish()
    if wants["coefficients"]:
        result.coefficients = sums[1:].sum(1)
    if wants["bias"]:
        result.bias = sums[0].sum(0)
    if wants["source"] and layer.constant and layer.weight is None:
        result.source = sums[0].to(layer.source.dtype)
    return result
