"""The CUDA path of the operator on host tensors: the same Python, the same kernel source, no device."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from layer_cases import RULES, SPECS, Case, assert_close, spec_name

from sparse_backend.neurons import NeuronSpec
from sparse_backend.neurons import surrogates as S
from sparse_backend.ops import backend, cuda
from sparse_backend.ops.sequence import GradientRule


@pytest.fixture
def on_host(host_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send every layer through ops/cuda.py, with the kernels as host loops."""
    monkeypatch.setattr(cuda, "native", lambda: host_module)
    monkeypatch.setattr(backend, "_module", lambda layer: cuda)
    monkeypatch.setattr(backend, "compress", lambda x: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    yield


@pytest.mark.parametrize("per_neuron", [False, True], ids=["scalar", "per-neuron"])
@pytest.mark.parametrize(("surrogate", "rule"), RULES, ids=lambda v: getattr(v, "mode", None) or str(v))
@pytest.mark.parametrize("spec", SPECS, ids=spec_name)
def test_every_spec(
    on_host: None, spec: NeuronSpec, surrogate: S.Surrogate, rule: GradientRule, per_neuron: bool
) -> None:
    case = Case.random(spec, surrogate, per_neuron=per_neuron)
    out = case.run(rule)
    spike = surrogate.windowed(rule.level) if rule.mode == "window" else surrogate
    path, want = case.dense(spike)
    if spec.fires:
        assert out.dense_spikes is not None
        assert torch.equal(out.dense_spikes, path.s * case.neuron.coefficients.graded)
    assert_close(case.gradients(out.dense_spikes, out.membrane, out.state), want, 1e-10)


@pytest.mark.parametrize("options", [{"constant": True}, {"identity": True}, {"bias": False}], ids=str)
def test_every_feed(on_host: None, options: dict[str, bool]) -> None:
    case = Case.random(SPECS[3], S.atan(2.0), **options)  # type: ignore[arg-type]
    out = case.run(GradientRule("exact"))
    _, want = case.dense(S.atan(2.0))
    assert_close(case.gradients(out.dense_spikes, out.membrane, out.state), want, 1e-10)


def test_draws_are_those_of_every_other_implementation(
    on_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case.random(SPECS[3], S.atan(2.0), steps=40, learn=False, membrane_gradient=False)
    rule = GradientRule("sampled", 0.4, 11)
    out = case.run(rule)
    got = case.gradients(out.dense_spikes, None, out.state)
    monkeypatch.undo()
    monkeypatch.setenv("SPARSE_BACKEND_NATIVE", "0")
    out = case.run(rule)
    assert_close(got, case.gradients(out.dense_spikes, None, out.state), 1e-12)
