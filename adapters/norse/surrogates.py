"""Which surrogate derivative a Norse `method` string stands for in the installed version.

Norse has changed what a method computes between releases (`super` ignores alpha in 1.1 and uses it later), so
the formula is not taken from documentation: the method's own backward pass is run at a few points and
compared with ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from norse.torch.functional.threshold import threshold

from sparse_backend.neurons import Surrogate, surrogates

__all__ = ["recognise"]

# method -> formulas that some release of Norse has used for it
_CANDIDATES: dict[str, tuple[Callable[[float], Surrogate], ...]] = {
    "super": (surrogates.fast_sigmoid, lambda alpha: surrogates.fast_sigmoid(1.0)),
    "triangle": (surrogates.triangle,),
    "tanh": (surrogates.tanh,),
    "circ": (surrogates.circ,),
    "heavi_erfc": (surrogates.heavi_erfc,),
}
_POINTS = (-0.7, -0.25, -0.011, 0.003, 0.5, 1.3)


@functools.lru_cache(maxsize=256)
def recognise(method: str, alpha: float) -> Surrogate | str:
    """The surrogate derivative of `threshold(x, method, alpha)`, or the reason why it is not a known one."""
    if method == "heaviside":
        return "threshold method 'heaviside' passes no gradient: upstream's graph ends at the spikes"
    if method not in _CANDIDATES:
        return f"threshold method {method!r} has no sparse form yet"
    expected = _upstream_derivative(method, alpha)
    for candidate in _CANDIDATES[method]:
        surrogate = candidate(alpha)
        ours = surrogate.derivative(torch.tensor(_POINTS, dtype=torch.float64))
        if torch.allclose(ours, expected, rtol=1e-6, atol=1e-12):
            return surrogate
    return f"threshold method {method!r} computes another derivative in this version of Norse"


def _upstream_derivative(method: str, alpha: float) -> torch.Tensor:
    with torch.enable_grad():
        x = torch.tensor(_POINTS, dtype=torch.float64, requires_grad=True)
        spikes = threshold(x, method, torch.tensor(alpha, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(spikes.sum(), x)
    return gradient
