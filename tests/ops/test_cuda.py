"""The CUDA path of the operator on host tensors: the same Python, the same kernel sources, no device.

The other tests of this folder run on it too (conftest.py); here is what only CUDA has: chunks of time steps,
regions of staged entries, words of 32 neurons, narrow inputs, graph capture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from layer_cases import SPECS, Case, assert_close, relative_error, spec_name
from torch import Tensor

from sparse_backend.neurons import NeuronSpec
from sparse_backend.neurons import surrogates as S
from sparse_backend.ops import backend, cuda, cuda_cost, cuda_lists, cuda_place, events
from sparse_backend.ops.sequence import GradientRule, LayerOutput, PackedSpikes, run_layer

SAMPLED = GradientRule("sampled", 0.4, 11)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block of steps per chunk, so that short sequences have several."""
    monkeypatch.setattr(cuda_cost, "chunk_steps", lambda steps, row_bytes, block, device: block)


@contextlib.contextmanager
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reference, within a test that runs on the kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_on_cuda", lambda x: False)
        yield


def lists(out: LayerOutput) -> list[Tensor]:
    assert out.spikes is not None
    spikes = out.spikes
    return [
        value for value in (spikes.ptr, spikes.idx, spikes.val, spikes.aptr, spikes.aidx) if value is not None
    ]


@pytest.mark.parametrize("width", [1, 31, 32, 33, 200, 1025])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_widths(on_host: ModuleType, monkeypatch: pytest.MonkeyPatch, width: int, dtype: torch.dtype) -> None:
    """float32: lists are bitwise equal where the feed sums in the same order, gradients within 1e-4, the
    rounding of sums of a few thousand terms."""
    case = Case.random(
        SPECS[3], S.atan(2.0), steps=19, batch=3, inputs=21, width=width, density=0.1, binary=True,
        dtype=dtype, input_gradient=False, membrane_gradient=False,
    )  # fmt: skip
    out = case.run(SAMPLED)
    got = case.gradients(out.dense_spikes, None, out.state)
    with plain_torch(monkeypatch):
        want_out = case.run(SAMPLED)
        want = case.gradients(want_out.dense_spikes, None, want_out.state)
    if dtype == torch.float64:
        assert all(torch.equal(a, b) for a, b in zip(lists(out), lists(want_out), strict=True))
        assert_close(got, want, 1e-10)
    else:
        # Another order of summation may move an entry across the threshold; the mean difference stays small.
        assert_close(got, want, 1e-4)


@pytest.mark.parametrize("spec", SPECS[:12], ids=spec_name)
def test_lists_are_those_of_the_cpu_kernels(
    on_host: ModuleType, monkeypatch: pytest.MonkeyPatch, spec: NeuronSpec
) -> None:
    """In float32 too: both add the events of a step in their order, then the bias."""
    monkeypatch.setenv("SPARSE_BACKEND_NATIVE", "auto")
    if backend.native() is None:
        pytest.skip("the native CPU module was not built")
    case = Case.random(
        spec, S.atan(2.0), steps=30, batch=3, inputs=60, width=45, density=0.03, dtype=torch.float32,
        input_gradient=False, membrane_gradient=False, learn=False,
    )  # fmt: skip
    monkeypatch.setattr(backend, "_module", lambda layer: cuda)
    got = case.run(SAMPLED)
    monkeypatch.undo()
    want = case.run(SAMPLED)
    assert want.algorithm["backend"] == "cpu" and want.algorithm["feed"] == got.algorithm["feed"] == "events"
    assert all(torch.equal(a, b) for a, b in zip(lists(got), lists(want), strict=True))
    assert torch.equal(got.state[0], want.state[0])


@pytest.mark.parametrize(
    "rule", [GradientRule("exact"), GradientRule("window", 0.3), SAMPLED], ids=lambda r: r.mode
)
@pytest.mark.parametrize("options", [{}, {"per_neuron": True}, {"membrane_gradient": False}], ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=spec_name)
def test_chunks_join(
    on_host: ModuleType, small_chunks: None, monkeypatch: pytest.MonkeyPatch, spec: NeuronSpec, rule:
    GradientRule,
    options: dict[str, bool],
) -> None:  # fmt: skip
    case = Case.random(
        spec, S.fast_sigmoid(4.0), steps=50, width=35, density=0.05, input_gradient=False, **options
    )  # type: ignore[arg-type]
    out = case.run(rule)
    got = case.gradients(out.dense_spikes, out.membrane, out.state)
    with plain_torch(monkeypatch):
        out = case.run(rule)
        want = case.gradients(out.dense_spikes, out.membrane, out.state)
    assert_close(got, want, 1e-10)


