"""Between dense tensors and events: compress, scatter, gather, transpose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_backend.ops import memory

from .native_layer import _cpu, address, dtype_code, events_of, packed, taken


def compress(x: Tensor, limit: float = 1.0, threads: int = 1) -> tuple[Tensor, Tensor, Tensor] | None:
    steps, batch, inputs = x.shape
    found = _cpu.compress(
        x.data_ptr(),
        steps,
        batch,
        inputs,
        x.stride(0),
        x.stride(1),
        dtype_code(x.dtype),
        limit=limit,
        threads=threads,
    )
    if found is None:
        return None
    floating = x.dtype if x.dtype.is_floating_point else torch.float32
    ptr, idx = taken(found, steps * batch)
    val = (
        memory.adopt(found.take_values(), (found.count,), floating)
        if found.valued
        else torch.ones(found.count)
    )
    val = val.to(floating)
    assert found.valued != bool((val == 1).all())
    return ptr, idx, val


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.bool])
@pytest.mark.parametrize("width", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_compress(dtype: torch.dtype, width: int, density: float) -> None:
    generator = torch.Generator().manual_seed(width)
    mask = torch.rand(7, 5, width, generator=generator) <= density - 1e-9
    values = torch.randint(1, 4, mask.shape, generator=generator) if width % 2 else torch.ones(mask.shape)
    x = (mask * values).to(dtype)
    ptr, idx, val = events_of(x.float())
    for threads in (1, 2, 3):
        found = compress(x, threads=threads)
        assert found is not None
        assert (
            torch.equal(found[0], ptr) and torch.equal(found[1], idx) and torch.equal(found[2].float(), val)
        )


def test_compress_of_strided_and_constant_inputs() -> None:
    x = (torch.rand(6, 5, 40, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    for view in (x.transpose(0, 1), x[:, ::2], x[:, :, 3:20], x[:1].expand(4, 5, 40)):
        found = compress(view)
        assert found is not None and torch.equal(found[0], events_of(view)[0])
        assert torch.equal(found[1], events_of(view)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("position", [(0, 0, 0), (3, 29, 64), (59, 29, 129)])
def test_one_value_that_is_not_one_makes_all_values_kept(
    dtype: torch.dtype, position: tuple[int, int, int]
) -> None:
    """Whichever thread finds it, and however many rows were read before."""
    x = (torch.rand(60, 30, 130, generator=torch.Generator().manual_seed(3)) < 0.1).to(dtype)
    x[position] = 2
    for view in (x, x.transpose(0, 1), x[:, 1:], x[:, :, 1:]):
        expected = events_of(view.float())
        for threads in (1, 2, 3, 5):
            found = compress(view, threads=threads)
            assert found is not None
            for actual, wanted in zip(found, expected, strict=True):
                assert torch.equal(actual.to(wanted.dtype), wanted)


@pytest.mark.parametrize("shape", [(1, 500, 70), (500, 1, 70), (1, 1, 5000)])
def test_compress_of_few_rows(shape: tuple[int, int, int]) -> None:
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.1).float()
    for threads in (1, 4):
        found = compress(x, threads=threads)
        assert found is not None
        assert all(torch.equal(actual, wanted) for actual, wanted in zip(found, events_of(x), strict=True))


def test_negative_zero_is_no_event_and_nan_is_one() -> None:
    found = compress(torch.tensor([[[-0.0, float("nan"), 0.0, 2.0]]]))
    assert found is not None and found[1].tolist() == [1, 3]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_compress_gives_up_above_the_limit(threads: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(40, 9, 100, generator=generator) < 0.2).float()
    exact = float(x.count_nonzero()) / x.numel()
    assert compress(x, limit=exact * 1.001, threads=threads) is not None
    assert compress(x, limit=exact * 0.999, threads=threads) is None
    assert compress(torch.ones(40, 9, 100), limit=0.3, threads=threads) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("analog", [False, True])
def test_scatter_and_gather_are_inverse(dtype: torch.dtype, analog: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(6, 5, 70, generator=generator) < 0.2).to(dtype)
    x = x * torch.randn(x.shape, generator=generator, dtype=dtype) if analog else x
    ptr, idx, val = events_of(x)
    out = torch.full((6, 10, 70), 9.0, dtype=dtype)[:, ::2]
    code = dtype_code(dtype)
    _cpu.scatter(
        address(ptr),
        address(idx),
        address(val) if analog else 0,
        6,
        5,
        70,
        out.data_ptr(),
        out.stride(0),
        out.stride(1),
        code,
        threads=2,
    )
    assert torch.equal(out, x)
    dense = torch.randn(6, 5, 70, generator=generator, dtype=dtype)
    read = torch.empty(idx.numel(), dtype=dtype)
    _cpu.gather(
        address(ptr),
        address(idx),
        6,
        5,
        dense.data_ptr(),
        dense.stride(0),
        dense.stride(1),
        address(read),
        code,
        2,
    )
    assert torch.equal(read, packed(dense, (ptr, idx)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (20, 700), (65, 33), (200, 3)])
def test_transposed_weight_is_padded_with_zeros(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    width, inputs = shape
    weight = torch.randn(width, inputs + 2, dtype=dtype)[:, :inputs]
    padded = _cpu.padded_width(width)
    assert padded % 16 == 0 and width <= padded < width + 16
    out = torch.full((inputs, padded), torch.nan, dtype=dtype)
    _cpu.transpose_weight(
        weight.data_ptr(), out.data_ptr(), width, inputs, weight.stride(0), dtype_code(dtype), threads=2
    )
    assert torch.equal(out[:, :width], weight.T)
    assert not out[:, width:].any()
