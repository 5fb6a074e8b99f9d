"""Same bits for any number of threads and any instruction set, and errors that name the argument."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from . import cases
from .native_layer import _cpu, packed


@pytest.fixture
def forced_isa() -> Iterator[Callable[[str], None]]:
    yield _cpu.set_isa
    _cpu.set_isa("auto")


def everything(case: cases.Case, threads: int) -> dict[str, Tensor]:
    """All results of a forward and both reverse scans."""
    generator = torch.Generator().manual_seed(5)
    layer = case.native(threads)
    # Without dense outputs from outside the step, so that carriers take part.
    saved = layer.forward(carriers=7, includes_spikes=True)
    g = torch.randn(case.shape, generator=generator, dtype=torch.float64).to(saved.u.dtype)
    assert case.weight is not None
    low = (saved.spikes[0], saved.spikes[1] % case.weight.shape[1])
    results = {"spikes": saved.spikes[1], "active": saved.active[1], "u": saved.u, "m_last": saved.m_last}
    for dense in (False, True):
        gradients = layer.backward(saved, dense=dense, g_packed=packed(g, saved.active), low=low)
        results |= {f"{name}/{dense}": value for name, value in gradients.items()}
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    for seed, structure in enumerate(cases.STRUCTURES):
        # More batch elements than slots, so that slots cover several.
        case = cases.make_case(seed, structure, dtype=dtype, rule="sampled", shape=(11, 37, 33))
        one = everything(case, 1)
        for threads in (2, 7, 64):
            many = everything(case, threads)
            for name, value in one.items():
                assert torch.equal(value, many[name]), (structure, threads, name)


@pytest.mark.parametrize("shape", [(1100, 3, 20), (6, 1, 200), (12, 9, 300), (4, 64, 530)])
def test_threads_do_not_change_a_bit_in_chunks_and_tiles(shape: tuple[int, int, int]) -> None:
    for structure in (("decay", 1, "subtract", "none"), ("decay", 2, "wipe", "zero")):
        case = cases.make_case(3, structure, dtype=torch.float32, rule="window", shape=shape)
        one = everything(case, 1)
        for threads in (2, 5, 64):
            many = everything(case, threads)
            for name, value in one.items():
                assert torch.equal(value, many[name]), (structure, threads, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_instruction_sets_agree(dtype: torch.dtype, forced_isa: Callable[[str], None]) -> None:
    """Everything but exp and tanh is element by element or in a fixed order: not a bit may differ."""
    assert _cpu.isas()[-1] in ("x86-64", "generic")
    for seed, structure in enumerate(cases.STRUCTURES):
        shape = [(11, 6, 70), (3, 8, 300)][seed % 2]
        case = cases.make_case(seed, structure, dtype=dtype, rule="sampled", shape=shape)
        results = []
        for name in _cpu.isas():
            forced_isa(name)
            assert _cpu.isa() == name
            results.append(everything(case, 2))
        for other in results[1:]:
            for name, value in results[0].items():
                assert torch.equal(value, other[name]), (structure, name)


def test_unknown_instruction_set_is_refused(forced_isa: Callable[[str], None]) -> None:
    with pytest.raises(ValueError, match="x86-64-v9"):
        forced_isa("x86-64-v9")
    baseline = _cpu.isas()[-1]
    code = "from sparse_backend import _cpu; print(_cpu.isa())"
    environment = os.environ | {"SPARSE_BACKEND_ISA": baseline}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.split()[-1] == baseline


def test_tiles_need_a_processor_that_has_them(forced_isa: Callable[[str], None]) -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "amx_bf16" in flags.read_text(encoding="utf-8"):
        pytest.skip("for processors that say that they have no AMX")
    assert "x86-64-amx" not in _cpu.isas()
    with pytest.raises(ValueError, match="x86-64-amx"):
        forced_isa("x86-64-amx")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dtype", 7, "dtype=7"),
        ("steps", 0, "steps=0"),
        ("batch", -1, "batch=-1"),
        ("width", 0, "width=0"),
        ("threads", 0, "threads=0"),
        ("membrane", 0, "membrane=0"),
        ("threshold", 0, "threshold=0"),
        ("surrogate", 99, "surrogate=99"),
        ("gradient", 4, "gradient=4"),
        ("level", -1.0, "level=-1"),
        ("carriers", 8, "carriers=8"),
        ("poles", 3, "poles=3"),
        ("weight_t", 0, "in_ptr"),
        ("fires", False, "fires=False"),
    ],
)
def test_bad_arguments_are_named(field: str, value: int | float | bool, message: str) -> None:
    layer = cases.make_case(0, ("decay", 1, "subtract", "none")).native()
    setattr(layer.args, field, value)
    with pytest.raises(ValueError, match=message):
        _cpu.forward(layer.args)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(AttributeError, match="treshold"):
        _cpu.layer(treshold=1)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("dtype", 2**32 + 1, OverflowError),
        ("carriers", 2**32 + 3, OverflowError),
        ("steps", 2**63, OverflowError),
        ("steps", 1.5, TypeError),
        ("membrane", None, TypeError),
        ("fires", "no", TypeError),
        ("gain_per_neuron", 2, TypeError),
        ("level", "0.5", TypeError),
    ],
)
def test_values_that_do_not_fit_are_refused(field: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        _cpu.layer(**{field: value})


def test_missing_lists_are_named() -> None:
    case = cases.make_case(0, ("decay", 1, "subtract", "subtract"))
    layer = case.native()
    layer.forward()
    out = torch.empty(case.shape[2], dtype=torch.float64)
    with pytest.raises(ValueError, match="spike_ptr"):
        _cpu.backward(layer.args, _cpu.gradients(d_bias=out.data_ptr()))
    with pytest.raises(ValueError, match="g_active"):
        _cpu.backward(layer.args, _cpu.gradients(g_active=out.data_ptr()))
