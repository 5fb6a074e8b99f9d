"""Which form of each product is cheapest, from counts that are known before the work starts.

The unit is one multiply-add of a matrix product; only ratios matter. The constants are this machine's
(calibration.py), so the forms, and with them the last bits of a result, may differ from one machine to
another, but not from run to run on one.
"""

from __future__ import annotations

from .calibration import costs

__all__ = [
    "convolution_by_events",
    "convolution_gradient_by_entries",
    "feed_form",
    "feed_limit",
    "input_gradient_form",
    "product_by_kernels",
    "weight_gradient_form",
]


DENSE_ENTRY = 16.0
"""Writing one entry of a dense copy, or of a product's result that is read once: memory bandwidth, which data
small enough to be measured quickly would not show."""

CONVOLUTION_ROW, CONVOLUTION_DOT = 3.0, 4.0
"""Adding a row, and one product of a sampled dot, against a multiply-add of torch's convolution. Not measured
per machine."""

LEAST_PRODUCT = 1 << 22
"""Multiply-adds of torch's product that take as long as calling another one, 40 us."""
CLEARLY_QUICKER = 0.8

MAX_POOL_ENTRY = 70.0
"""Torch's max pooling of one entry, in the same unit; behind events pooling comes with the convolution."""


def feed_limit() -> float:
    """The density of a dense input above which its events are not worth finding."""
    return 1 / costs().feed_row


def feed_form(density: float, inputs: int, width: int) -> str:
    """I = W x from events: "events" adds a row of W^T per input spike, "gemm" is a dense product."""
    c = costs()
    by_events = c.feed_row * density * inputs * width
    gemm = inputs * width + DENSE_ENTRY * (inputs + width)
    return "events" if by_events < gemm else "gemm"


def weight_gradient_form(
    density: float, active: float, inputs: int, width: int, scalar_decay: bool, packed: bool
) -> str:
    """dW: "spike" adds lam at every input event, "trace" adds the filtered input at every active entry, or
    "gemm", which needs a dense copy of a packed input."""
    c = costs()
    product = inputs * width
    spike = c.weight_row * density * product if packed else float("inf")
    trace = c.trace_row * active * product + 2 * inputs if scalar_decay else float("inf")
    gemm = product + DENSE_ENTRY * (width + (inputs if packed else 0))
    return min((spike, "spike"), (trace, "trace"), (gemm, "gemm"))[1]


def input_gradient_form(active_below: float, inputs: int, width: int) -> str:
    """dL/dx at the lower layer's active entries: "sampled" dot products, or everywhere.

    "gemm" is torch's product of a lam in memory, which also reads its result's lines before it writes them;
    "gemm-fused" the kernels' own, of lam in cache.
    """
    c = costs()
    product = inputs * width
    sampled = c.dot * active_below * product if active_below < 1 else float("inf")
    fused = c.product * product + DENSE_ENTRY * inputs
    gemm = product + DENSE_ENTRY * (2 * inputs + width)
    return min((sampled, "sampled"), (fused, "gemm-fused"), (gemm, "gemm"))[1]


def product_by_kernels(batch: int, inputs: int, width: int) -> bool:
    """Whether W x of a constant input, and dW, are quicker by the kernels' product than by torch's.

    Only where there is enough to do for a call of its own.
    """
    return batch >= 16 and batch * width * inputs >= LEAST_PRODUCT and costs().product < CLEARLY_QUICKER


def convolution_by_events(density: float, channels: int, products: int, pooled: bool) -> bool:
    """Whether a convolution is cheaper by its input's events; their rows are padded to 16 channels.

    products: of one entry of the result.  pooled: whether max pooling follows.
    """
    padded = -(-channels // 16) * 16
    dense = products + (MAX_POOL_ENTRY if pooled else 0)
    return density * CONVOLUTION_ROW * padded * products < channels * dense


def convolution_gradient_by_entries(active_below: float) -> bool:
    """Whether dL/dx of a convolution is cheaper at the lower layer's active entries than everywhere."""
    return active_below * CONVOLUTION_DOT < 1
