"""The convolution by events against torch's: values, gradients, max pooling, any geometry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sparse_backend.ops import backend
from sparse_backend.ops.convolution import Geometry, convolve, pays
from sparse_backend.ops.sequence import PackedSpikes

pytestmark = pytest.mark.skipif(backend.native() is None, reason="needs the native module")
STEPS, BATCH = 4, 3


def events(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ptr, idx, val of `[T, B, N]`, batch-major."""
    rows = x.transpose(0, 1).flatten(0, 1)
    where = rows.nonzero()
    ptr = functional.pad((rows != 0).sum(1).cumsum(0), (1, 0))
    return ptr, where[:, 1].int(), rows[where[:, 0], where[:, 1]]


def packed(x: Tensor, active: Tensor | None, ones: bool = True) -> PackedSpikes:
    """x `[T, B, N]` as spikes whose gradient is wanted at `active` (None: everywhere, densely)."""
    ptr, idx, val = events(x)
    aptr = aidx = None
    carrier = torch.zeros_like(x)
    if active is not None:
        aptr, aidx, _ = events(active.to(x))
        carrier = x.new_zeros(aidx.numel())
    val = val.new_empty(0) if ones else val
    return PackedSpikes(carrier.requires_grad_(), ptr, idx, val, aptr, aidx, *x.shape, x.dtype)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "pooled": {"pool": (2, 2)},
    "pooled, windows overlap": {"pool": (3, 2), "pool_stride": (2, 1)},
    "pooled, windows apart": {"pool": (1, 2), "pool_stride": (2, 3)},
    "padded": {"padding": (2, 1)},
    "strided": {"stride": (2, 3), "padding": (1, 1)},
    "dilated": {"dilation": (2, 1)},
    "all of it": {"stride": (2, 1), "padding": (2, 2), "dilation": (1, 2), "pool": (2, 2)},
    "one channel each": {"channels": (1, 1)},
    "many channels": {"channels": (2, 70), "pool": (2, 2)},
    "many channels below": {"channels": (30, 3)},
    "nine channels below": {"channels": (9, 17), "padding": (1, 1)},
    "a kernel as large as the input": {"kernel": (7, 9)},
    "a sequence": {"size": (1, 20), "kernel": (1, 4), "pool": (1, 2), "pool_stride": (1, 2)},
}


class Case:
    """Random spikes and parameters for a geometry, and torch's answer."""

    def __init__(
        self,
        dtype: torch.dtype,
        active: float | None,
        density: float = 0.1,
        ones: bool = True,
        size: tuple[int, int] = (7, 9),
        kernel: tuple[int, int] = (3, 2),
        channels: tuple[int, int] = (3, 5),
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        shape = (STEPS, BATCH, channels[0], *size)
        x = (torch.rand(shape) < density).to(dtype)
        if not ones:
            x *= torch.rand(shape, dtype=dtype) + 0.5
        mask = None if active is None else torch.rand(STEPS, BATCH, x[0, 0].numel()) < active
        self.spikes = packed(x.flatten(2), mask, ones)
        self.x = x.clone().requires_grad_()
        self.mask = mask
        self.weight = torch.randn(channels[1], channels[0], *kernel, dtype=dtype).requires_grad_()
        self.bias = torch.randn(channels[1], dtype=dtype).requires_grad_()
        options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "pool": None} | options
        pool = options["pool"]
        self.options, self.pool_stride = options, options.pop("pool_stride", pool or (1, 1))
        self.expected = self.dense()
        outputs = (channels[1], *self.expected.shape[-2:])
        self.geometry = Geometry((channels[0], *size), outputs, **options, pool_stride=self.pool_stride)

    def dense(self) -> Tensor:
        o = self.options
        rows = self.x.flatten(0, 1)
        out = functional.conv2d(rows, self.weight, self.bias, o["stride"], o["padding"], o["dilation"])
        if o["pool"] is not None:
            out = functional.max_pool2d(out, o["pool"], self.pool_stride)
        return out.unflatten(0, (STEPS, BATCH))

    def run(self) -> Tensor:
        return convolve(self.spikes, self.weight, self.bias, self.geometry)

    def check(self, tolerance: float) -> None:
        out = self.run()
        torch.testing.assert_close(out, self.expected, rtol=tolerance, atol=tolerance)
        g = torch.randn_like(out)
        want = torch.autograd.grad(self.expected, (self.x, self.weight, self.bias), g)
        found = torch.autograd.grad(out, (self.spikes.carrier, self.weight, self.bias), g)
        below = want[0].flatten(2)
        if self.mask is not None:
            below = below.transpose(0, 1)[self.mask.transpose(0, 1)]
        for name, value, reference in zip("xwb", found, (below, *want[1:]), strict=True):
            assert value.shape == reference.shape, name
            scale = float(reference.abs().max()) if reference.numel() else 0.0
            torch.testing.assert_close(value, reference, rtol=tolerance, atol=tolerance * max(scale, 1.0))


@pytest.mark.parametrize("active", [0.05, 0.6, None])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_torch(case: str, active: float | None) -> None:
    Case(torch.float64, active, **CASES[case]).check(1e-10)


