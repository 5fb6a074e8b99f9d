"""Norse: cells called step by step, and time modules that take whole sequences."""

from __future__ import annotations

from typing import Any

import norse.torch as norse
import pytest
import torch
from norse.torch.functional.lif import LIFParameters
from torch import Tensor, nn

from sparse_backend import recording

from .conftest import BATCH, HIDDEN, INPUTS, OUTPUTS, STEPS, Twins

P = LIFParameters(v_th=torch.tensor(0.05), method="super")


class Cells(nn.Module):
    """Cells with explicit states."""

    def __init__(self, p: LIFParameters = P) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(INPUTS, HIDDEN), norse.LIFCell(p)
        self.fc2, self.lif2 = nn.Linear(HIDDEN, OUTPUTS), norse.LIFBoxCell()
        self.fc3, self.readout = nn.Linear(OUTPUTS, OUTPUTS), norse.LICell()


def cells(model: Cells, x: Tensor) -> list[Any]:
    s1 = s2 = s3 = None
    out = []
    for frame in x:
        z, s1 = model.lif1(model.fc1(frame), s1)
        z, s2 = model.lif2(model.fc2(z), s2)
        v, s3 = model.readout(model.fc3(z), s3)
        out.append(v)
    return [torch.stack(out), s1, s2, s3]


def test_cells_run_as_one_segment(x: Tensor) -> None:
    assert Twins(Cells()).check(cells, x).flushes == 1


def test_states_keep_their_type_and_identity(x: Tensor) -> None:
    twins = Twins(Cells())
    _, s1, s2, s3 = cells(twins.fast, x)
    _, r1, r2, r3 = cells(twins.stock, x)
    for state, reference in ((s1, r1), (s2, r2), (s3, r3)):
        assert type(state) is type(reference) and state._fields == reference._fields
        for value, expected in zip(state, reference, strict=True):
            assert value.shape == expected.shape and value.requires_grad == expected.requires_grad


@pytest.mark.parametrize("what", ["read", "replace", "detach", "detach one", "carry", "no_grad"])
def test_states_between_steps(x: Tensor, what: str) -> None:
    def loop(model: Cells, x: Tensor) -> list[Any]:
        state, out = None, []
        for t, frame in enumerate(torch.cat([x, x])):
            if t % 5 == 3:
                assert state is not None
                if what == "read":
                    out.append(state.v + state.i)
                elif what == "replace":
                    state = state._replace(v=state.v * 0.5)
                elif what == "detach":
                    state = type(state)(*(value.detach() for value in state))
                elif what == "detach one":
                    state = state._replace(v=state.v.detach())
                elif what == "no_grad":
                    with torch.no_grad():
                        _, state = model.lif1(model.fc1(frame), state)
                else:
                    out[-1].sum().item()
            z, state = model.lif1(model.fc1(frame), state)
            out.append(z)
        return [torch.stack(out), state]

    counted = Twins(Cells()).check(loop, x)
    if what == "detach":
        assert counted.flushes == 1


def test_every_state_of_every_step_is_kept(x: Tensor) -> None:
    def loop(model: Cells, x: Tensor) -> list[Any]:
        state, states, out = None, [], []
        for frame in x:
            z, state = model.lif1(model.fc1(frame), state)
            states.append(state)
            out.append(z)
        return [torch.stack(out), torch.stack([s.v for s in states]), torch.stack([s.i for s in states])]

    assert Twins(Cells()).check(loop, x).flushes == 1


def test_sequential_state_of_cells(x: Tensor) -> None:
    model = norse.SequentialState(
        *(nn.Linear(INPUTS, HIDDEN), norse.LIFCell(P), nn.Linear(HIDDEN, OUTPUTS), norse.LICell())
    )

    def loop(model: nn.Module, x: Tensor) -> list[Any]:
        state, out = None, []
        for frame in x:
            v, state = model(frame, state)
            out.append(v)
        return [torch.stack(out)]

    assert Twins(model).check(loop, x).flushes == 1


