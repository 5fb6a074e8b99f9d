"""`linear`: whichever product serves, the result is torch's to the last bit."""

from __future__ import annotations

import pytest
import torch
from counted_native import CountedNative
from torch import Tensor
from torch.nn import functional

from sparse_backend.ops import cost, linear
from sparse_backend.ops.calibration import Costs


@pytest.fixture
def native(counted_native: CountedNative, monkeypatch: pytest.MonkeyPatch) -> CountedNative:
    """The kernels' product, on a machine where it is quicker than torch's for every size; none tried yet."""
    monkeypatch.setattr(cost, "costs", lambda: Costs(product=0.4))
    monkeypatch.setattr(cost, "LEAST_PRODUCT", 1)
    monkeypatch.setattr(linear, "_uses", {})
    monkeypatch.setattr(linear, "_blocks", {})
    return counted_native


def _arguments(shape: tuple[int, int], width: int, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(sum(shape) + width)
    return torch.randn(shape), torch.randn(width, shape[-1]), torch.randn(width) if bias else None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("batch", "inputs", "width"),
    [(128, 784, 100), (16, 1000, 33), (64, 100, 16), (40, 193, 1), (17, 385, 130)],
)
def test_every_bit_is_torchs(native: CountedNative, batch: int, inputs: int, width: int, bias: bool) -> None:
    for _ in range(linear._TRIED_AT + 1):
        x, weight, b = _arguments((batch, inputs), width, bias)
        assert torch.equal(linear.linear(x, weight, b), functional.linear(x, weight, b))
    assert len(linear._blocks) == 1 and native.calls["linear"] > 0


def test_a_size_is_tried_once_and_not_at_its_first_use(native: CountedNative) -> None:
    x, weight, bias = _arguments((32, 784), 100, True)
    for _ in range(linear._TRIED_AT - 1):
        linear.linear(x, weight, bias)
    assert native.calls["linear"] == 0
    state = torch.get_rng_state()
    linear.linear(x, weight, bias)
    tried = native.calls["linear"]
    assert tried > 0 and torch.equal(torch.get_rng_state(), state)
    linear.linear(x, weight, bias)
    found = linear._blocks[32, 784, 100, True, torch.get_num_threads()]
    assert native.calls["linear"] == tried + (found is not None)


def test_a_product_that_differs_is_left_to_torch(native: CountedNative) -> None:
    native.left_out.add("linear")
    x, weight, bias = _arguments((32, 784), 100, True)
    for _ in range(linear._TRIED_AT + 1):
        assert torch.equal(linear.linear(x, weight, bias), functional.linear(x, weight, bias))
    assert list(linear._blocks.values()) == [None]


def test_trials_have_an_end(native: CountedNative, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_MOST_TRIALS", 2)
    for batch in (16, 17, 18, 19):
        for _ in range(linear._TRIED_AT):
            linear.linear(*_arguments((batch, 64), 20, False))
    assert len(linear._blocks) == 2 and len(linear._uses) <= 2


@pytest.mark.parametrize(
    "case",
    ["double", "gradient", "strided", "negated", "few rows", "subclass", "no inputs", "autocast", "medium"],
)
def test_what_the_kernels_do_not_take_is_torchs(native: CountedNative, case: str) -> None:
    x, weight, bias = _arguments((8 if case == "few rows" else 32, 784), 100, True)
    assert bias is not None
    if case == "double":
        x, weight, bias = x.double(), weight.double(), bias.double()
    if case == "gradient":
        weight.requires_grad_()
    if case == "strided":
        weight = weight.t().contiguous().t()
    if case == "negated":
        x = torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag
    if case == "subclass":
        x = x.as_subclass(_Subclass)
    if case == "no inputs":
        x, weight = x[:, :0], weight[:, :0]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if case == "medium" else before)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            for _ in range(linear._TRIED_AT + 1):
                out = linear.linear(x, weight, bias)
                assert torch.equal(out, functional.linear(x, weight, bias))
    finally:
        torch.set_float32_matmul_precision(before)
    assert native.calls["linear"] == 0
    assert type(out) is type(x) and out.requires_grad is (case == "gradient")


class _Subclass(Tensor):
    pass


def test_a_precision_set_later_is_obeyed(native: CountedNative) -> None:
    x, weight, bias = _arguments((32, 784), 100, True)
    for _ in range(linear._TRIED_AT):
        linear.linear(x, weight, bias)
    products = native.calls["linear"]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(linear.linear(x, weight, bias), functional.linear(x, weight, bias))
    finally:
        torch.set_float32_matmul_precision(before)
    assert native.calls["linear"] == products


def test_without_memory_for_a_trial_the_product_is_torchs(
    native: CountedNative, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(linear, "_try_blocks", fail)
    x, weight, bias = _arguments((32, 784), 100, True)
    for _ in range(linear._TRIED_AT + 1):
        assert torch.equal(linear.linear(x, weight, bias), functional.linear(x, weight, bias))
    assert list(linear._blocks.values()) == [None]
