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


def test_bad_arguments_are_named() -> None:
    a, b = random_factors(4, 3, 5, torch.float32)
    with pytest.raises(ValueError, match="a_stride"):
        _cpu.multiply(address(a), 2, 4, address(b), 3, 5, address(a), _cpu.FLOAT32)
