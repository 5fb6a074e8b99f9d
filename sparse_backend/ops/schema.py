"""The operators' contract: schemas, shape rules, autograd links. Implementations are found by `backend.py`.

torch.ops.sparse_backend.layer            fused feed + neuron over a sequence, forward
torch.ops.sparse_backend.layer_backward   its gradients, by sparse innovations
torch.ops.sparse_backend.to_dense         packed spikes as a dense tensor
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..constants import empty
from ..torch_private import direct_apply, modes_matter
from . import backend, events, replay
from .contract import (
    COEFFICIENTS,
    NEEDS,
    Layer,
    LayerGradients,
    LayerOutputs,
    OutputGradients,
    scan_form,
)

__all__ = ["layer", "layer_backward", "run", "run_to_dense", "to_dense"]

_LAYER_ARGUMENTS = (
    "Tensor source, Tensor? in_ptr, Tensor? in_idx, Tensor? in_val, Tensor? in_aptr, Tensor? in_aidx, "
    "Tensor? weight, Tensor? bias, "
    + ", ".join(f"Tensor {name}" for name in COEFFICIENTS)
    + ", Tensor m0, Tensor i0, Tensor? cuts, int steps, str neuron, str gradient, float level, int key, "
    "int learn, bool want_spikes, bool want_membrane"
)
_OUTPUTS = tuple(LayerOutputs.__dataclass_fields__)
_OUTPUT_GRADIENTS = tuple(OutputGradients.__dataclass_fields__)
_SAVED = _OUTPUTS[_OUTPUTS.index("ptr") :]
_TENSORS = 8 + len(COEFFICIENTS) + 3
"""How many arguments of `layer` are tensors or None: all up to `cuts`, then plain values follow."""


def _tensors(names: tuple[str, ...]) -> str:
    return "(" + ", ".join(f"Tensor {name}" for name in names) + ")"


# Registered through a Library rather than `torch.library.custom_op`, whose wrappers import the whole compiler
# stack at the first call (a second) and add tens of microseconds to each.
_LIBRARY = torch.library.Library("sparse_backend", "FRAGMENT")
_LIBRARY.define(f"layer({_LAYER_ARGUMENTS}) -> {_tensors(tuple(f'{name}_' for name in _OUTPUTS))}")
_LIBRARY.define(
    "layer_backward("
    + ", ".join(f"Tensor? g_{name}" for name in _OUTPUT_GRADIENTS)
    + f", {_LAYER_ARGUMENTS}, "
    + ", ".join(f"Tensor out_{name}" for name in _SAVED)
    + f", int needs) -> {_tensors(tuple(LayerGradients.__dataclass_fields__))}"
)
_LIBRARY.define(
    "to_dense(Tensor carrier, Tensor ptr, Tensor idx, Tensor val, Tensor? aptr, Tensor? aidx, "
    "int steps, int batch, int width) -> Tensor"
)


def _layer(*args: Any) -> tuple[Tensor, ...]:
    """Run `Layer.from_arguments(*args)` forward; returns the fields of `LayerOutputs` in order."""
    described = Layer.from_arguments(*args)
    return _distinct(backend.forward(described).flat())


def _distinct(results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Each its own tensor: operators may not return aliases."""
    return tuple(value if value.numel() else value.new_empty(value.shape) for value in results)


def _layer_fake(*args: Any) -> tuple[Tensor, ...]:
    described = Layer.from_arguments(*args)
    out = LayerOutputs(*_distinct(LayerOutputs.empty(described).flat()))
    steps, batch, _ = described.shape
    like = described.m0
    out.m_last = torch.empty_like(like)
    if described.spec.poles == 2:
        out.i_last = torch.empty_like(like)
    if described.want_membrane:
        out.membrane = like.new_empty(described.shape)
    if not described.spec.fires:
        return out.flat()
    if described.want_spikes:
        out.spikes = like.new_empty(described.shape)
    sizes = torch.library.get_ctx()
    spikes, values = sizes.new_dynamic_size(), sizes.new_dynamic_size()
    out.ptr = like.new_empty(batch * steps + 1, dtype=torch.int64)
    out.idx = like.new_empty(spikes, dtype=torch.int32)
    out.val = like.new_empty(values)
    if described.lists_active:
        active: Any = sizes.new_dynamic_size()
        out.aptr = like.new_empty(batch * steps + 1, dtype=torch.int64)
        out.aidx = like.new_empty(active, dtype=torch.int32)
        out.au = like.new_empty(active)
    else:
        active = 0
    out.carrier = described.new_carrier(out)
    for name in ("sensitivities", "tails", "rptr", "ridx"):
        size = sizes.new_dynamic_size()
        setattr(out, name, getattr(out, name).new_empty(size))
    return out.flat()


def _layer_backward(*args: Any) -> tuple[Tensor, ...]:
    """Gradients of `layer`; returns the fields of `LayerGradients` in order, empty where `needs` has no
    bit."""
    gradients, described, out, needs = _split_backward(args)
    result = backend.backward(described, out, gradients, needs)
    for name, bit in NEEDS.items():
        if not needs & bit:
            setattr(result, name, empty(described.m0))
    return _distinct(result.flat())