@pytest.mark.parametrize("density", [0.02, 0.9])
@pytest.mark.parametrize(
    "rule", [GradientRule("exact"), GradientRule("window", 0.05), SAMPLED], ids=lambda r: r.mode
)
def test_chunks_join_between_layers(
    on_host: ModuleType,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    rule: GradientRule,
    density: float,
) -> None:
    below = Case.random(SPECS[3], S.atan(2.0), steps=40, inputs=9, width=70, learn=False, density=density)
    above = Case.random(SPECS[16], S.atan(2.0), steps=40, inputs=70, width=37, per_neuron=True)

    def run() -> dict[str, Tensor]:
        first = below.run(rule)
        assert isinstance(first.spikes, PackedSpikes)
        second = run_layer(
            first.spikes,
            above.feed,
            above.neuron,
            above.state,
            steps=40,
            rule=rule,
            cuts=above.cuts,
            want_spikes=True,
        )
        loss = (second.dense_spikes * above.g_spikes).sum() + (second.state[0] * above.g_state[0]).sum()  # type: ignore[operator]
        leaves = {f"below.{k}": v for k, v in below.leaves().items()} | {
            f"above.{k}": v for k, v in above.leaves().items()
        }
        leaves.pop("above.source")
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return {
            k: torch.zeros_like(v) if g is None else g
            for (k, v), g in zip(leaves.items(), found, strict=True)
        }

    got = run()
    with plain_torch(monkeypatch):
        want = run()
    assert_close(got, want, 1e-10)