@pytest.mark.parametrize("case", ["pooled", "all of it", "many channels"])
def test_in_single_precision(case: str) -> None:
    # Sums of up to some hundred terms of order one, in another order than torch's.
    Case(torch.float32, 0.1, **CASES[case]).check(2e-5)


def test_graded_spikes() -> None:
    Case(torch.float64, 0.1, ones=False, pool=(2, 2)).check(1e-10)


def test_no_spike_at_all() -> None:
    Case(torch.float64, 0.1, density=0.0, pool=(2, 2)).check(1e-10)


def test_without_a_bias() -> None:
    case = Case(torch.float64, 0.1)
    bare = convolve(case.spikes, case.weight, None, case.geometry)
    torch.testing.assert_close(bare, case.expected - case.bias.view(-1, 1, 1), rtol=1e-10, atol=1e-10)


def test_equal_entries_of_a_window_give_the_gradient_to_the_first() -> None:
    case = Case(torch.float64, None, density=0.02, pool=(2, 2))
    # Most windows hold the bias alone, four times.
    assert float((case.expected == case.bias.view(-1, 1, 1)).double().mean()) > 0.1
    case.check(1e-10)


def test_nan_is_handed_on() -> None:
    case = Case(torch.float64, None, pool=(2, 2))
    with torch.no_grad():
        case.bias[0] = float("nan")
    expected = case.dense()
    assert bool(expected.isnan().any())
    torch.testing.assert_close(case.run(), expected, equal_nan=True)


def test_twice_differentiable() -> None:
    case = Case(torch.float64, None, pool=(2, 2))
    found = []
    for out, below in ((case.run(), case.spikes.carrier), (case.expected, case.x)):
        (g,) = torch.autograd.grad(out.square().sum(), below, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), (case.weight, case.bias)))
    for value, reference in zip(*found, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-10, atol=1e-10)


def test_twice_differentiable_where_the_input_descends_from_the_weight() -> None:
    case = Case(torch.float64, 0.1)
    # A carrier's values mean nothing; its gradient goes on to the weight here.
    case.spikes.carrier = case.weight.flatten()[0].expand(case.spikes.carrier.shape)
    loss = case.run().square().sum()
    (plain,) = torch.autograd.grad(loss, case.weight, retain_graph=True)
    (again,) = torch.autograd.grad(loss, case.weight, create_graph=True)
    torch.testing.assert_close(again, plain, rtol=1e-10, atol=1e-10)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results(case: Case, threads: int) -> list[Tensor]:
    torch.set_num_threads(threads)
    out = case.run()
    inputs = (case.spikes.carrier, case.weight, case.bias)
    return [out, *torch.autograd.grad(out, inputs, torch.ones_like(out))]


def test_bitwise_equal_for_any_number_of_threads(threads: None) -> None:
    case = Case(torch.float32, 0.1, channels=(4, 20), pool=(2, 2))
    one = results(case, 1)
    for count in (2, 7, 64):
        for a, b in zip(one, results(case, count), strict=True):
            assert torch.equal(a, b)


def test_instruction_sets_agree_bitwise() -> None:
    native: Any = backend.native()
    case = Case(torch.float32, 0.1, channels=(4, 40), pool=(2, 2))
    found = {}
    try:
        for name in native.isas():
            native.set_isa(name)
            found[name] = results(case, 1)
    finally:
        native.set_isa("auto")
    first = found.pop(next(iter(found)))
    for other in found.values():
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a, b)


def test_the_choice_counts_padding() -> None:
    geometry = Geometry((12, 9, 9), (64, 7, 7), (1, 1), (0, 0), (1, 1))
    wide, narrow = torch.empty(64, 12, 3, 3), torch.empty(2, 12, 3, 3)
    assert pays(0.1, wide, geometry) and not pays(0.6, wide, geometry)
    assert not pays(0.1, narrow, geometry)


def test_the_choice_counts_the_pooling_that_events_save() -> None:
    plain = Geometry((1, 9, 9), (12, 8, 8), (1, 1), (0, 0), (1, 1))
    pooled = Geometry((1, 9, 9), (12, 4, 4), (1, 1), (0, 0), (1, 1), (2, 2), (2, 2))
    weight = torch.empty(12, 1, 2, 2)
    assert not pays(0.6, weight, plain) and pays(0.6, weight, pooled)


def test_a_kernel_larger_than_the_input_is_refused() -> None:
    native: Any = backend.native()
    case = Case(torch.float32, None)
    fields = {"steps": 1, "batch": 1, "in_channels": 1, "in_height": 2, "in_width": 2, "channels": 1}
    fields |= {"kernel_height": 3, "kernel_width": 3, "in_ptr": case.spikes.ptr.data_ptr()}
    fields |= {"in_idx": case.spikes.idx.data_ptr(), "weight_t": case.weight.data_ptr()}
    with pytest.raises(ValueError, match="larger than the padded input"):
        native.convolve(native.convolution(**fields, bias=case.bias.data_ptr()), case.x.data_ptr(), 0, 0)
    with pytest.raises(ValueError, match="bias"):
        native.convolve(native.convolution(**fields), case.x.data_ptr(), 0, 0)