def _layer_backward_fake(*args: Any) -> tuple[Tensor, ...]:
    _, described, _, needs = _split_backward(args)
    result = LayerGradients(*_distinct(LayerGradients.empty(described).flat()))
    like = described.m0
    shapes: dict[str, Tensor | None] = {
        "source": described.source,
        "weight": described.weight,
        "bias": described.bias,
        "m0": like,
        "i0": described.i0,
    }
    for name, bit in NEEDS.items():
        if needs & bit:
            model = shapes.get(name)
            shape = (len(COEFFICIENTS), like.shape[1]) if name == "coefficients" else tuple(model.shape)  # type: ignore[union-attr]
            setattr(
                result, name, like.new_empty(shape, dtype=model.dtype if model is not None else like.dtype)
            )
    return result.flat()


def _split_backward(args: tuple[Any, ...]) -> tuple[OutputGradients, Layer, LayerOutputs, int]:
    count, saved = len(_OUTPUT_GRADIENTS), len(_SAVED)
    described = Layer.from_arguments(*args[count : -saved - 1])
    out = _saved_outputs(described, args[-saved - 1 : -1])
    return OutputGradients(*args[:count]), described, out, args[-1]


def _saved_outputs(described: Layer, saved: tuple[Tensor | None, ...]) -> LayerOutputs:
    """The outputs that are kept for the backward pass, in their places; the others, and None, are empty."""
    out = LayerOutputs.empty(described)
    for name, value in zip(_SAVED, saved, strict=True):
        if value is not None:
            setattr(out, name, value)
    return out


_POSITION = {"source": 0, "weight": 6, "bias": 7, "m0": 8 + len(COEFFICIENTS), "i0": 9 + len(COEFFICIENTS)}
_COEFFICIENT_POSITIONS = range(8, 8 + len(COEFFICIENTS))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[len(_OUTPUT_GRADIENTS) :])
    _save(ctx, inputs, output[len(_OUTPUT_GRADIENTS) :])


def _save(
    ctx: Any, inputs: tuple[Any, ...], saved: tuple[Tensor | None, ...], weight_t: Tensor | None = None
) -> None:
    """weight_t: see `Layer`."""
    ctx.set_materialize_grads(False)
    ctx.plain = inputs[_TENSORS:]
    ctx.save_for_backward(*inputs[:_TENSORS], *saved, weight_t)


def _layer_gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, ctx.needs_input_grad, grads)