def test_more_active_entries_than_room(on_host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region for staged entries has a quarter of what there could be; here nearly half are active."""
    case = Case.random(SPECS[3], S.triangle(0.5), steps=40, width=33, membrane_gradient=False)
    out = case.run(GradientRule("window", 50.0))
    assert out.active_fraction > 0.4
    got = case.gradients(out.dense_spikes, None, out.state)
    with plain_torch(monkeypatch):
        want_out = case.run(GradientRule("window", 50.0))
        want = case.gradients(want_out.dense_spikes, None, want_out.state)
    assert_close(got, want, 1e-10)


@pytest.mark.parametrize("values", ["ones", "any"])
@pytest.mark.parametrize("shape", [(3, 4, 1), (5, 2, 31), (2, 3, 200), (1, 1, 1025)], ids=str)
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.bool],
    ids=lambda d: str(d).removeprefix("torch."),
)
def test_compress(on_host: ModuleType, dtype: torch.dtype, shape: tuple[int, int, int], values: str) -> None:
    limit = 1 / cuda_cost.ratio(torch.device("cpu"), torch.float64)
    x = (torch.rand(shape) < 0.8 * limit).double()
    x[0, 0, 0] = 1
    if values == "any" and dtype != torch.bool:
        x = x * torch.randint(1, 9, shape)
        if dtype.is_floating_point:
            x = x * torch.tensor([1.0, -0.5, 6e-8, 4e4])[torch.randint(0, 4, shape)]
    x = x.to(dtype)
    strided = torch.zeros(shape[1], shape[0] + 1, shape[2], dtype=dtype).transpose(0, 1)[1:]
    strided.copy_(x)
    for source in (x, strided, x.transpose(0, 2).contiguous().transpose(0, 2)):
        found = cuda_lists.compress(source)
        want = events.compress(x.to(torch.float64 if dtype == torch.float64 else torch.float32))
        if int((x != 0).sum()) * cuda_cost.ratio(x.device, want[2].dtype) > x.numel():
            assert found is None
            continue
        assert found is not None
        for got, expected in zip(found, want, strict=True):
            assert got.dtype == expected.dtype and torch.equal(got, expected)


def test_every_half_precision_number(on_host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_cost, "dense_wins", lambda *_: False)
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype)[None, None]
        found = cuda_lists.compress(x)
        assert found is not None
        want = x[x != 0].float()
        assert torch.equal(found[2].view(torch.int32)[want == want], want.view(torch.int32)[want == want])
        assert bool((found[2] != found[2]).eq(want != want).all())


def test_other_inputs_stay_dense(on_host: ModuleType) -> None:
    assert cuda_lists.compress(torch.zeros(2, 2, 2, dtype=torch.int64)) is None
    assert cuda_lists.compress(torch.ones(20, 2, 2)) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("density", [0.01, 1.0], ids=["events", "dense"])
def test_half_precision_inputs_under_autocast(
    on_host: ModuleType, dtype: torch.dtype, density: float
) -> None:
    """The state's dtype is that of the computation: what autocast would do to the products is left out."""
    case = Case.random(
        SPECS[3], S.atan(2.0), steps=20, inputs=40, density=density, binary=True, dtype=torch.float32,
        input_gradient=False, membrane_gradient=False,
    )  # fmt: skip
    rule = GradientRule("exact") if density < 1 else GradientRule("window", 0.3)
    out = case.run(rule)
    want = case.gradients(out.dense_spikes, None, out.state)
    case.source = case.source.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = case.run(rule)
    assert out.state[0].dtype == torch.float32
    got = case.gradients(out.dense_spikes, None, out.state)
    for name, value in want.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize(
    "rule", [GradientRule("exact"), GradientRule("window", 0.3), SAMPLED], ids=lambda r: r.mode
)
@pytest.mark.parametrize("spec", [SPECS[3], SPECS[4], SPECS[13], SPECS[16]], ids=spec_name)
def test_capture_has_fixed_shapes_and_reads_nothing(
    on_host: ModuleType,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    spec: NeuronSpec,
    rule: GradientRule,
) -> None:
    below = Case.random(spec, S.atan(2.0), steps=20, inputs=9, width=40, membrane_gradient=False)
    above = Case.random(spec, S.atan(2.0), steps=20, inputs=40, width=7, membrane_gradient=False)

    def run() -> dict[str, Tensor]:
        first = below.run(rule)
        second = run_layer(
            first.spikes, above.feed, above.neuron, above.state, steps=20, rule=rule, cuts=above.cuts,
            want_spikes=True  # type: ignore[arg-type]
        )  # fmt: skip
        assert second.spikes is not None
        shapes.append((second.counted, second.spikes.idx.numel()))
        return above.gradients(second.dense_spikes, None, second.state) | {
            f"below.{name}": value
            for name, value in below.gradients(first.dense_spikes, None, first.state).items()
        }

    shapes: list[tuple[bool, int]] = []
    want = run()
    monkeypatch.setattr(cuda_place, "capturing", lambda device: True)
    for method in ("tolist", "item", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, method, _forbidden(method))
    got = run()
    monkeypatch.undo()
    assert shapes[0][0] and shapes[1] == (False, 20 * 3 * 7)
    assert_close(got, want, 1e-10)


def _forbidden(method: str) -> object:
    def called(*_: object, **__: object) -> None:
        raise AssertionError(f"Tensor.{method} would wait for the device")

    return called


def test_the_host_waits_once_per_layer(on_host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.random(
        SPECS[5], S.atan(2.0), steps=20, width=40, membrane_gradient=False, input_gradient=False
    )
    rule = GradientRule("window", 0.1)
    waits = []
    for method in ("tolist", "item", "__bool__", "__int__", "__float__", "nonzero"):
        original = getattr(torch.Tensor, method)

        def counted(self: Tensor, *args: object, _original: object = original, _name: str = method) -> object:
            waits.append(_name)
            return _original(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(torch.Tensor, method, counted)
    out = case.run(rule)
    torch.autograd.backward([out.dense_spikes, *out.state], [case.g_spikes, *case.g_state])  # type: ignore[list-item]
    assert waits == ["tolist", "tolist"]  # the input's events, the layer's lists


def test_results_repeat_bit_by_bit(on_host: ModuleType, small_chunks: None) -> None:
    """Launches of the shim alternate between two orders of blocks and threads."""
    torch.manual_seed(3)
    case = Case.random(
        SPECS[9], S.atan(2.0), steps=40, batch=7, inputs=50, width=70, density=0.05, dtype=torch.float32,
        input_gradient=False, membrane_gradient=False, per_neuron=True,
    )  # fmt: skip
    found = []
    for _ in range(2):
        out = case.run(SAMPLED)
        found.append(case.gradients(out.dense_spikes, None, out.state))
        cuda_lists.compress(torch.zeros(1, 1, 1))  # an odd number of launches in between
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_draws_are_those_of_every_other_implementation(
    on_host: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for spec in (SPECS[3], SPECS[13]):  # SPECS[13]: the reset keeps the exact derivative
        case = Case.random(spec, S.atan(2.0), steps=40, learn=False, membrane_gradient=False)
        out = case.run(SAMPLED)
        got = case.gradients(out.dense_spikes, None, out.state)
        with plain_torch(monkeypatch):
            out = case.run(SAMPLED)
            want = case.gradients(out.dense_spikes, None, out.state)
        assert_close(got, want, 1e-12)


def test_gather_and_scatter_are_inverse(on_host: ModuleType) -> None:
    dense = torch.randn(7, 3, 45) * (torch.rand(7, 3, 45) < 0.2)
    ptr, idx, val = events.compress(dense)
    assert torch.equal(cuda.gather(dense, ptr, idx), val)
    assert torch.equal(cuda.gather(dense.transpose(0, 2).contiguous().transpose(0, 2), ptr, idx), val)
    assert torch.equal(cuda.to_dense(ptr, idx, val, (7, 3, 45), torch.float32), dense)
    part = cuda_lists.scatter(ptr, idx, val, (7, 3, 45), 2, torch.full((4, 3, 45), torch.nan))
    assert torch.equal(part, dense[2:6])


def test_forms_follow_the_densities(on_host: ModuleType) -> None:
    sparse = Case.random(SPECS[3], S.atan(2.0), steps=50, inputs=60, density=0.01, input_gradient=False)
    assert sparse.run(SAMPLED).algorithm == {
        "backend": "cuda", "scan": "events", "feed": "events", "weight_gradient": "spike",
    }  # fmt: skip
    dense = Case.random(SPECS[3], S.atan(2.0), density=0.9, input_gradient=False)
    assert dense.run(SAMPLED).algorithm["feed"] == "gemm"


def test_chunks_fit_the_cache() -> None:
    device = torch.device("cpu")
    assert cuda_cost.chunk_steps(500, 256 * 200 * 4, 16, device) == 80
    assert cuda_cost.chunk_steps(10, 4, 16, device) == 16
    assert cuda_cost.chunk_steps(1000, 1 << 30, 16, device) == 16


def test_the_ratio_is_timed_once_and_kept(
    on_host: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timed = cuda_cost.measure(torch.device("cpu"), torch.float32, inputs=3, width=40, rows=64)
    assert 0 < timed < float("inf")
    calls: list[float] = []

    def measure(device: torch.device, dtype: torch.dtype) -> float:
        calls.append(21.0 + len(calls))
        return calls[-1]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_cost, "measure", measure)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU/80")
    device = torch.device("cuda", 0)
    for _ in range(2):
        cuda_cost._timed.cache_clear()
        assert cuda_cost.ratio(device, torch.float32) == 21.0
    (tmp_path / "sparse_backend/cuda-A-GPU-80.json").write_text("not json")
    cuda_cost._timed.cache_clear()
    assert cuda_cost.ratio(device, torch.float32) == 22.0
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert cuda_cost.ratio(device, torch.float32) == 18.0
    cuda_cost._timed.cache_clear()


def fields(**changes: int) -> dict[str, int]:
    value = torch.ones(1)
    _alive.append(value)
    address = value.data_ptr()
    return {
        "steps": 1,
        "batch": 1,
        "width": 1,
        "membrane": address,
        "threshold": address,
        "current": address,
    } | changes


_alive: list[Tensor] = []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current": 0}, "current=0"),
        ({"pre": 1, "post": 3}, "no kernel has this structure"),
        ({"width": 0}, "must be positive"),
        ({"surrogate": 99}, "surrogate"),
        ({"active_bits": 8}, "active_before"),
        ({"steps": 1 << 30}, "steps"),
    ],
)
def test_bad_arguments_are_named(host_module: ModuleType, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        host_module.forward_scan(host_module.layer(**fields(**changes)))


@pytest.mark.host
def test_failed_launches_name_operator_and_kernel(host_module: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="cudaSetDevice: invalid device ordinal"):
        host_module.forward_scan(host_module.layer(**fields(device=7)))
    host_module.forward_scan(host_module.layer(**fields(device=1)))
    with pytest.raises(RuntimeError, match="to_dense, kernel scatter: invalid configuration"):
        host_module.scatter(host_module.expansion(steps=0, batch=0, width=0))
    with pytest.raises(AttributeError, match="treshold"):
        host_module.layer(treshold=0)


def test_installed_module_imports_without_a_device() -> None:
    module = pytest.importorskip("sparse_backend._cuda", reason="built without nvcc")
    assert "80" in module.ARCHITECTURES and "90" in module.ARCHITECTURES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "rule", [GradientRule("exact"), GradientRule("window", 0.3), SAMPLED], ids=lambda r: r.mode
)
@pytest.mark.parametrize("spec", SPECS, ids=spec_name)
def test_device_equals_the_host(spec: NeuronSpec, rule: GradientRule) -> None:
    case = Case.random(
        spec, S.atan(2.0), steps=50, batch=5, inputs=64, width=70, density=0.03, input_gradient=False
    )
    here, there = case.to("cpu"), case.to("cuda")
    out = here.run(rule)
    want = here.gradients(out.dense_spikes, out.membrane, out.state)
    out = there.run(rule)
    got = {
        name: value.cpu()
        for name, value in there.gradients(out.dense_spikes, out.membrane, out.state).items()
    }
    assert {name for name, value in want.items() if relative_error(got[name], value) > 1e-10} == set()
