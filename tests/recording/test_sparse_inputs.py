"""Sparse steps are read as events; what else they could mean is left to torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_backend import recording

from .conftest import BATCH, INPUTS, STEPS, Net, Twins, record, start, step


def test_steps_of_a_sparse_sequence(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = record(model, x.to_sparse())  # type: ignore[arg-type]
        return torch.stack(kept.spk2), torch.stack(kept.mem2)

    values = x * torch.rand(STEPS, BATCH, INPUTS)
    for frames in (x, values, torch.zeros_like(x)):
        assert net.check(loop, frames).flushes == 1


def test_entries_in_any_order_with_repetitions(net: Twins, x: Tensor) -> None:
    indices = torch.tensor([[3, 0, 3, 1], [2, 8, 2, 0]])

    def loop(model: Net, x: Tensor) -> Tensor:
        frames = [
            torch.sparse_coo_tensor(indices, x[t, 0, :4], (BATCH, INPUTS), check_invariants=True)
            for t in range(STEPS)
        ]
        return torch.stack(record(model, frames).mem2)  # type: ignore[arg-type]

    assert net.check(loop, torch.rand_like(x)).flushes == 1


def test_a_sparse_step_counts_as_it_was_when_given(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        frame, out = x[0].to_sparse().coalesce(), []
        for t in range(STEPS):
            # Stock saves the step for its backward pass, which refuses memory that was changed.
            given = frame.clone() if model is net.stock else frame
            _, mem1, _, mem2 = step(model, given, mem1, mem2)
            out.append(mem2)
            if t % 3 == 0:
                frame.values().mul_(1.25)
        return torch.stack(out)

    assert net.check(loop, x).flushes == 1


def test_a_constant_sparse_input(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        frame = x[0].to_sparse()
        return torch.stack(record(model, [frame] * STEPS).mem2)  # type: ignore[arg-type]

    assert net.check(loop, x).flushes == 1


def test_a_product_of_a_sparse_step_that_is_read(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, _ = start(model)
        currents, out = [], []
        for t in range(STEPS):
            current = model.fc1(x[t].to_sparse())
            currents.append(current)
            _, mem1 = model.lif1(current, mem1)
            out.append(mem1)
        return [torch.stack(out), torch.stack(currents), currents[3] * 1]

    net.check(loop, x)


def test_dense_and_sparse_steps_in_turn(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        frames = [frame.to_sparse() if t % 4 == 1 else frame for t, frame in enumerate(x)]
        return torch.stack(record(model, frames).mem2)  # type: ignore[arg-type]

    net.check(loop, x)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", ["csr", "gradient", "hybrid"])
def test_what_is_not_read_as_events_runs_as_upstream(net: Twins, x: Tensor, kind: str) -> None:
    """One dense dimension makes a hybrid tensor, which torch's own product refuses, with or without us."""

    def loop(model: Net, x: Tensor) -> Tensor:
        frames = {
            "csr": lambda f: f.to_sparse_csr(),
            "gradient": lambda f: f.detach().to_sparse().requires_grad_(),
            "hybrid": lambda f: f.to_sparse(1),
        }[kind]
        return torch.stack(record(model, [frames(frame) for frame in x]).mem2)  # type: ignore[arg-type]

    if kind == "hybrid":
        for model in (net.stock, net.fast):
            recording.flush()
            with pytest.raises(RuntimeError, match="addmm"):
                loop(model, x)  # type: ignore[arg-type]
    else:
        net.check(loop, x)
