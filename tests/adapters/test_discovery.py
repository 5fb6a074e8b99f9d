"""Which adapters are found: built in where the library is there, third parties by entry point."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import sparse_backend
from sparse_backend import adapters
from sparse_backend.adapters import Claim, NeuronLayer, Stock
from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec, surrogates
from sparse_backend.recording import record_step, resolve


class Integrator(nn.Module):
    """A third party's neuron: z, m = H(m + I - 1), m + I - z."""

    def forward(self, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        m = m + x
        z = surrogates.atan()(m - 1)
        return z, m - z


class IntegratorLayer(NeuronLayer):
    def neuron(self, module: nn.Module, like: Tensor, shape: torch.Size) -> Neuron:
        return Neuron(NeuronSpec(post="subtract_all"), Coefficients.of(like, membrane=1.0, threshold=1.0))

    def parameters(self, module: nn.Module) -> tuple[Tensor, ...]:
        return ()


class AcceleratedIntegrator(Integrator):
    upstream: ClassVar[type[nn.Module]] = Integrator
    layer = IntegratorLayer()

    def forward(self, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        out = record_step(self, self.layer, x, (m,))
        if out is NotImplemented:
            return Integrator.forward(self, resolve(x), resolve(m))
        spikes, (m,) = out
        return spikes, m


class IntegratorAdapter:
    name = "integrators"

    def examine(self, module: nn.Module) -> Claim | Stock | None:
        if type(module) in (Integrator, AcceleratedIntegrator):
            return Claim(AcceleratedIntegrator, "integrator", surrogates.atan())
        return Stock("no") if isinstance(module, Integrator) else None


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    found: list[EntryPoint] = []
    monkeypatch.setattr(adapters, "entry_points", lambda group: [p for p in found if p.group == group])
    adapters._from_entry_points.cache_clear()
    yield found
    monkeypatch.undo()
    adapters._from_entry_points.cache_clear()


def point(name: str, target: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{target}", adapters.GROUP)


@pytest.mark.parametrize("target", ["IntegratorAdapter", "THE_ADAPTER"])
def test_a_third_partys_neuron_is_accelerated(points: list[EntryPoint], target: str) -> None:
    points.append(point("integrators", target))
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(4, 5), Integrator()])

    def loop(x: Tensor) -> tuple[Tensor, Tensor]:
        m, spikes = torch.zeros(3, 5), []
        for step in x:
            z, m = net[1](net[0](step), m)
            spikes.append(z)
        out = torch.stack(spikes)
        return out.detach(), torch.autograd.grad(out.sum() + m.sum(), net[0].weight)[0]

    x = torch.rand(8, 3, 4) * 3
    expected = loop(x)
    report = sparse_backend.accelerate(net, gradient="exact")
    assert [row.path for row in report] == ["accelerated", "accelerated"]
    spikes, gradient = loop(x)
    assert torch.equal(spikes, expected[0]) and expected[0].any()
    torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)
    assert sparse_backend.stats(net)["1"].steps == 8
    sparse_backend.restore(net)
    assert type(net[1]) is Integrator


THE_ADAPTER = IntegratorAdapter()
NOT_AN_ADAPTER = 5


@pytest.mark.parametrize("target", ["NOT_AN_ADAPTER", "missing"])
def test_a_broken_adapter_is_ignored_and_said_so(points: list[EntryPoint], target: str) -> None:
    points.append(point("broken", target))
    points.append(point("integrators", "THE_ADAPTER"))
    with pytest.warns(UserWarning, match="'broken'"):
        names = [adapter.name for adapter in adapters.adapters()]
    assert "integrators" in names and "broken" in adapters.unavailable()


def run_without(*libraries: str, code: str) -> str:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({libraries!r}))\n"  # None: cannot be imported
    done = subprocess.run(
        [sys.executable, "-c", blocked + textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_needs_neither_library() -> None:
    out = run_without(
        *("snntorch", "norse"),
        code="""
        import sparse_backend, torch
        net = torch.nn.Sequential(torch.nn.Linear(2, 2))
        print(sparse_backend.accelerate(net))
        spikes, mem = sparse_backend.functional.leaky(torch.rand(3, 2, 4), beta=0.9)
        print(tuple(mem.shape))
        """,
    )
    assert "no neuron" in out and "snntorch is not installed" in out and "norse is not installed" in out
    assert "(3, 2, 4)" in out


def test_importing_the_package_imports_neither_library() -> None:
    out = run_without(code="import sparse_backend; print({'snntorch', 'norse'} & set(sys.modules))")
    assert out.strip() == "set()"


@pytest.mark.parametrize("missing, there", [("snntorch", "norse"), ("norse", "snntorch")])
def test_each_library_works_without_the_other(missing: str, there: str) -> None:
    pytest.importorskip(there)
    make = {"norse": "norse.torch.LIF()", "snntorch": "snntorch.Leaky(0.9)"}[there]
    out = run_without(
        missing,
        code=f"""
        import sparse_backend, {"norse.torch" if there == "norse" else there}
        print(sparse_backend.accelerate({make}).as_dict()["layers"][0]["path"])
        """,
    )
    assert out.strip() == "accelerated"


def test_a_library_that_the_script_does_not_use_is_not_imported() -> None:
    """Importing Norse with its dependencies takes half a second; an snnTorch script should not pay for it."""
    script = (
        "import sys, torch, snntorch, sparse_backend\n"
        "net = torch.nn.Sequential(torch.nn.Linear(3, 4), snntorch.Leaky(0.9, init_hidden=True))\n"
        "assert sparse_backend.accelerate(net).accelerated\n"
        "assert 'norse' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
