"""Ways past `__torch_function__`: the gradient is kept, or an error says so."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint, dlpack

from sparse_backend import recording
from sparse_backend.errors import DeferredEscapeError

from .conftest import BATCH, OUTPUTS, STEPS, Net, Twins, record, start, step


class Scale(torch.autograd.Function):
    """A user's function, of the kind that user-written neurons contain."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class SetupScale(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3


class Straight(Scale):
    """Calls the C-level apply, which no Python patch can see."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        return super(torch.autograd.Function, cls).apply(*args)


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * 2 + x.sum()


traced = torch.jit.trace(lambda x: x * 2 + 1, torch.zeros(BATCH, OUTPUTS))

USES: dict[str, Callable[[Tensor], Any]] = {
    "Function.apply": lambda d: Scale.apply(d, 2.0),
    "Function.apply with setup_context": SetupScale.apply,
    "checkpoint": lambda d: checkpoint.checkpoint(lambda t: t.sin(), d, use_reentrant=False),
    "reentrant checkpoint": lambda d: checkpoint.checkpoint(lambda t: t.sin(), d, use_reentrant=True),
    "clone": lambda d: d.clone(),
    "broadcast with real": lambda d: d + torch.ones(3, 1, 1),
    "pytree": lambda d: torch.utils._pytree.tree_map(lambda t: t * 2, {"a": [d]}),
    "linear": lambda d: nn.functional.linear(d, torch.ones(2, OUTPUTS)),
    "einsum": lambda d: torch.einsum("bo,bo->b", d, d),
    "lstm": lambda d: nn.LSTM(OUTPUTS, 3)(d.unsqueeze(0))[0],
    "attention": lambda d: nn.MultiheadAttention(OUTPUTS, 2)(d, d, d)[0],
    "scaled_dot_product": lambda d: nn.functional.scaled_dot_product_attention(d[None], d[None], d[None]),
    "conv": lambda d: nn.functional.conv1d(d[None], torch.ones(2, BATCH, 1)),
    "dropout": lambda d: nn.functional.dropout(d, 0.5),
    "batch_norm": lambda d: nn.BatchNorm1d(OUTPUTS)(d),
    "embedding of sums": lambda d: torch.stack([d.sum(), d.mean()]),
    "sum of a list": lambda d: sum([d, d]),
    "list inside": lambda d: torch.block_diag(d, d),
    "where": lambda d: torch.where(d > 0.1, d, -d),
    "index by": lambda d: d[d > 0.1],
    "gather": lambda d: d.gather(1, torch.zeros(BATCH, 1, dtype=torch.long)),
    "numpy conversion": lambda d: torch.from_numpy(np.asarray(d.detach())),
    "numpy stack": lambda d: torch.from_numpy(np.stack([d.detach(), d.detach()])),
    "torch.tensor": lambda d: torch.tensor(d.detach()),
    "as_tensor": lambda d: torch.as_tensor(d) * 2,
    "dlpack": lambda d: torch.from_dlpack(d.detach()),
    "save and load": lambda d: saved(d.detach()),
}


def saved(tensor: Tensor) -> Tensor:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings(
    "ignore:To copy construct", "ignore:torch.utils.checkpoint", "ignore:.*requires_grad"
)
@pytest.mark.parametrize("use", USES)
def test_a_use_gives_stocks_value_and_gradient(net: Twins, x: Tensor, use: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Any]:
        kept = record(model, x)
        torch.manual_seed(3)
        return [USES[use](kept.mem2[4]), torch.stack(kept.spk2)]

    net.check(loop, x)


@pytest.mark.filterwarnings(
    "ignore:To copy construct", "ignore:torch.utils.checkpoint", "ignore:.*requires_grad"
)
@pytest.mark.parametrize("use", ["Function.apply", "reentrant checkpoint", "lstm", "numpy conversion"])
def test_a_use_at_every_step(net: Twins, x: Tensor, use: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Any]:
        mem1, mem2 = start(model)
        out = []
        for frame in x:
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            torch.manual_seed(3)
            out.append(USES[use](mem2))
        return out + [mem2]

    net.check(loop, x)


ESCAPES: dict[str, Callable[[Tensor], Any]] = {
    "C-level apply": lambda d: Straight.apply(d, 2.0),
    "scripted function": scripted,
    "traced function": traced,
    "vmap": lambda d: torch.vmap(lambda row: row * 2)(d),
    "as_subclass": lambda d: d.as_subclass(nn.Parameter),
    "func.grad": lambda d: torch.func.grad(lambda t: (t * d).sum())(torch.ones(BATCH, OUTPUTS)),
    "func.vjp": lambda d: torch.func.vjp(lambda t: t.sin(), d)[0],
    "func.jvp": lambda d: torch.func.jvp(lambda t: t.sin(), (d,), (torch.ones_like(d),))[1],
    "jacrev": lambda d: torch.func.jacrev(lambda t: (t**2).sum(0))(d),
    "functional_call": lambda d: torch.func.functional_call(nn.Linear(OUTPUTS, 2), {}, (d,)),
    "torch.tensor": torch.tensor,
    "torch.Tensor": torch.Tensor,
    "Variable": torch.autograd.Variable,
    "module": lambda d: torch.jit.trace(nn.Linear(OUTPUTS, 2), torch.zeros(BATCH, OUTPUTS))(d),
}


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("use", ESCAPES)
def test_an_escape_gives_stocks_result_or_says_that_it_cannot(net: Twins, x: Tensor, use: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Any]:
        kept = record(model, x)
        torch.manual_seed(3)
        return [ESCAPES[use](kept.mem2[4]), torch.stack(kept.spk2)]

    try:
        net.check(loop, x)
    except DeferredEscapeError as error:
        assert "resolve" in str(error)
    # The cure that the error names.
    net.check(lambda m, x: [ESCAPES[use](recording.resolve(record(m, x).mem2[4])), m(x)[0]], x)


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("use", ESCAPES)
def test_an_escape_without_gradients_just_works(net: Twins, x: Tensor, use: str) -> None:
    def loop(model: Net, x: Tensor) -> list[Any]:
        with torch.no_grad():
            kept = record(model, x)
            torch.manual_seed(3)
            return [ESCAPES[use](kept.mem2[4])]

    net.check(loop, x, backward=False)


def test_memory_behind_every_hook_is_nan_not_a_strangers_data(net: Twins, x: Tensor) -> None:
    kept = record(net.fast, x)
    real = torch.zeros(BATCH, OUTPUTS)
    real.data = kept.mem2[2]
    assert bool(torch.isnan(real).all())
    exported = dlpack.from_dlpack(dlpack.to_dlpack(kept.mem2[3].detach()))
    assert bool(torch.isnan(exported).all())


def test_a_recorded_gradient_is_assigned(net: Twins, x: Tensor) -> None:
    parameter = nn.Parameter(torch.zeros(BATCH, OUTPUTS))
    with torch.no_grad():
        value = record(net.fast, x).mem2[2]
        expected = record(net.stock, x).mem2[2]
    try:
        parameter.grad = value
    except (TypeError, RuntimeError):
        return
    assert parameter.grad is not None
    torch.testing.assert_close(parameter.grad + 0, expected, rtol=1e-4, atol=1e-5)


def test_backward_on_a_recorded_value(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        kept = record(model, x)
        kept.mem2[-1].backward(torch.ones(BATCH, OUTPUTS), retain_graph=True)
        torch.autograd.backward([torch.stack(kept.mem2)], [torch.ones(STEPS, BATCH, OUTPUTS)])
        return []

    net.check(loop, x, backward=False)


def test_create_graph(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        _, membranes = model(x)
        (gradient,) = torch.autograd.grad(membranes.pow(2).sum(), [model.fc1.weight], create_graph=True)
        gradient.pow(2).sum().backward()
        return [gradient.detach()]

    net.check(loop, x, backward=False)


def test_deepcopy_of_a_recorded_value_raises_as_in_stock(net: Twins, x: Tensor) -> None:
    for model in (net.stock, net.fast):
        kept = record(model, x)
        with pytest.raises(RuntimeError, match="graph leaves"):
            copy.deepcopy(kept.mem2[3])
        assert torch.equal(copy.deepcopy(kept.mem2[3].detach()), kept.mem2[3])
