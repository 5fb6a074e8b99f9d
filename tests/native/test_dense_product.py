"""The kernels' own matrix product against torch's in float64: every remainder of its tiles, and bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from .native_layer import _cpu, address, dtype_code


@pytest.fixture(params=_cpu.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _cpu.set_isa(request.param)
    yield request.param
    _cpu.set_isa("auto")


def product(a: Tensor, b: Tensor, threads: int = 2) -> Tensor:
    """a b with padded rows."""
    out = torch.full((a.shape[0], _cpu.padded_width(b.shape[1])), torch.nan, dtype=a.dtype)
    sizes = (a.stride(0), a.shape[0], address(b), *b.shape)
    _cpu.multiply(address(a), *sizes, address(out), dtype_code(a.dtype), threads)
    return out


def random_factors(
    rows: int, inner: int, columns: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The first with rows that lie further apart than they are long, and no numbers between them."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.full((rows, inner + seed % 7), torch.nan, dtype=dtype)
    a[:, :inner] = torch.randn(rows, inner, generator=generator, dtype=torch.float64)
    return a[:, :inner], torch.randn(inner, columns, generator=generator, dtype=torch.float64).to(dtype)


def check(a: Tensor, b: Tensor) -> None:
    """To rounding: a chain of K additions is off by at most K units in the last place of the sum of
    |a| |b|."""
    found, wanted = product(a, b).double(), a.double() @ b.double()
    bound = a.shape[1] * torch.finfo(a.dtype).eps * (a.double().abs() @ b.double().abs())
    columns = b.shape[1]
    assert bool(((found[:, :columns] - wanted).abs() <= bound).all()), (a.shape, b.shape)
    assert bool((found[:, columns:] == 0).all()), (a.shape, b.shape)


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_remainder(isa: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    for seed in range(120):
        rows, inner, columns = torch.randint(1, 71, (3,), generator=generator).tolist()
        check(*random_factors(rows, inner, columns, dtype, seed))
    for rows in (1, 2, 5, 6, 7, 47, 48, 53, 54, 95, 96, 97, 102):  # around tiles, blocks and parts
        check(*random_factors(rows, 3, 65, dtype, rows))
    check(*random_factors(211, 300, 517, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_result_larger_than_the_cache(isa: str, dtype: torch.dtype) -> None:
    check(*random_factors(21_001, 3, 203, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_threads_nor_other_rows_change_a_bit(isa: str, dtype: torch.dtype) -> None:
    a, b = random_factors(331, 70, 131, dtype)
    whole = product(a, b, threads=1)
    for threads in (2, 3, 7):
        assert torch.equal(whole, product(a, b, threads=threads))
    for first, last in ((0, 1), (5, 9), (100, 107), (200, 331)):
        assert torch.equal(whole[first:last], product(a[first:last], b))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, block: int, threads: int = 2) -> Tensor:
    """x weight^T + bias."""
    width = weight.shape[0]
    # Whatever lies behind the result must stay.
    out = torch.full((x.shape[0] + 1, width), torch.nan, dtype=x.dtype)
    _cpu.linear(
        *(address(x), x.stride(0), x.shape[0], address(weight), weight.shape[1], width),
        *(0 if bias is None else address(bias), address(out), block, dtype_code(x.dtype), threads),
    )
    assert bool(out[-1].isnan().all())
    return out[:-1]


def in_blocks(x: Tensor, weight: Tensor, bias: Tensor | None, block: int, fused: bool) -> Tensor:
    """float32 in the same order. A float64 sum of a float32 and a product of two is rounded to float32 as a
    fused multiply-add is, but where it lies within 2^-53 of the middle between two."""
    total = torch.zeros(x.shape[0], weight.shape[0]) if bias is None else bias.expand(x.shape[0], -1).clone()
    for first in range(0, x.shape[1], block):
        chain = torch.zeros_like(total)
        for k in range(first, min(first + block, x.shape[1])):
            a, b = x[:, k, None], weight[None, :, k]
            chain = (chain.double() + a.double() * b.double()).float() if fused else chain + a * b
        total = total + chain
    return total


@pytest.mark.sanitizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_at_every_remainder(isa: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    sizes = torch.randint(1, 71, (60, 4), generator=generator).tolist()
    # Few rows and many columns are done strip by strip, many rows after all is packed.
    for seed, (rows, inner, width, block) in enumerate(
        [*sizes, (7, 30, 700, 11), (600, 9, 530, 4), (49, 5, 513, 9)]
    ):
        x, weight = random_factors(rows, inner, width, dtype, seed)
        weight, bias = weight.t().contiguous(), torch.randn(width, generator=generator).to(dtype)
        for b in (None, bias):
            wanted = x.double() @ weight.double().t() + (0 if b is None else b.double())
            size = x.double().abs() @ weight.double().abs().t() + bias.double().abs()
            found = linear(x, weight, b, block)
            bound = (inner + 2) * torch.finfo(dtype).eps * size
            assert bool(((found[:, :width].double() - wanted).abs() <= bound).all()), (
                rows,
                inner,
                width,
                block,
            )
            assert bool((found[:, width:] == 0).all())


@pytest.mark.parametrize("block", [1, 17, 96, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_adds_up_in_blocks(isa: str, block: int, bias: bool) -> None:
    x, weight = random_factors(37, 200, 71, torch.float32)
    weight, b = weight.t().contiguous(), torch.randn(71) if bias else None
    expected = in_blocks(x, weight, b, block, fused=isa not in ("x86-64", "generic"))
    differing = linear(x, weight, b, block) != expected
    # The one rounding in 2^29 that `in_blocks` gets wrong hardly ever comes.
    assert int(differing.sum()) <= 1


def test_threads_change_no_bit_of_linear(isa: str) -> None:
    for rows, width in ((331, 131), (40, 1100)):
        x, weight = random_factors(rows, 70, width, torch.float32)
        weight = weight.t().contiguous()
        whole = linear(x, weight, None, 32, threads=1)
        assert all(torch.equal(whole, linear(x, weight, None, 32, threads)) for threads in (2, 3, 7))
        assert torch.equal(whole[5:9], linear(x[5:9], weight, None, 32))


def test_bad_arguments_are_named() -> None:
    a, b = random_factors(4, 3, 5, torch.float32)
    with pytest.raises(ValueError, match="a_stride"):
        _cpu.multiply(address(a), 2, 4, address(b), 3, 5, address(a), _cpu.FLOAT32)
    with pytest.raises(ValueError, match="x_stride"):
        _cpu.linear(address(a), 2, 4, address(b), 3, 5, 0, address(a), 3, _cpu.FLOAT32)
    with pytest.raises(ValueError, match="block"):
        _cpu.linear(address(a), 3, 4, address(b), 3, 5, 0, address(a), 0, _cpu.FLOAT32)
