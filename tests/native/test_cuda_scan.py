"""The CUDA scan's kernel source, built for the host through a shim of the runtime, against the torch loop.

On a machine with a GPU the same cases also run on the device through the installed `_cuda` module.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from . import cases
from .native_layer import COEFFICIENTS, address

STRUCTURE_CODES = {
    "integrator": ("decay", "euler"),
    "pre": ("none", "subtract", "cut_leak", "wipe"),
    "post": ("none", "subtract", "zero", "value", "subtract_all"),
}


def scan_fields(
    case: cases.Case, current: torch.Tensor, device: str
) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Keyword arguments of `scan` and the tensors that they point to."""
    spec, (steps, batch, width) = case.spec, case.shape
    fields: dict[str, Any] = {"dtype": int(current.dtype == torch.float64), "steps": steps, "batch": batch}
    fields |= {"width": width, "poles": spec.poles, "fires": spec.fires}
    fields |= {name: names.index(getattr(spec, name)) for name, names in STRUCTURE_CODES.items()}
    keep = [current]
    fields |= {"current": address(current), "current_stride_b": current.stride(-2)}
    fields["current_stride_t"] = 0 if current.dim() == 2 else current.stride(0)
    for name in COEFFICIENTS:
        keep.append(case.coefficients[name].to(device))
        fields |= {name: address(keep[-1]), f"{name}_per_neuron": keep[-1].numel() > 1}
    for name in ("m0", "i0"):
        value = getattr(case, name)
        if value is not None:
            keep.append(value.to(device))
            fields[name] = address(keep[-1])
    return fields, keep


def check_scan(module: ModuleType, case: cases.Case, device: str, *, spikes_bytes: bool) -> None:
    assert case.current is not None
    trace, dtype = cases.reference(case).trace, case.current.dtype
    steps, batch, width = case.shape
    fields, keep = scan_fields(case, case.current.to(device), device)
    # A padded batch stride, as for a slice of a larger tensor.
    dense = torch.zeros(3, steps, batch + 1, width, dtype=dtype, device=device)
    spikes = torch.zeros(steps, batch, width, dtype=torch.uint8 if spikes_bytes else dtype, device=device)
    m_last, i_last = torch.zeros(2, batch, width, dtype=dtype, device=device)
    for name, value in (("membrane_out", dense[0]), ("u_out", dense[1]), ("spikes", spikes)):
        prefix = name.removesuffix("_out")
        fields |= {
            name: address(value),
            f"{prefix}_stride_t": value.stride(0),
            f"{prefix}_stride_b": value.stride(1),
        }
    fields |= {"spikes_bytes": spikes_bytes, "m_last": address(m_last), "i_last": address(i_last)}
    if device == "cuda":
        fields["stream"] = torch.cuda.current_stream().cuda_stream
    module.neuron_scan(module.scan(**fields))
    assert len(keep) >= 8

    def equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert torch.equal(actual.cpu(), expected.detach().to(actual.dtype))

    equal(dense[0, :, :batch], torch.stack(trace.m))
    equal(dense[1, :, :batch], torch.stack(trace.u))
    equal(spikes, torch.stack(trace.s if spikes_bytes else trace.z))
    equal(m_last, trace.m[-1])
    if case.spec.poles == 2:
        assert trace.i is not None
        equal(i_last, trace.i)
    assert not dense[:, :, batch:].any()


@pytest.mark.parametrize("structure", cases.STRUCTURES, ids=cases.structure_id)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_host_build_equals_the_loop(
    host_module: ModuleType, structure: cases.Structure, dtype: torch.dtype
) -> None:
    for seed in range(4):
        case = cases.make_case(seed, structure, dtype=dtype, feed=["current", "constant"][seed % 2])
        check_scan(host_module, case, "cpu", spikes_bytes=seed >= 2)


@pytest.mark.parametrize("poles", [1, 2])
def test_host_build_of_a_leaky_integrator(host_module: ModuleType, poles: int) -> None:
    check_scan(
        host_module,
        cases.make_case(3, ("euler", poles, "none", "none"), feed="current", fires=False),
        "cpu",
        spikes_bytes=False,
    )


def test_bad_arguments_are_named(host_module: ModuleType) -> None:
    case = cases.make_case(0, ("decay", 1, "subtract", "none"), feed="current")
    assert case.current is not None
    fields, _keep = scan_fields(case, case.current, "cpu")
    with pytest.raises(ValueError, match="current"):
        host_module.neuron_scan(host_module.scan(**(fields | {"current": 0})))
    with pytest.raises(ValueError, match="structure"):
        host_module.neuron_scan(host_module.scan(**(fields | {"pre": 1, "post": 3})))
    with pytest.raises(AttributeError, match="treshold"):
        host_module.scan(treshold=0)


def test_installed_module_imports_without_a_device() -> None:
    module = pytest.importorskip("sparse_backend._cuda", reason="built without nvcc")
    assert "80" in module.ARCHITECTURES and "90" in module.ARCHITECTURES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("structure", cases.STRUCTURES, ids=cases.structure_id)
def test_device_equals_the_loop(structure: cases.Structure) -> None:
    module = pytest.importorskip("sparse_backend._cuda", reason="built without nvcc")
    for seed in range(4):
        case = cases.make_case(seed, structure, dtype=torch.float32, feed=["current", "constant"][seed % 2])
        check_scan(module, case, "cuda", spikes_bytes=seed >= 2)
