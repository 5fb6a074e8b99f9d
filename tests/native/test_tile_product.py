"""The float32 product by tiles of bfloat16, with tiles that are kept in memory (tile_shim/products.cpp)."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .host_build import ROOT

FLAGS = ["-std=c++17", "-O2", "-march=native", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-DSPARSE_BACKEND_VARIANT=in_memory"]
FLAGS += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
SOURCES = ["tests/native/tile_shim/products.cpp", "src_cuda/cpu/tile_check.cpp"]
FAULTS = {"odd_entries_lost": 1, "last_row_lost": 2, "low_bits_lost": 3, "not_a_number": 4}
EPS = torch.finfo(torch.float32).eps


@dataclass
class Products:
    """The product by tiles, and the one of fused multiply-adds that it stands in for."""

    library: ctypes.CDLL

    def __call__(self, a: Tensor, b: Tensor, tiles: bool = True, past_cache: bool = False) -> Tensor:
        """a b; of rows that lie further apart than they are long, nothing else is written."""
        inner, width = b.shape
        columns, size = -(-width // 16) * 16, ctypes.c_int64
        packed = torch.full((self.library.product_size(tiles, size(inner), size(columns)),), torch.nan)
        for first in range(0, columns, 64):
            sizes = (b.stride(0), inner, width, first, min(64, columns - first))
            self.library.product_pack(tiles, _address(b), *map(size, sizes), _address(packed))
        out = torch.full((a.shape[0], columns + 16), 7.0)
        self.library.product_multiply(
            *(tiles, _address(a), *map(size, (a.stride(0), a.shape[0], inner)), _address(packed)),
            *(size(columns), _address(out), size(out.stride(0)), past_cache),
        )
        assert bool((out[:, columns:] == 7).all())
        assert not torch.isfinite(a).all() or bool((out[:, width:columns] == 0).all())
        return out[:, :width]


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Products:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is needed to build the product by tiles for the host")
    target: Path = tmp_path_factory.mktemp("tiles") / "products.so"
    command = [compiler, *FLAGS, *(str(ROOT / source) for source in SOURCES), "-o", str(target)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    library = ctypes.CDLL(str(target))
    library.product_size.restype = ctypes.c_int64
    return Products(library)


def random_factors(rows: int, inner: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The first with rows that lie further apart than they are long, and no numbers between them."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.full((rows, inner + seed % 7), torch.nan)
    a[:, :inner] = torch.randn(rows, inner, generator=generator)
    return a[:, :inner], torch.randn(inner, columns, generator=generator)


def errors(found: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """In units in the last place of the sum of |a| |b|, which is what rounding is relative to."""
    wanted = a.double() @ b.double()
    return (found.double() - wanted).abs() / (EPS * (a.double().abs() @ b.double().abs()))


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(7.0, 8.0, 9.0), b.nan_to_num(7.0, 8.0, 9.0))


def test_every_remainder(product: Products) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.stack([torch.randint(1, most, (30,), generator=generator) for most in (201, 301, 513)], 1)
    around = [(rows, 16, 65) for rows in (1, 15, 16, 17, 31, 32, 33, 64, 65)]
    around += [(5, inner, 48) for inner in (1, 15, 16, 31, 32, 33, 64, 65)]
    around += [(33, 40, columns) for columns in (1, 16, 17, 32, 33, 48, 64, 65, 80, 112, 128)]
    for seed, (rows, inner, columns) in enumerate([*sizes.tolist(), *around]):
        a, b = random_factors(rows, inner, columns, seed)
        assert errors(product(a, b), a, b).max() <= max(2, inner / 32), (rows, inner, columns)


def scaled_rows(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """From products near the smallest float32 to near the largest."""
    return a * torch.exp2(torch.linspace(-100, 110, a.shape[0])).unsqueeze(1), b


def scaled_entries(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    def scaled(x: Tensor) -> Tensor:
        return x * torch.exp(6 * torch.randn(x.shape, generator=generator))

    return scaled(a), scaled(b)


def cancelling(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    half = a.shape[1] // 2
    a = torch.cat([a[:, :half], -a[:, :half] * (1 + 1e-6 * a[:, half : 2 * half])], 1)
    return a, torch.cat([b[:half], b[:half]])


def of_one_sign(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return a.abs(), b.abs()


def as_they_are(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return a, b


def surrogates(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of lambda of a deep layer, times a linear layer's weight."""
    return 1e-30 * a / (1 + 25 * torch.randn(a.shape, generator=generator).abs()) ** 2, b / 14


@pytest.mark.parametrize("inner", [40, 200, 290])
@pytest.mark.parametrize(
    "change", [as_they_are, of_one_sign, scaled_rows, scaled_entries, cancelling, surrogates]
)
def test_nothing_of_float32_is_lost(
    product: Products, change: Callable[..., tuple[Tensor, Tensor]], inner: int
) -> None:
    a, b = change(*random_factors(100, inner, 200), torch.Generator().manual_seed(2))
    by_tiles, by_vectors = (errors(product(a, b, tiles), a, b) for tiles in (True, False))
    assert by_tiles.max() <= by_vectors.max()
    assert by_tiles.square().mean() <= by_vectors.square().mean()