def sequential() -> nn.Module:
    return norse.SequentialState(
        *(nn.Linear(INPUTS, HIDDEN), norse.LIF(P), nn.Linear(HIDDEN, HIDDEN), norse.LIF(P)),
        *(nn.Linear(HIDDEN, OUTPUTS), norse.LI()),
    )


def test_time_modules_hand_spikes_on_without_making_them_dense(
    x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_backend.ops import sequence

    dense: list[int] = []
    original = sequence.PackedSpikes.to_dense
    monkeypatch.setattr(sequence.PackedSpikes, "to_dense", lambda self: dense.append(1) or original(self))
    counted = Twins(sequential()).check(lambda model, x: model(x)[0], x)
    assert counted.flushes == 1
    assert not dense


def test_the_final_states_of_time_modules(x: Tensor) -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Any]:
        out, states = model(x)
        again, states = model(x, states)
        return [out, again, states[1], states[5]]

    Twins(sequential()).check(loop, x)


def test_batches_before_anything_is_read(x: Tensor) -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Any]:
        return [model(x * scale)[0] for scale in (1.0, 0.5, 2.0)]

    Twins(sequential()).check(loop, x)


def test_a_time_module_with_hidden_spikes_kept(x: Tensor) -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1, self.fc2, self.li = (
                nn.Linear(INPUTS, HIDDEN),
                norse.LIF(P),
                nn.Linear(HIDDEN, OUTPUTS),
                norse.LI(),
            )

        def forward(self, x: Tensor) -> list[Any]:
            z, s = self.lif1(self.fc1(x))
            v, t = self.li(self.fc2(z))
            return [v, z.mean() * 3, z[2], s, t]

    Twins(Kept()).check(lambda m, x: m(x), x)


def test_lift_and_a_sequence_on_real_currents(x: Tensor) -> None:
    model = norse.SequentialState(norse.Lift(nn.Linear(INPUTS, HIDDEN)), norse.LIF(P))
    Twins(model).check(lambda m, x: m(x)[0], x)


def test_learnable_parameters_of_the_neuron(x: Tensor) -> None:
    class Learned(Cells):
        def __init__(self) -> None:
            super().__init__()
            self.tau = nn.Parameter(torch.tensor(120.0))
            self.lif1 = norse.LIFCell(P)
            self.lif1.p = self.lif1.p._replace(tau_mem_inv=self.tau)

    def build() -> Learned:
        torch.manual_seed(4)
        return Learned()

    Twins(build(), build()).check(cells, x)


def test_recurrent_cells_stay_upstreams(x: Tensor) -> None:
    def build() -> nn.Module:
        torch.manual_seed(4)
        return norse.SequentialState(nn.Linear(INPUTS, HIDDEN), norse.LIFRecurrentCell(HIDDEN, HIDDEN, P))

    def loop(model: nn.Module, x: Tensor) -> list[Any]:
        state, out = None, []
        for frame in x:
            z, state = model(frame, state)
            out.append(z)
        return [torch.stack(out)]

    # A copy would lose the hook by which upstream keeps the diagonal of the weights at zero.
    Twins(build(), build()).check(loop, x)


def test_truncated_bptt_over_time_modules(x: Tensor) -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Any]:
        states, out = None, []
        for part in x.split(STEPS // 3):
            v, states = model(part, states)
            states = [s if s is None else type(s)(*(value.detach() for value in s)) for s in states]
            out.append(v)
        return [torch.cat(out)]

    Twins(sequential()).check(loop, x)


def test_forward_state_hooks(x: Tensor) -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Any]:
        seen: list[type] = []
        model.register_forward_state_hooks(lambda module, inputs, outputs: seen.append(type(module)) and None)
        out = model(x)[0]
        assert any(issubclass(cls, norse.LIF) for cls in seen)
        model.remove_forward_state_hooks()
        return [out]

    Twins(sequential()).check(loop, x)


def test_the_width_of_a_batch_that_was_never_computed(x: Tensor) -> None:
    twins = Twins(sequential())
    out, states = twins.fast(x)
    assert recording.is_deferred(out) and out.shape == (STEPS, BATCH, OUTPUTS)
    assert states[1].v.shape == (BATCH, HIDDEN)
    assert not recording.flush_reasons()
