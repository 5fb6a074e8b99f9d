"""Where the time of an accelerated training step goes: each operator call, its kernels, and its floor."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from sparse_backend.ops import backend, cpu
from sparse_backend.ops.contract import NEEDS, Layer, LayerOutputs, OutputGradients

from .floors import Ceilings, Work, compress_work, product_work
from .timing import Trainable

__all__ = ["kernel_times"]

_STEPS = 5
# torch's operators that multiply, and where their two factors are among the arguments.
_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "mkldnn_convolution": 0, "convolution_backward": 1}
# Vector operations per entry of a scan, with one pole. Forward: decay, feed, reset, two comparisons. Reverse:
# decay, sum of lam. The dense reverse scan also recomputes, and evaluates the surrogate (five operations).
_FORWARD_OPERATIONS, _REVERSE_OPERATIONS, _DENSE_OPERATIONS = 5, 2, 14


@dataclass
class _Call:
    """One operator call. native: seconds in each function of the native module."""

    name: str
    forms: str
    work: Work | None
    seconds: float = 0.0
    native: dict[str, float] = field(default_factory=dict)
    count: int = 1


def kernel_times(net: Trainable, x: Tensor, labels: Tensor, limits: Ceilings | None) -> list[dict[str, Any]]:
    """The operator calls of a training step in order, then the products that torch did, in operators or not.

    Each as kernel, forms, count (of alike calls, summed up), seconds (of the whole calls), native (seconds in
    each function of the native module), work, floor and over_floor (None without limits, or where no floor is
    known). Medians of several steps.
    """
    traced = []
    for _ in range(_STEPS):
        with _traced() as calls:
            net.loss_of(x, labels).backward()
        traced.append(calls)
    return [*_medians(traced, limits), *_medians([_products(net, x, labels) for _ in range(_STEPS)], limits)]


def _medians(steps: list[list[_Call]], limits: Ceilings | None) -> list[dict[str, Any]]:
    sums = [_alike(calls) for calls in steps]
    found = []
    for key, last in sums[-1].items():
        same = [step[key] for step in sums if key in step]
        seconds = statistics.median(call.seconds for call in same)
        native = {name: statistics.median(c.native.get(name, 0.0) for c in same) for name in last.native}
        floor = last.work.seconds(limits) if last.work is not None and limits is not None else None
        found.append(
            {
                **{"kernel": last.name, "forms": last.forms, "count": last.count, "seconds": seconds},
                **{"native": native, "work": None if last.work is None else asdict(last.work)},
                **{"floor": floor, "over_floor": seconds / floor if floor else None},
            }
        )
    return found


def _alike(calls: list[_Call]) -> dict[tuple[str, str], _Call]:
    """Calls of one name and form as one."""
    sums: dict[tuple[str, str], _Call] = {}
    for call in calls:
        total = sums.setdefault((call.name, call.forms), _Call(call.name, call.forms, None, count=0))
        total.count += 1
        total.seconds += call.seconds
        if call.work is not None:
            total.work = (total.work or Work()) + call.work
        for name, seconds in call.native.items():
            total.native[name] = total.native.get(name, 0.0) + seconds
    return sums


@contextlib.contextmanager
def _traced() -> Iterator[list[_Call]]:
    """Collects the calls of the CPU operators, and what of them was spent in the native module."""
    calls: list[_Call] = []
    native = backend.native()
    open_calls: list[_Call] = []

    def operator(run: Callable[..., Any], describe: Callable[..., _Call]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            call = _Call("", "", None)
            open_calls.append(call)
            begin = time.perf_counter()
            try:
                result = run(*args, **kwargs)
            finally:
                call.seconds = time.perf_counter() - begin
                open_calls.pop()
            found = describe(args, result)
            found.seconds, found.native = call.seconds, call.native
            calls.append(found)
            return result

        return timed

    def function(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = run(*args, **kwargs)
            spent = time.perf_counter() - begin
            if open_calls:
                native_of = open_calls[-1].native
                native_of[name] = native_of.get(name, 0.0) + spent
            else:
                calls.append(_Call(f"native {name}", "", _native_work(name, args), spent, {name: spent}))
            return result

        return timed

    with contextlib.ExitStack() as patches:
        for name, describe in _DESCRIPTIONS.items():
            patches.enter_context(_replaced(cpu, name, operator(getattr(cpu, name), describe)))
        for name, value in vars(native).copy().items() if native is not None else ():
            if callable(value) and not isinstance(value, type) and name not in ("layer", "gradients"):
                patches.enter_context(_replaced(native, name, function(name, value)))
        yield calls


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _describe_compress(args: tuple[Any, ...], result: Any) -> _Call:
    x: Tensor = args[0]
    events = 0 if result is None else result[1].numel()
    work = compress_work(_stored(x), x.element_size(), events)
    return _Call(f"compress {x.shape[-1]}", "refused" if result is None else "", work)


def _describe_forward(args: tuple[Any, ...], out: LayerOutputs) -> _Call:
    layer: Layer = args[0]
    forms = backend.choices(layer, out)
    used = ", ".join(forms[name] for name in ("feed",) if name in forms)
    return _Call(f"forward {_sizes(layer)}", used, _forward_work(layer, out, forms))


def _describe_backward(args: tuple[Any, ...], result: Any) -> _Call:
    layer, out, grads, needs = args
    forms = backend.choices(layer, out, grads)
    used = [forms["scan"]] if "scan" in forms else []
    for name in ("weight", "source"):
        product = {"weight": "weight_gradient", "source": "input_gradient"}[name]
        if product in forms and needs & NEEDS[name]:
            used.append(forms[product])
    return _Call(
        f"backward {_sizes(layer)}", ", ".join(used), _backward_work(layer, out, grads, needs, forms)
    )


def _describe_to_dense(args: tuple[Any, ...], result: Tensor) -> _Call:
    events = args[1].numel()
    return _Call(f"to_dense {result.shape[-1]}", "", Work(streamed=result.nbytes + 4.0 * events))


_DESCRIPTIONS: dict[str, Callable[..., _Call]] = {
    "compress": _describe_compress,
    "forward": _describe_forward,
    "backward": _describe_backward,
    "to_dense": _describe_to_dense,
}


def _sizes(layer: Layer) -> str:
    return f"{layer.inputs}-{layer.m0.shape[1]}" if layer.weight is not None else f"{layer.m0.shape[1]}"


def _stored(x: Tensor) -> int:
    """Elements in memory: a dimension that was expanded has one."""
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride else 1
    return count


def _feed_work(layer: Layer, forms: dict[str, str]) -> Work:
    steps, batch, width = layer.shape
    if layer.weight is None:
        return Work(streamed=float(_stored(layer.source) * layer.source.element_size()))
    events = layer.in_idx.numel() if layer.in_idx is not None else 0
    form = "gemm" if forms.get("feed") == "gemm" else "gather"
    return product_work(form, steps * batch, layer.inputs, width, events, 0)


def _forward_work(layer: Layer, out: LayerOutputs, forms: dict[str, str]) -> Work:
    entries = float(layer.steps * layer.m0.numel())
    written = 4.0 * out.idx.numel() + 8.0 * out.aidx.numel() + out.spikes.nbytes + out.membrane.nbytes
    scan = Work(streamed=written, multiply_adds=_FORWARD_OPERATIONS * entries * layer.spec.poles)
    return _feed_work(layer, forms) + scan


def _backward_work(
    layer: Layer, out: LayerOutputs, grads: OutputGradients, needs: int, forms: dict[str, str]
) -> Work:
    steps, batch, width = layer.shape
    entries = float(steps * batch * width)
    dense = forms.get("scan") == "recompute"
    given = [grads.spikes, grads.membrane, grads.carrier]
    read = sum(float(_stored(g) * g.element_size()) for g in given if g is not None)
    if not dense and grads.spikes is not None:
        read -= float(_stored(grads.spikes) * grads.spikes.element_size())  # read where active, below
    work = Work(
        streamed=read + 12.0 * out.aidx.numel(),
        multiply_adds=(_DENSE_OPERATIONS if dense else _REVERSE_OPERATIONS) * entries * layer.spec.poles,
    )
    if dense:
        work += _feed_work(layer, forms)
    active = out.aidx.numel() if layer.lists_active else int(entries)
    events = layer.in_idx.numel() if layer.in_idx is not None else 0
    if layer.weight is None:
        return work + Work(streamed=float(4 * _stored(layer.source)) if needs & NEEDS["source"] else 0.0)
    if needs & NEEDS["weight"]:
        work += _product(forms.get("weight_gradient", ""), ("spike", "trace", "gemm"), layer, events, active)
    if needs & NEEDS["source"]:
        below = layer.in_aidx.numel() if layer.in_aidx is not None else 0
        known = ("sampled", "scatter", "gemm") if layer.in_aidx is not None else ("gemm",)
        work += _product(forms.get("input_gradient", "gemm"), known, layer, below, active)
    return work


def _product(form: str, known: tuple[str, ...], layer: Layer, events: int, active: int) -> Work:
    """Of the form with this name, or beginning with it; of another, what all known ones share at least."""
    steps, batch, width = layer.shape
    for name in known:
        if form.startswith(name):
            return product_work(name, steps * batch, layer.inputs, width, events, active)
    return Work()


def _native_work(name: str, args: tuple[Any, ...]) -> Work | None:
    """Of a function that is called outside of operators: the product for dW of a constant input."""
    if name != "multiply":
        return None
    _, _, rows, _, inner, columns, *_ = args
    return Work(multiply_adds=float(rows * inner * columns))


def _products(net: Trainable, x: Tensor, labels: Tensor) -> list[_Call]:
    """torch's matrix products and convolutions in a training step."""
    with profile(use_kineto=False, record_shapes=True) as profiler:
        net.loss_of(x, labels).backward()
    calls = []
    for event in filter(_is_product, profiler.function_events):
        name = event.name.removeprefix("aten::")
        first = _PRODUCTS[name]
        shapes = [tuple(shape) for shape in event.input_shapes[first : first + 2]]
        sizes = ", ".join("x".join(map(str, shape)) for shape in shapes)
        work = Work(multiply_adds=_multiply_adds(name, shapes))
        calls.append(_Call(f"{name} {sizes}", "torch", work, 1e-6 * event.cpu_time_total))
    return calls


def _is_product(event: Any) -> bool:
    return event.name.removeprefix("aten::") in _PRODUCTS


def _multiply_adds(name: str, shapes: list[tuple[int, ...]]) -> float:
    """At least: a convolution's gradient is one or two products. Without padding, as `network.py` has it."""
    left, right = shapes
    if name in ("mm", "addmm", "bmm"):
        return float(torch.Size(left).numel()) * right[-1]
    batch, _, height, width = left
    taps = float(torch.Size(right).numel())
    return batch * (height - right[2] + 1) * (width - right[3] + 1) * taps