def test_powers_of_two_change_no_other_bit(product: Products) -> None:
    a, b = random_factors(60, 70, 100)
    whole = product(a, b)
    exponents = torch.linspace(-118, 118, 60).round().unsqueeze(1)
    assert torch.equal(product(torch.ldexp(a, exponents), b), torch.ldexp(whole, exponents))
    for exponent in (-100.0, 100.0):
        assert torch.equal(product(a, b * 2**exponent), whole * 2**exponent)


def test_denormal_numbers(product: Products) -> None:
    """Exact sums in multiples of the smallest denormal."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randint(-1000, 1000, (40, 60), generator=generator).float()
    b = torch.randint(-10, 10, (60, 70), generator=generator).float()
    wanted = torch.ldexp(a @ b, torch.tensor(-149))
    assert torch.equal(product(torch.ldexp(a, torch.tensor(-149)), b), wanted)
    assert torch.equal(product(a, torch.ldexp(b, torch.tensor(-149))), wanted)
    assert torch.equal(product(torch.ldexp(a, torch.tensor(-149)), b * 2.0**120) * 2.0**20, (a @ b) * 2.0**-9)
    assert torch.equal(product(torch.zeros(3, 60), b), torch.zeros(3, 70))


def test_far_below_a_rows_largest_number(product: Products) -> None:
    """What is flushed is less than the smallest normal number, relative to the largest of row and part."""
    a, b = random_factors(50, 64, 64)
    a = torch.where(torch.arange(64) % 2 == 0, a, a * 2.0**-90)
    b = torch.where((torch.arange(64) % 2 == 0).unsqueeze(1), b * 2.0**-60, b)
    wanted, scale = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    flushed = 64 * 2.0**-124 * a.abs().amax(1, keepdim=True) * b.abs().max()
    assert bool(((product(a, b).double() - wanted).abs() <= 2 * EPS * scale + flushed).all())


def test_scales_whose_product_is_no_float(product: Products) -> None:
    """2^160, where large numbers of one factor meet zeros of the other, and 2^-140."""
    generator = torch.Generator().manual_seed(5)
    a = torch.randint(-1000, 1000, (40, 64), generator=generator).float()
    b = torch.randint(-1000, 1000, (64, 80), generator=generator).float()
    large = torch.arange(64) % 2 == 0
    found = product(torch.where(large, a * 2.0**100, a), torch.where(large.unsqueeze(1), 0.0, b * 2.0**60))
    assert torch.equal(found, (a[:, 1::2] @ b[1::2]) * 2.0**60)
    assert torch.equal(product(a * 2.0**-70, b * 2.0**-70), torch.ldexp(a @ b, torch.tensor(-140)))


def test_infinite_and_nan(product: Products) -> None:
    a, b = random_factors(70, 50, 150)
    clean = product(a, b)
    bad_rows = [0, 13, 31, 40, 69]
    for row, value in zip(bad_rows, (torch.inf, -torch.inf, torch.nan, torch.inf, torch.inf), strict=True):
        a[row, row % 50] = value
    a[40, 7] = -torch.inf
    by_tiles, by_vectors = product(a, b), product(a, b, tiles=False)
    assert same_bits(by_tiles[bad_rows], by_vectors[bad_rows])
    assert bool(torch.isinf(by_tiles[0]).all()) and bool(torch.isnan(by_tiles[31]).all())
    others = [row for row in range(70) if row not in bad_rows]
    assert torch.equal(by_tiles[others], clean[others])
    b[3, 70], b[4, 71] = torch.inf, torch.nan
    by_tiles = product(a, b)
    assert same_bits(by_tiles[:, 64:128], product(a, b, tiles=False)[:, 64:128])
    assert torch.equal(by_tiles[others][:, :64], clean[others][:, :64])
    assert torch.equal(by_tiles[others][:, 128:], clean[others][:, 128:])


def test_too_large_sums_are_infinite(product: Products) -> None:
    a, b = torch.full((3, 40), 3e38), torch.ones(40, 20)
    a[1] = -a[1]
    a[2] *= 1 / 41
    found = product(a, b)
    assert bool((found[0] == torch.inf).all()) and bool((found[1] == -torch.inf).all())
    assert errors(found[2:], a[2:], b).max() <= 2


def test_other_rows_change_no_bit(product: Products) -> None:
    a, b = random_factors(131, 70, 131)
    whole = product(a, b)
    for first, last in ((0, 1), (1, 18), (5, 9), (16, 33), (31, 32), (100, 131)):
        assert torch.equal(whole[first:last], product(a[first:last], b))
    order = torch.randperm(131, generator=torch.Generator().manual_seed(4))
    assert torch.equal(whole[order], product(a[order], b))


def test_past_the_cache(product: Products) -> None:
    a, b = random_factors(40, 50, 100)
    assert torch.equal(product(a, b, past_cache=True), product(a, b))


def test_wrong_tiles_are_refused(product: Products) -> None:
    assert product.library.product_accepted(0)
    for name, fault in FAULTS.items():
        assert not product.library.product_accepted(fault), name
