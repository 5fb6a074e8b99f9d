"""Which form of each product is cheapest, from counts that are known before the work starts.

The unit is one multiply-add of a long vector loop on one core; only ratios matter. They are fixed, rounded
from timings with AVX-512 on one thread, not measured on each machine.
"""

from __future__ import annotations

from .contract import Layer, LayerOutputs

__all__ = ["choices", "feed_form", "input_gradient_form", "weight_gradient_form"]

EVENT_ROW = 3.0
"""Adding a row per event against the same multiply-adds in a matrix product, which keeps its operands in
registers: dW of a 700 -> 200 layer breaks even between 20 and 35 % input spikes."""
DOT = 4.0
"""A sampled dot product, per multiply-add: it ends in a horizontal sum."""


def feed_form(density: float) -> str:
    """I = W x: "events" adds a row of W^T per input spike, "gemm" is a dense product."""
    return "events" if density * EVENT_ROW < 1 else "gemm"


def weight_gradient_form(density: float, active: float, inputs: int, width: int, scalar_decay: bool) -> str:
    """dW: "spike" adds lam at every input event, "trace" adds the filtered input at every active entry, or
    "gemm"."""
    spike = EVENT_ROW * density * inputs * width
    trace = EVENT_ROW * active * inputs * width + 2 * inputs if scalar_decay else float("inf")
    gemm = float(inputs * width)
    return min((spike, "spike"), (trace, "trace"), (gemm, "gemm"))[1]


def input_gradient_form(active_below: float) -> str:
    """dL/dx at the lower layer's active entries: "sampled" dot products, or "gemm" and a gather."""
    return "sampled" if active_below * DOT < 1 else "gemm"


def choices(layer: Layer, out: LayerOutputs) -> dict[str, str]:
    """The form of each product of this layer, for reports; the same functions decide when the work is
    done."""
    from . import backend

    implementation = backend.name(layer)
    if implementation == "cpu":
        from . import cpu

        return {"backend": implementation, **cpu.forms(layer, out)}
    if implementation == "cuda":
        from . import cuda

        return {"backend": implementation, **cuda.forms(layer, out)}
    return {"backend": implementation}
