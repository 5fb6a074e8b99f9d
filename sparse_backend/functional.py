"""Spiking layers on whole sequences, without patching any model: linear feed and neuron in one call.

    spk, mem = functional.leaky(x, weight, bias, beta=0.9)            # x [T, B, N_in] -> [T, B, N]

Each function computes what the named upstream neuron computes in a loop over time. `weight` None feeds x to
the neurons as it is. `gradient` is "exact" (default), "window" or "sampled"; see `GradientOptions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import ArgumentError, ArgumentTypeError
from .neurons import Coefficients, Neuron, NeuronSpec, Surrogate, surrogates
from .ops.sequence import LayerOutput, LinearFeed, run_layer
from .options import Options
from .runtime import LayerRuntime
from .sampling import SamplingLevel

__all__ = ["GradientOptions", "lapicque", "leaky", "li", "lif", "lif_box"]

Coefficient = Tensor | float
_DTYPES = (torch.float32, torch.float64)
_SPIKE_DTYPES = (torch.bool, torch.uint8)


@dataclass(frozen=True)
class GradientOptions:
    """How the surrogate is used, for callers who want more than a mode's name.

    mode, budget, backward_threshold, seed: as for `sparse_backend.accelerate`. Draws are a function of `seed`
    alone: give another one to each call. level: s0 of the sampling; found by a few forward passes to fit the
    budget unless given.
    """

    mode: Literal["exact", "window", "sampled"] = "exact"
    budget: float = 0.05
    backward_threshold: float | None = None
    seed: int = 0
    level: float | None = None


def leaky(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    beta: Coefficient,
    threshold: Coefficient = 1.0,
    reset_mechanism: Literal["subtract", "zero", "none"] = "subtract",
    reset_delay: bool = True,
    graded_spikes_factor: Coefficient = 1.0,
    surrogate: Surrogate | None = None,
    mem0: Tensor | None = None,
    gradient: str | GradientOptions = "exact",
) -> tuple[Tensor, Tensor]:
    """`snntorch.Leaky` over a sequence.

    Args:
        x: `[T, B, N_in]`, float32 or float64, dense or sparse COO, with a weight also bool or uint8; without
            weight the current `[T, B, N]`.
        weight, bias: `[N, N_in]`, `[N]` or None.
        beta: decay per step, clamped to [0, 1]; beta, threshold and graded_spikes_factor are numbers, 0-dim
            tensors or `[N]`, and get a gradient if they ask for one.
        reset_mechanism, reset_delay: as in snnTorch.
        surrogate: `surrogates.atan(2.0)` unless given.
        mem0: membrane potential before the first step `[B, N]`; zeros unless given.
        gradient: "exact", "window", "sampled", or `GradientOptions`.

    Returns: spikes `[T, B, N]` and membrane potentials `[T, B, N]`, in x's dtype, or weight's where x is bool
        or uint8.
    Raises: ArgumentError, ArgumentTypeError.
    """
    pre = _choice(
        "reset_mechanism", reset_mechanism, {"subtract": "subtract", "zero": "cut_leak", "none": "none"}
    )
    spec = NeuronSpec(
        pre=pre,
        post="none" if reset_delay else reset_mechanism,
        surrogate=_surrogate(surrogate, surrogates.atan()),
    )
    call = _Call(x, weight, bias)
    coefficients = Coefficients.of(
        call.like,
        membrane=call.coefficient("beta", beta).clamp(0, 1),
        threshold=call.threshold(threshold),
        graded=call.coefficient("graded_spikes_factor", graded_spikes_factor),
    )
    out = call.run(Neuron(spec, coefficients), {"mem0": mem0}, gradient, membrane=True)
    return _pair(out)


def lapicque(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    R: Coefficient,
    C: Coefficient,
    time_step: float = 1.0,
    threshold: Coefficient = 1.0,
    reset_mechanism: Literal["subtract", "zero", "none"] = "subtract",
    surrogate: Surrogate | None = None,
    mem0: Tensor | None = None,
    gradient: str | GradientOptions = "exact",
) -> tuple[Tensor, Tensor]:
    """`snntorch.Lapicque` over a sequence: m = (1 - dt/(R C)) m + (dt/C) I; zero reset wipes the new
    membrane.

    R, C: resistance and capacitance, numbers, 0-dim tensors or `[N]`; time_step: dt. The other arguments, the
    result and the exceptions are those of `leaky`.
    """
    pre = _choice(
        "reset_mechanism", reset_mechanism, {"subtract": "subtract", "zero": "wipe", "none": "none"}
    )
    spec = NeuronSpec(pre=pre, surrogate=_surrogate(surrogate, surrogates.atan()))
    call = _Call(x, weight, bias)
    resistance, capacitance, step = (
        call.coefficient(name, value) for name, value in (("R", R), ("C", C), ("time_step", time_step))
    )
    coefficients = Coefficients.of(
        call.like,
        membrane=1 - step / (resistance * capacitance),
        gain=resistance * (1 / (resistance * capacitance)) * step,
        threshold=call.threshold(threshold),
    )
    out = call.run(Neuron(spec, coefficients), {"mem0": mem0}, gradient, membrane=True)
    return _pair(out)


def lif(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    tau_syn_inv: Coefficient = 200.0,
    tau_mem_inv: Coefficient = 100.0,
    v_leak: Coefficient = 0.0,
    v_th: Coefficient = 1.0,
    v_reset: Coefficient = 0.0,
    dt: float = 0.001,
    surrogate: Surrogate | None = None,
    v0: Tensor | None = None,
    i0: Tensor | None = None,
    gradient: str | GradientOptions = "exact",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`norse.torch.LIF` over a sequence (Euler steps of membrane and synaptic current, reset to `v_reset`).

    Rates are per second, potentials in membrane units, dt in seconds; each is a number, a 0-dim tensor or
    `[N]`.
    surrogate: `surrogates.fast_sigmoid(1.0)` unless given, which is what `super` computes in Norse 1.1.
    v0, i0: states before the first step `[B, N]`; v_leak and zero unless given.

    Returns: spikes `[T, B, N]` and the final (v, i), each `[B, N]`.
    Raises: ArgumentError, ArgumentTypeError.
    """
    call = _Call(x, weight, bias)
    spec = NeuronSpec(
        "euler", poles=2, post="value", surrogate=_surrogate(surrogate, surrogates.fast_sigmoid(1.0))
    )
    coefficients = Coefficients.of(
        call.like,
        membrane=call.rate("tau_mem_inv", tau_mem_inv, dt),
        synapse=call.rate("tau_syn_inv", tau_syn_inv, dt),
        leak=call.coefficient("v_leak", v_leak),
        threshold=call.coefficient("v_th", v_th),
        reset=call.coefficient("v_reset", v_reset),
    )
    out = call.run(Neuron(spec, coefficients), {"v0": v0, "i0": i0}, gradient, membrane=False)
    assert out.dense_spikes is not None
    v, i = out.state
    return out.dense_spikes, (v, i)


