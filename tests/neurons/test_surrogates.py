"""Surrogates as data, against the functions of snnTorch and Norse that they describe."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from sparse_backend.errors import ArgumentError
from sparse_backend.neurons import NeuronSpec, Surrogate, decode
from sparse_backend.neurons import surrogates as S

snntorch = pytest.importorskip("snntorch.surrogate")
threshold = pytest.importorskip("norse.torch.functional.threshold")

SNNTORCH: list[tuple[Surrogate, Callable[[torch.Tensor], torch.Tensor]]] = [
    (S.atan(2.0), snntorch.atan(2.0)),
    (S.atan(0.7), snntorch.atan(0.7)),
    (S.fast_sigmoid(25.0), snntorch.fast_sigmoid(25)),
    (S.sigmoid(4.0), snntorch.sigmoid(4)),
    (S.triangular(0.8), snntorch.triangular(0.8)),
    (S.straight_through(), snntorch.straight_through_estimator()),
    (S.sfs(25.0, 0.3), snntorch.SFS(25, 0.3)),
]
NORSE = [
    (S.triangle(0.25), "triangle", 0.25),
    (S.tanh(2.0), "tanh", 2.0),
    (S.circ(0.5), "circ", 0.5),
    (S.heavi_erfc(1.5), "heavi_erfc", 1.5),
]


def slope(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


@pytest.mark.parametrize(
    ("surrogate", "upstream"), SNNTORCH, ids=lambda v: str(v) if isinstance(v, Surrogate) else ""
)
def test_snntorch_formula(surrogate: Surrogate, upstream: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.cat([torch.linspace(-3, 3, 1201, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(slope(surrogate, x), slope(upstream, x), rtol=1e-12, atol=1e-14)
    assert torch.equal(surrogate(x), upstream(x).to(x.dtype))


@pytest.mark.parametrize(("surrogate", "method", "alpha"), NORSE, ids=lambda v: str(v))
def test_norse_formula(surrogate: Surrogate, method: str, alpha: float) -> None:
    x = torch.linspace(-3, 3, 1201, dtype=torch.float64)
    want = slope(lambda v: threshold.threshold(v, method, torch.as_tensor(alpha)), x)
    # Upstream's sqrt(pi) is a float32 constant, and circ is a difference of nearly equal terms far from the
    # threshold.
    torch.testing.assert_close(
        slope(surrogate, x), want, rtol=1e-6 if method == "heavi_erfc" else 1e-9, atol=1e-12
    )


def test_sigmoid_stays_finite_where_upstream_overflows() -> None:
    x = torch.tensor([-5.0, 5.0])
    assert slope(snntorch.sigmoid(25), x).isnan().any()
    assert torch.isfinite(slope(S.sigmoid(25.0), x)).all()


def test_window_cuts_and_reports_its_support() -> None:
    windowed = S.atan(2.0).windowed(0.25)
    x = torch.tensor([-0.3, -0.25, -0.2, 0.0, 0.2, 0.25])
    assert (slope(windowed, x) != 0).tolist() == [False, False, True, True, True, False]
    assert windowed.support == 0.25 and not windowed.everywhere_active
    assert math.isinf(S.atan(2.0).support) and S.atan(2.0).everywhere_active
    assert S.triangle(0.3).support == 1.0
    assert not S.sfs(25.0, 1.0).everywhere_active


@pytest.mark.parametrize("surrogate", [surrogate for surrogate, *_ in (*SNNTORCH, *NORSE)], ids=str)
@pytest.mark.parametrize("window", [math.inf, 2.0, 0.25])
def test_jumps_are_where_the_derivative_is_not_continuous(surrogate: Surrogate, window: float) -> None:
    surrogate = surrogate.windowed(window)
    step = 1e-9
    x = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    change = (surrogate.derivative(x + step) - surrogate.derivative(x - step)).abs()
    found = x[change > 1e-6 * surrogate.derivative(x).abs().max()]
    torch.testing.assert_close(found, torch.tensor(sorted(surrogate.jumps), dtype=torch.float64))


def test_dtype_is_kept() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert S.atan(2.0)(torch.zeros(3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("nope", (), "kind='nope'"),
        ("atan", (), "params"),
        ("atan", (math.nan,), "alpha=nan"),
        ("sfs", (1.0,), "params"),
    ],
)
def test_bad_surrogates_are_refused(kind: str, params: tuple[float, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Surrogate(kind, params)


def test_window_must_be_positive() -> None:
    with pytest.raises(ArgumentError, match=r"window=-0\.1"):
        S.atan(2.0).windowed(-0.1)


@pytest.mark.parametrize(
    "spec",
    [
        NeuronSpec(),
        NeuronSpec("euler", 2, "none", "value", True, S.circ(0.1)),
        NeuronSpec("euler", 2, "none", "none", False, S.zero()),
        NeuronSpec("decay", 1, "cut_leak", "zero", True, S.sfs(25.0, 1 / 3).windowed(0.1)),
    ],
)
def test_spec_survives_encoding(spec: NeuronSpec) -> None:
    assert decode(spec.encode()) == spec


@pytest.mark.parametrize(
    ("field", "value"), [("integrator", "leapfrog"), ("poles", 3), ("pre", "value"), ("post", "wipe")]
)
def test_unknown_structure_is_refused(field: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=field):
        NeuronSpec(**{field: value})  # type: ignore[arg-type]


def test_silent_neuron_cannot_reset() -> None:
    with pytest.raises(ArgumentError, match="does not fire"):
        NeuronSpec(fires=False, pre="subtract")
