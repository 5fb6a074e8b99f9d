"""`verify`: run a model stock and accelerated from the same state and report the largest differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .accelerate import accelerate, examine, restore
from .errors import ArgumentError, ArgumentTypeError
from .preserved import preserved
from .recording import flush, resolve_all
from .report import Report

__all__ = ["Difference", "Verification", "verify"]

_SEED = 20211129


@dataclass(frozen=True)
class Difference:
    """max |a - b|, and the same over max |a|, where a is stock's tensor."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class Verification:
    """How far an accelerated run is from the stock one.

    outputs: one Difference per tensor that the model returned.  gradients: by parameter name, and "input[k]".
    diverged: batch elements whose spikes differ somewhere, out of `batch`: rounding decided on which side of
        the threshold a membrane potential lay. They are left out of `outputs`, and of `gradients` too if
        `masked`.
    report: what was accelerated.
    """

    outputs: list[Difference]
    gradients: dict[str, Difference]
    diverged: int
    batch: int
    masked: bool
    report: Report

    @property
    def worst(self) -> float:
        """The largest relative difference of all outputs and gradients."""
        return max((d.relative for d in (*self.outputs, *self.gradients.values())), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "outputs": [dict(vars(value)) for value in self.outputs],
            "gradients": {name: dict(vars(value)) for name, value in self.gradients.items()},
            "diverged": self.diverged,
            "batch": self.batch,
            "masked": self.masked,
            "worst": self.worst,
            "report": self.report.as_dict(),
        }

    def __str__(self) -> str:
        neurons = [layer for layer in self.report if not layer.feed]
        done = sum(layer.path == "accelerated" for layer in neurons)
        lines = [
            f"stock against accelerated ({done} of {len(neurons)} neuron layers, "
            f"{self.report.options.gradient}): "
            f"largest relative difference {self.worst:.2e}"
        ]
        if self.diverged:
            left_out = (
                "left out below"
                if self.masked
                else "left out of the outputs, but not of the gradients, below"
            )
            lines.append(
                f"borderline spikes flipped in {self.diverged} of {self.batch} batch elements ({left_out})"
            )
        named = [(f"output[{k}]", value) for k, value in enumerate(self.outputs)]
        named += [(f"d {name}", value) for name, value in self.gradients.items()]
        width = max((len(name) for name, _ in named), default=0)
        lines += [
            f"  {name.ljust(width)}  {v.relative:.2e} relative, {v.absolute:.2e} absolute"
            for name, v in named
        ]
        return "\n".join([*lines, *self.report.notes])