def lif_box(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    tau_mem_inv: Coefficient = 100.0,
    v_leak: Coefficient = 0.0,
    v_th: Coefficient = 1.0,
    v_reset: Coefficient = 0.0,
    reset_method: Literal["value", "subtract"] = "value",
    dt: float = 0.001,
    surrogate: Surrogate | None = None,
    v0: Tensor | None = None,
    gradient: str | GradientOptions = "exact",
) -> tuple[Tensor, Tensor]:
    """`norse.torch.LIFBoxCell` over a sequence: LIF without a synaptic current. Arguments as for `lif`.

    Returns: spikes `[T, B, N]` and the final v `[B, N]`.
    """
    call = _Call(x, weight, bias)
    post = _choice("reset_method", reset_method, {"value": "value", "subtract": "subtract_all"})
    spec = NeuronSpec("euler", post=post, surrogate=_surrogate(surrogate, surrogates.fast_sigmoid(1.0)))
    coefficients = Coefficients.of(
        call.like,
        membrane=call.rate("tau_mem_inv", tau_mem_inv, dt),
        leak=call.coefficient("v_leak", v_leak),
        threshold=call.coefficient("v_th", v_th),
        reset=call.coefficient("v_reset", v_reset),
    )
    out = call.run(Neuron(spec, coefficients), {"v0": v0}, gradient, membrane=False)
    assert out.dense_spikes is not None
    return out.dense_spikes, out.state[0]


