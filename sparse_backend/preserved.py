"""Running a model without a trace: classes, attributes, tensors, `.grad` and random numbers are put back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .recording import flush
from .runtime import RUNTIME

__all__ = ["preserved"]


@contextmanager
def preserved(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Yields a function that puts the model and the random number generators back; also run at the end."""
    flush()
    modules = list(model.modules())
    classes = [type(module) for module in modules]
    held = [dict(module.__dict__) for module in modules]
    contents = [(dict(module._parameters), dict(module._buffers)) for module in modules]
    runtimes = [(r, r.snapshot()) for h in held if (r := h.get(RUNTIME)) is not None]
    values = {
        id(value): (value, value.detach().clone())
        for pair in contents
        for part in pair
        for value in part.values()
        if isinstance(value, Tensor) and not value.is_inference()
    }
    grads = [(p, p.grad) for p in model.parameters()]
    cpu, python = torch.get_rng_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []

    def rewind() -> None:
        flush()
        for module, cls, attributes, (parameters, buffers) in zip(
            modules, classes, held, contents, strict=True
        ):
            module.__class__ = cls
            module.__dict__.clear()
            module.__dict__.update(attributes)
            pairs: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
                (module._parameters, parameters),
                (module._buffers, buffers),
            )
            for table, saved in pairs:
                table.clear()
                table.update(saved)
        for runtime, state in runtimes:
            runtime.rewind(state)
        with torch.no_grad():
            for value, copy in values.values():
                if not torch.equal(value, copy):
                    value.copy_(copy)
        for parameter, grad in grads:
            parameter.grad = grad
        torch.set_rng_state(cpu)
        random.setstate(python)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    try:
        yield rewind
    finally:
        rewind()
