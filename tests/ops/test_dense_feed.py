"""The product of a constant input: torch's own forward, the kernels' dW where that is quicker."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counted_native import CountedNative
from torch import Tensor
from torch.nn import functional

from sparse_backend.ops import cost, dense_feed
from sparse_backend.ops.calibration import Costs

# Both add up the same products in float32, in orders of their own: at most B eps |g| |x|, here far less.
TOLERANCES: dict[torch.dtype, dict[str, Any]] = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 2e-4},
}


@pytest.fixture
def native(counted_native: CountedNative, monkeypatch: pytest.MonkeyPatch) -> CountedNative:
    """The kernels' product, on a machine where it is quicker than torch's for every size."""
    monkeypatch.setattr(cost, "costs", lambda: Costs(product=0.4))
    monkeypatch.setattr(cost, "LEAST_PRODUCT", 1)
    return counted_native


def _leaves(batch: int, inputs: int, width: int, dtype: torch.dtype, bias: bool = True) -> list[Tensor]:
    torch.manual_seed(batch + inputs + width)
    shapes = [(batch, inputs), (width, inputs), *([(width,)] if bias else [])]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _copies(leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.detach().clone().requires_grad_() for leaf in leaves]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("batch", "inputs", "width", "bias"), [(128, 784, 100, True), (16, 33, 7, False), (50, 16, 1, True)]
)
def test_gradients_are_torchs(
    native: CountedNative, dtype: torch.dtype, batch: int, inputs: int, width: int, bias: bool
) -> None:
    leaves = _leaves(batch, inputs, width, dtype, bias)
    stock = _copies(leaves)
    x, weight, *rest = leaves
    ours = dense_feed.dense_feed(x, weight, rest[0] if bias else None)
    theirs = functional.linear(*stock)
    assert torch.equal(ours, theirs)
    grad = torch.randn_like(theirs)
    # As a transposed gradient would be: the kernels read rows.
    ours.backward(grad.t().contiguous().t())
    theirs.backward(grad)
    assert native.calls["multiply"] == 1
    for leaf, model in zip(leaves, stock, strict=True):
        assert leaf.grad is not None and leaf.grad.is_contiguous()
        torch.testing.assert_close(leaf.grad, model.grad, **TOLERANCES[dtype])


def test_second_derivatives_are_torchs(native: CountedNative) -> None:
    leaves = _leaves(20, 6, 4, torch.float64)
    assert torch.autograd.gradcheck(dense_feed.dense_feed, leaves)
    assert native.calls["multiply"] > 0
    assert torch.autograd.gradgradcheck(dense_feed.dense_feed, leaves)


def test_any_number_of_threads_gives_the_same_bits(native: CountedNative) -> None:
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            x, weight, bias = _leaves(64, 300, 200, torch.float32)
            dense_feed.dense_feed(x, weight, bias).square().sum().backward()
            found.append(weight.grad)
    finally:
        torch.set_num_threads(before)
    assert native.calls["multiply"] == 3
    # The current is torch's product, whose bits are its own matter: compare the kernels' on one gradient.
    grad, x = torch.randn(64, 200), torch.randn(64, 300)
    bits = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        bits.append(dense_feed._product(grad, x))
    torch.set_num_threads(before)
    assert all(torch.equal(bits[0], other) for other in bits[1:])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "case", ["few in the batch", "frozen weight", "no gradient", "half precision", "three dimensions", "vmap"]
)
def test_other_products_stay_torchs(native: CountedNative, case: str) -> None:
    x, weight, bias = _leaves(8 if case == "few in the batch" else 32, 20, 10, torch.float32)
    if case == "half precision":
        x, weight, bias = (leaf.detach().bfloat16().requires_grad_() for leaf in (x, weight, bias))
    if case == "three dimensions":
        x = torch.randn(3, 32, 20)
    if case == "frozen weight":
        weight.requires_grad_(False)
    if case == "no gradient":
        with torch.no_grad():
            assert not dense_feed.dense_feed(x, weight, bias).requires_grad
    elif case == "vmap":
        out = torch.vmap(lambda w: dense_feed.dense_feed(x.detach(), w, None))(
            torch.stack([weight, 2 * weight])
        )
        out.sum().backward()
    else:
        dense_feed.dense_feed(x, weight, bias).sum().backward()
        assert bias.grad is not None
    assert native.calls["multiply"] == 0


def test_a_machine_whose_library_is_quick_keeps_it(
    native: CountedNative, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "costs", lambda: Costs(product=1.0))
    x, weight, bias = _leaves(32, 20, 10, torch.float32)
    dense_feed.dense_feed(x, weight, bias).sum().backward()
    assert native.calls["multiply"] == 0 and weight.grad is not None