def li(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    tau_syn_inv: Coefficient = 200.0,
    tau_mem_inv: Coefficient = 100.0,
    v_leak: Coefficient = 0.0,
    dt: float = 0.001,
    v0: Tensor | None = None,
    i0: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`norse.torch.LI` over a sequence: a leaky integrator, which never fires. Arguments as for `lif`.

    Returns: membrane potentials `[T, B, N]` and the final (v, i), each `[B, N]`.
    """
    call = _Call(x, weight, bias)
    spec = NeuronSpec("euler", poles=2, fires=False, surrogate=surrogates.zero())
    coefficients = Coefficients.of(
        call.like,
        membrane=call.rate("tau_mem_inv", tau_mem_inv, dt),
        synapse=call.rate("tau_syn_inv", tau_syn_inv, dt),
        leak=call.coefficient("v_leak", v_leak),
    )
    out = call.run(Neuron(spec, coefficients), {"v0": v0, "i0": i0}, "exact", membrane=True)
    assert out.membrane is not None
    v, i = out.state
    return out.membrane, (v, i)


class _Call:
    """The checked tensors of one call."""

    def __init__(self, x: Any, weight: Any, bias: Any) -> None:
        if not isinstance(x, Tensor) or x.dtype not in _SPIKE_DTYPES or weight is None:
            _require_tensor("x", x)
        if x.dim() != 3:
            raise ArgumentError(f"x has shape {tuple(x.shape)}; it must be [T, B, N_in]")
        if 0 in x.shape:
            raise ArgumentError(f"x has shape {tuple(x.shape)}; T, B and N_in must be at least 1")
        if x.is_sparse and x.dense_dim():
            raise ArgumentError(
                f"x is sparse with {x.dense_dim()} dense dimensions; all three must be sparse"
            )
        self.x, self.feed, self.width = x, None, x.shape[2]
        # In its dtype all is computed.
        self.like = x
        if x.dtype in _SPIKE_DTYPES:
            _require_tensor("weight", weight)
            self.like = weight
        if weight is None:
            if bias is not None:
                raise ArgumentError("bias is given without weight; a bias belongs to a linear feed")
            return
        self._check("weight", weight)
        if weight.dim() != 2 or weight.shape[1] != x.shape[2]:
            raise ArgumentError(f"weight has shape {tuple(weight.shape)}; it must be [N, N_in={x.shape[2]}]")
        self.width = weight.shape[0]
        if bias is not None:
            self._check("bias", bias)
            if tuple(bias.shape) != (self.width,):
                raise ArgumentError(f"bias has shape {tuple(bias.shape)}; it must be [N={self.width}]")
        self.feed = LinearFeed(weight, bias)

    def _check(self, name: str, value: Any) -> None:
        _require_tensor(name, value)
        if value.dtype != self.like.dtype:
            raise ArgumentTypeError(f"{name} has dtype {value.dtype}; it must be {self.like.dtype}")
        self._check_device(name, value)

    def _check_device(self, name: str, value: Tensor) -> None:
        if value.device != self.x.device:
            raise ArgumentError(f"{name} is on {value.device}; it must be where x is, on {self.x.device}")

    def coefficient(self, name: str, value: Any) -> Tensor:
        """A number or tensor as a 0-dim or `[N]` tensor of x's dtype."""
        if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
            raise ArgumentTypeError(
                f"{name}={value!r} must be a number or a tensor, not {type(value).__name__}"
            )
        if not isinstance(value, Tensor):
            value = torch.tensor(float(value), dtype=self.like.dtype, device=self.x.device)
        if value.dim():
            self._check_device(name, value)
        value = value.to(self.like)
        value = value.reshape(()) if value.numel() == 1 else value
        if value.dim() and tuple(value.shape) != (self.width,):
            raise ArgumentError(
                f"{name} has shape {tuple(value.shape)}; it must be a scalar or [N={self.width}]"
            )
        if value.device.type != "meta" and not bool(torch.isfinite(value.detach()).all()):
            raise ArgumentError(f"{name}={value.detach().tolist()!r} must be finite")
        return value

    def rate(self, name: str, value: Any, dt: float) -> Tensor:
        """dt times a rate, in upstream's order."""
        if isinstance(dt, bool) or not isinstance(dt, (int, float)):
            raise ArgumentTypeError(f"dt={dt!r} must be a number of seconds, not {type(dt).__name__}")
        if not (dt > 0 and math.isfinite(dt)):
            raise ArgumentError(f"dt={dt!r} must be a positive, finite number of seconds")
        return dt * self.coefficient(name, value)

    def threshold(self, value: Any) -> Tensor:
        """A threshold above a resting potential of zero."""
        checked = self.coefficient("threshold", value)
        if checked.device.type != "meta" and bool((checked.detach() < 0).any()):
            raise ArgumentError(f"threshold={checked.detach().tolist()!r} must not be negative")
        return checked

    def run(
        self,
        neuron: Neuron,
        states: dict[str, Tensor | None],
        gradient: str | GradientOptions,
        *,
        membrane: bool,
    ) -> LayerOutput:
        """The layer over the whole sequence."""
        steps, batch, _ = self.x.shape
        shape = (batch, self.width)
        resting = neuron.coefficients.leak.detach().expand(shape)
        state = []
        for name, value in states.items():
            if value is None:
                value = torch.zeros_like(resting) if name == "i0" else resting
            else:
                self._check(name, value)
                if tuple(value.shape) != shape:
                    raise ArgumentError(f"{name} has shape {tuple(value.shape)}; it must be [B, N] = {shape}")
            state.append(value)
        runtime = LayerRuntime("", 0, _options(gradient))
        if isinstance(gradient, GradientOptions) and gradient.level is not None:
            runtime.sampling = SamplingLevel.fixed(neuron.spec.surrogate, gradient.level)
        while True:
            out = run_layer(
                *(self.x, self.feed, neuron, tuple(state)),
                steps=steps,
                rule=runtime.rule(neuron),
                want_spikes=neuron.spec.fires,
                want_membrane=membrane,
            )
            if not runtime.observe(out, steps, steps * batch * self.width):
                return out


def _options(gradient: str | GradientOptions) -> Options:
    if isinstance(gradient, str):
        return Options(gradient=gradient)
    if not isinstance(gradient, GradientOptions):
        raise ArgumentTypeError(f"gradient={gradient!r} must be a mode's name or GradientOptions")
    if gradient.level is not None and not (gradient.level >= 0 and math.isfinite(gradient.level)):
        raise ArgumentError(f"level={gradient.level!r} must be finite and not negative")
    return Options(gradient.mode, gradient.budget, gradient.backward_threshold, gradient.seed)


def _surrogate(surrogate: Any, default: Surrogate) -> Surrogate:
    if surrogate is None:
        return default
    if not isinstance(surrogate, Surrogate):
        raise ArgumentTypeError(
            f"surrogate={surrogate!r} must be a sparse_backend.Surrogate (see sparse_backend.surrogates)"
        )
    return surrogate


def _choice(name: str, value: Any, choices: dict[str, Any]) -> Any:
    if value not in choices:
        raise ArgumentError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
    return choices[value]


def _require_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"{name}={value!r} must be a tensor, not {type(value).__name__}")
    if value.dtype not in _DTYPES:
        raise ArgumentTypeError(f"{name} has dtype {value.dtype}; it must be float32 or float64")


def _pair(out: LayerOutput) -> tuple[Tensor, Tensor]:
    assert out.dense_spikes is not None and out.membrane is not None
    return out.dense_spikes, out.membrane