def _gradients(
    ctx: Any, wanted: Sequence[bool], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """dL/d of each argument of `layer`, None where it is not wanted."""
    kept = ctx.saved_tensors
    inputs, saved, weight_t = (*kept[:_TENSORS], *ctx.plain), kept[_TENSORS:-1], kept[-1]
    if torch.is_grad_enabled():
        return _twice_differentiable(grads, inputs, saved, wanted)
    needs = sum([NEEDS[name] for name, place in _POSITION.items() if wanted[place]])
    if True in wanted[_COEFFICIENT_POSITIONS.start : _COEFFICIENT_POSITIONS.stop]:
        needs |= NEEDS["coefficients"]
    given = [None if g is None else g.resolve_neg() for g in grads[: len(_OUTPUT_GRADIENTS)]]
    if modes_matter():
        result = LayerGradients(*layer_backward(*given, *inputs, *saved, needs))
    else:  # what the operator would call
        described = Layer.from_arguments(*inputs)
        described.weight_t = weight_t
        out = _saved_outputs(described, saved)
        result = backend.backward(described, out, OutputGradients(*given), needs)
    answer: list[Tensor | None] = [None] * len(inputs)
    for name, place in _POSITION.items():
        if wanted[place]:
            answer[place] = getattr(result, name)
    for row, place in enumerate(_COEFFICIENT_POSITIONS):
        if wanted[place]:
            per_neuron = result.coefficients[row]
            answer[place] = per_neuron if inputs[place].dim() else per_neuron.sum()
    return tuple(answer)


def _twice_differentiable(
    grads: tuple[Tensor | None, ...],
    inputs: tuple[Any, ...],
    saved: tuple[Tensor, ...],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The same gradients when the caller set create_graph=True."""
    places = [place for place, want in enumerate(wanted) if want]
    # Aliases, where the replay's derivatives stop: one input may descend from another, or be the same tensor.
    inputs = tuple(
        value.view_as(value) if want else value for value, want in zip(inputs, wanted, strict=True)
    )
    described = Layer.from_arguments(*inputs)
    out = _saved_outputs(described, saved)
    found = replay.gradients(
        described, out, grads[: len(_OUTPUT_GRADIENTS)], [inputs[place] for place in places]
    )
    answer: list[Tensor | None] = [None] * len(inputs)
    for place, grad in zip(places, found, strict=True):
        answer[place] = grad
    return tuple(answer)


def _to_dense(
    carrier: Tensor,
    ptr: Tensor,
    idx: Tensor,
    val: Tensor,
    aptr: Tensor | None,
    aidx: Tensor | None,
    steps: int,
    batch: int,
    width: int,
) -> Tensor:
    """Packed spikes as `[T, B, N]`; the gradient is gathered at the carrier's positions."""
    return backend.to_dense(carrier, ptr, idx, val, (steps, batch, width))


def _to_dense_fake(carrier: Tensor, *args: Any) -> Tensor:
    return carrier.new_empty(args[-3:])


def _save_positions(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    aptr, aidx = inputs[4], inputs[5]
    ctx.packed = aptr is not None
    if ctx.packed:
        ctx.save_for_backward(aptr, aidx)


def _to_dense_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The kernels have no second derivative; indexing in torch has.
    gather, grad = (events.gather if torch.is_grad_enabled() else backend.gather), grad.resolve_neg()
    return (gather(grad, *ctx.saved_tensors) if ctx.packed else grad, *([None] * 8))


def _register(name: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"sparse_backend::{name}", fake, lib=_LIBRARY)


_register("layer", _layer, _layer_fake)
_register("layer_backward", _layer_backward, _layer_backward_fake)
_register("to_dense", _to_dense, _to_dense_fake)
torch.library.register_autograd(
    "sparse_backend::layer", _layer_gradient, setup_context=_save_for_backward, lib=_LIBRARY
)
torch.library.register_autograd(
    "sparse_backend::to_dense", _to_dense_gradient, setup_context=_save_positions, lib=_LIBRARY
)

layer = torch.ops.sparse_backend.layer.default
layer_backward = torch.ops.sparse_backend.layer_backward.default
to_dense = torch.ops.sparse_backend.to_dense.default


_DIFFERENTIABLE = tuple(sorted((*_POSITION.values(), *_COEFFICIENT_POSITIONS)))
"""The positions of the arguments that can get a gradient."""


class _LayerFunction(torch.autograd.Function):
    """What the operator computes, with the autograd link that is registered above, without the dispatcher.

    The dispatcher looks up every argument's default in Python and calls the kernel through four more
    functions: 0.3 ms a call with a schema of this length. Autograd sees what it needs to, the arguments and
    the outputs that may have a gradient; outputs that are empty are None here.
    """

    @staticmethod
    def forward(
        ctx: Any,
        arguments: tuple[Any, ...],
        described: Layer,
        out: LayerOutputs,
        places: tuple[int, ...],
        *differentiable: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """out: empty; receives the outputs.  differentiable: the arguments at `places`."""
        ctx.places = places
        empties, found = out.flat(), backend.forward(described)
        vars(out).update(vars(found))
        some = [None if value is other else value for value, other in zip(found.flat(), empties, strict=True)]
        if not (arguments[0].requires_grad or scan_form(described, None) == "recompute"):
            described.weight_t = None  # the backward pass will not read it
        _save(ctx, arguments, tuple(some[len(_OUTPUT_GRADIENTS) :]), described.weight_t)
        return tuple(some[: len(_OUTPUT_GRADIENTS)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = [False] * (_TENSORS + len(ctx.plain))
        for place, want in zip(ctx.places, ctx.needs_input_grad[4:], strict=True):
            wanted[place] = want
        found = _gradients(ctx, wanted, grads)
        return (None, None, None, None, *[found[place] for place in ctx.places])


class _DenseFunction(torch.autograd.Function):
    """The same of `to_dense`."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        dense = _to_dense(*args)
        _save_positions(ctx, args, dense)
        return dense

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _to_dense_gradient(ctx, grad)


_apply_layer, _apply_dense = direct_apply(_LayerFunction), direct_apply(_DenseFunction)


def run_to_dense(*args: Any) -> Tensor:
    """`to_dense(*args)`: the same result and gradient at less cost per call."""
    if modes_matter() or torch.compiler.is_compiling():
        return to_dense(*args)
    dense: Tensor = _apply_dense(*args)
    return dense


def run(*args: Any) -> tuple[Layer, LayerOutputs]:
    """The `Layer` that the arguments describe, and `LayerOutputs(*layer(*args))`: the same results and
    gradients at less cost per call."""
    if modes_matter() or torch.compiler.is_compiling():
        return Layer.from_arguments(*args), LayerOutputs(*layer(*args))
    # Torch negates lazily what complex numbers leave; the kernels read memory.
    tensors = args[:_TENSORS]
    if True in [value is not None and value.is_neg() for value in tensors]:
        tensors = tuple(value if value is None else value.resolve_neg() for value in tensors)
        args = (*tensors, *args[_TENSORS:])
    described = Layer.from_arguments(*args)
    if not torch.is_grad_enabled():
        out = backend.forward(described)
        described.weight_t = None
        return described, out
    out = LayerOutputs.empty(described)
    places = tuple([p for p in _DIFFERENTIABLE if args[p] is not None and args[p].requires_grad])
    linked = _apply_layer(args, described, out, places, *[args[place] for place in places])
    for name, value in zip(_OUTPUT_GRADIENTS, linked, strict=True):
        if value is not None:
            setattr(out, name, value)
    return described, out