def verify(
    model: nn.Module,
    inputs: Any,
    loss_fn: Callable[[Any], Tensor] | None = None,
    *,
    forward: Callable[..., Any] | None = None,
    gradient: str = "exact",
    **options: Any,
) -> Verification:
    """Run a model stock and accelerated, from the same state and random numbers, and compare outputs and
    gradients.

    Args:
        model: stock or accelerated; it is left as it is, with its parameters, `.grad`, states and classes.
        inputs: a tensor, or a tuple or dict of arguments. Inputs that require a gradient are compared too.
        loss_fn: from the model's outputs to a scalar; by default a fixed random projection of all outputs.
        forward: `forward(model, *inputs)` runs the model where it is more than `model(*inputs)`, such as a
        time loop. gradient, **options: as for `accelerate`.

    Returns: a Verification.
    Raises: ArgumentError, ArgumentTypeError for bad arguments; whatever the model raises.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model={model!r} must be a torch.nn.Module, not {type(model).__name__}")
    positional, named = _arguments(inputs)
    run = _Runner(
        model, forward or (lambda net, *args, **kwargs: net(*args, **kwargs)), positional, named, loss_fn
    )
    with preserved(model) as rewind, torch.enable_grad():
        restore(model)
        stock = run(None)
        rewind()
        restore(model)
        report = accelerate(model, gradient=gradient, **options)
        ours = run(None)
        diverged, batch = _diverged(stock, ours)
        masked = bool(diverged is not None and diverged.any() and loss_fn is None)
        if masked:
            # Flipped elements send another gradient into every shared parameter: compare those of the others.
            rewind()
            restore(model)
            stock = run(diverged)
            rewind()
            restore(model)
            accelerate(model, gradient=gradient, **options)
            ours = run(diverged)
        flush()
    return Verification(
        outputs=[_difference(a, b, diverged) for a, b in zip(stock.outputs, ours.outputs, strict=True)],
        gradients={
            name: _difference(stock.gradients[name], ours.gradients[name], None) for name in stock.gradients
        },
        diverged=0 if diverged is None else int(diverged.sum()),
        batch=batch,
        masked=masked,
        report=report,
    )


@dataclass
class _Run:
    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    spikes: dict[str, list[Tensor]]


@dataclass
class _Runner:
    model: nn.Module
    forward: Callable[..., Any]
    positional: tuple[Any, ...]
    named: dict[str, Any]
    loss_fn: Callable[[Any], Tensor] | None

    def __call__(self, left_out: Tensor | None) -> _Run:
        positional = tuple(_fresh(value) for value in self.positional)
        named = {name: _fresh(value) for name, value in self.named.items()}
        leaves: dict[str, Tensor] = {
            name: value for name, value in self.model.named_parameters() if value.requires_grad
        }
        given = [*enumerate(positional), *named.items()]
        leaves.update({f"input[{key}]": v for key, v in given if isinstance(v, Tensor) and v.requires_grad})
        kept: dict[str, list[Any]] = {}
        with _spikes_kept(self.model, kept):
            outputs = self.forward(self.model, *positional, **named)
        tensors = [resolve_all(value) for value in _tensors(outputs)]
        loss = _projection(tensors, left_out) if self.loss_fn is None else self.loss_fn(outputs)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shown = tuple(loss.shape) if isinstance(loss, Tensor) else repr(loss)
            raise ArgumentError(f"loss_fn returned {shown}; it must return a tensor with one element")
        found: Sequence[Tensor | None] = (None,) * len(leaves)
        if loss.requires_grad and leaves:
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(leaf) if value is None else value.detach()
            for (name, leaf), value in zip(leaves.items(), found, strict=True)
        }
        spikes = {name: [resolve_all(value).detach() for value in values] for name, values in kept.items()}
        return _Run([value.detach() for value in tensors], gradients, spikes)


@contextmanager
def _spikes_kept(model: nn.Module, kept: dict[str, list[Any]]) -> Iterator[None]:

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            kept.setdefault(name, []).append(output[0] if isinstance(output, tuple) else output)

        return hook

    handles = [
        m.register_forward_hook(keep(name)) for name, m in model.named_modules() if examine(m) is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _diverged(stock: _Run, ours: _Run) -> tuple[Tensor | None, int]:
    """Which batch elements spiked differently, `[B]`, and B."""
    flags: Tensor | None = None
    for name, steps in stock.spikes.items():
        for a, b in zip(steps, ours.spikes.get(name, []), strict=True):
            if a.dim() < 2 or a.shape != b.shape or not bool(((a == 0) | (a == a.max())).all()):
                continue  # a membrane potential (LI), or nothing that has a batch
            axis = 1 if a.dim() > 2 and len(steps) == 1 else 0
            differs = (a != b).transpose(0, axis).flatten(1).any(1)
            if flags is None:
                flags = differs
            elif flags.shape == differs.shape:
                flags = flags | differs
    return flags, 0 if flags is None else flags.numel()


def _batch_axis(value: Tensor, batch: int) -> int | None:
    for axis in (1, 0) if value.dim() > 2 else (0,):
        if value.dim() > axis and value.shape[axis] == batch:
            return axis
    return None


def _difference(a: Tensor, b: Tensor, left_out: Tensor | None) -> Difference:
    if left_out is not None and bool(left_out.any()):
        axis = _batch_axis(a, left_out.numel())
        if axis is not None:
            a, b = (value.index_select(axis, (~left_out).nonzero()[:, 0]) for value in (a, b))
    if not a.numel():
        return Difference(0.0, 0.0)
    a, b = a.double(), b.double()
    absolute = float((a - b).abs().max())
    scale = float(a.abs().max())
    return Difference(absolute, absolute / scale if scale else absolute)


def _projection(tensors: list[Tensor], left_out: Tensor | None) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    loss = torch.zeros(())
    for value in tensors:
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        axis = None if left_out is None else _batch_axis(value, left_out.numel())
        if axis is not None and left_out is not None:
            keep = (~left_out).to(value).reshape([-1 if k == axis else 1 for k in range(value.dim())])
            weights = weights * keep
        if value.requires_grad:
            loss = loss.to(value.device) + (weights * value).sum() / max(1, value.numel()) ** 0.5
    return loss


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def _fresh(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return resolve_all(value).detach().clone().requires_grad_(value.requires_grad)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        if tree.is_floating_point():
            yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from _tensors(value)
