"""The loops that users write: explicit and hidden states, recorded lists, losses, truncated BPTT."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import Tensor, nn

from sparse_backend import recording

from .conftest import BATCH, HIDDEN, INPUTS, OUTPUTS, STEPS, Net, Twins, start, step


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("delay", [True, False])
def test_explicit_membranes_run_as_one_segment(reset: str, delay: bool, x: Tensor) -> None:
    counted = Twins(Net(reset_mechanism=reset, reset_delay=delay)).check(lambda m, x: m(x), x)
    assert counted.flushes == 1


def test_the_recorded_loop_returns_nothing_computed(net: Twins, x: Tensor) -> None:
    model = net.fast
    mem1, mem2 = start(model)
    for t in range(STEPS):
        spk1, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
    assert all(map(recording.is_deferred, (spk1, mem1, spk2, mem2)))
    assert not recording.flush_reasons()


def test_hidden_state_called_once_per_step(hidden: Twins, x: Tensor) -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        utils.reset(model)
        spikes, membranes = [], []
        for t in range(STEPS):
            spk, mem = model(x[t])
            spikes.append(spk)
            membranes.append(mem)
        return [torch.stack(spikes), torch.stack(membranes)]

    assert hidden.check(loop, x).flushes == 1


def test_hidden_state_reset_per_layer_inside_forward(x: Tensor) -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(INPUTS, HIDDEN), snn.Leaky(0.9, init_hidden=True, threshold=0.3)
            self.fc2, self.lif2 = nn.Linear(HIDDEN, OUTPUTS), snn.Leaky(0.9, init_hidden=True, output=True)

        def forward(self, x: Tensor) -> Tensor:
            self.lif1.reset_mem()
            self.lif2.reset_mem()
            out = []
            for frame in x:
                _, mem = self.lif2(self.fc2(self.lif1(self.fc1(frame))))
                out.append(mem)
            return torch.stack(out)

    assert Twins(Inside()).check(lambda m, x: m(x), x).flushes == 1


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_stack_and_cat_along_any_dimension(net: Twins, x: Tensor, dim: int) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        spikes, membranes = [], []
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return [
            torch.stack(spikes, dim),
            torch.cat(membranes, dim=min(dim, 1)),
            torch.cat([s.unsqueeze(0) for s in spikes], dim=0),
            torch.stack(tuple(spikes[3:7]), dim=dim),
            torch.stack(spikes[::-1]),
            torch.stack([spikes[0], membranes[1], x[0, :, :OUTPUTS]], dim=dim),
            torch.stack(spikes[:4] + spikes[6:]),
            torch.cat([x[0, :, :3], spikes[1]], dim=1),
        ]

    net.check(loop, x)


def test_recorded_lists_indexed_and_sliced(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        spikes, membranes = model(x)
        mem1, mem2 = start(model)
        recorded = []
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            recorded.append((spk2, mem2))
        return [spikes[-1], membranes[2:5], recorded[-1][0], recorded[3][1][:, 1], recorded[0][0]]

    net.check(loop, x)


def test_loss_summed_over_membranes_of_every_step(net: Twins, x: Tensor) -> None:
    target = torch.randint(OUTPUTS, (BATCH,))

    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        recorded = []
        for t in range(STEPS):
            _, mem1, _, mem2 = step(model, x[t], mem1, mem2)
            recorded.append(mem2)
        loss = torch.zeros(1)
        for t in range(STEPS):
            loss += nn.functional.cross_entropy(recorded[t], target)
        return loss

    assert net.check(loop, x).flushes == 1


def test_loss_on_the_last_step_only(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
        return (mem2**2).sum() + 3 * spk2.sum()

    net.check(loop, x)


def test_spikes_of_a_hidden_layer_in_a_regulariser(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        hidden, out = [], []
        for t in range(STEPS):
            spk1, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            hidden.append(spk1)
            out.append(spk2)
        return [torch.stack(out), torch.stack(hidden).mean(0).pow(2).sum()]

    assert net.check(loop, x).flushes == 1


def test_the_same_input_at_every_step(net: Twins, x: Tensor) -> None:
    def loop(model: Net, frame: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for _ in range(STEPS):
            _, mem1, _, mem2 = step(model, frame, mem1, mem2)
            out.append(mem2)
        return torch.stack(out)

    net.check(loop, x[0])
    net.check(loop, x[0].clone().requires_grad_())


def test_a_readout_after_the_loop(x: Tensor) -> None:
    class Readout(Net):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            mem1 = self.lif1.init_leaky()
            for t in range(x.shape[0]):
                spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            return self.fc2(spk1) + self.fc2(mem1)

    Twins(Readout()).check(lambda m, x: m(x), x)


def test_a_linear_readout_at_every_step(x: Tensor) -> None:
    class Readout(Net):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            mem1 = self.lif1.init_leaky()
            out = []
            for t in range(x.shape[0]):
                spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
                out.append(self.fc2(spk1))
            return torch.stack(out).mean(0)

    assert Twins(Readout()).check(lambda m, x: m(x), x).flushes == 1


def test_layers_fed_by_membranes(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            _, mem1 = model.lif1(model.fc1(x[t]), mem1)
            spk2, mem2 = model.lif2(model.fc2(mem1), mem2)
            out.append(spk2)
        return torch.stack(out)

    assert net.check(loop, x).flushes == 1


def test_images_flattened_with_view_each_step(x: Tensor) -> None:
    def loop(model: Net, images: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            spk1, mem1 = model.lif1(model.fc1(images[t].view(BATCH, -1)), mem1)
            square = spk1.view(BATCH, 2, HIDDEN // 2)
            spk2, mem2 = model.lif2(model.fc2(square.flatten(1)), mem2)
            out.append(spk2)
        return torch.stack(out)

    assert Twins(Net()).check(loop, x.view(STEPS, BATCH, 1, 3, 3)).flushes == 1


def test_batch_first_data(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[:, t], mem1, mem2)
            out.append(spk2)
        return torch.stack(out, dim=1)

    assert net.check(loop, x.transpose(0, 1).contiguous()).flushes == 1


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("how", ["detach", "detach_", "data"])
def test_truncated_bptt_by_detaching_membranes(net: Twins, x: Tensor, every: int, how: str) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            if t % every == 0:
                if how == "detach":
                    mem1, mem2 = mem1.detach(), mem2.detach()
                elif how == "data":
                    mem1, mem2 = mem1.data, mem2.data
                elif t:
                    mem1.detach_()
                    mem2.detach_()
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            out.append(spk2)
        return torch.stack(out)

    assert net.check(loop, x).flushes == 1


def test_truncated_bptt_with_a_step_of_the_optimizer_per_window(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        mem1, mem2 = start(model)
        losses, out = [], []
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            out.append(spk2)
            if t % 4 == 3:
                loss = (torch.stack(out).mean(0) - 0.5).pow(2).sum() + mem2.pow(2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                mem1, mem2 = mem1.detach(), mem2.detach()
                losses.append(loss.detach())
                out = []
        return [*losses, *(p.detach().clone() for p in model.parameters())]

    net.check(loop, x, backward=False)


def test_detach_hidden_between_mini_batches(hidden: Twins, x: Tensor) -> None:
    def loop(model: nn.Module, x: Tensor) -> list[Tensor]:
        utils.reset(model)
        losses = []
        for _ in range(3):
            snn.Leaky.detach_hidden()
            out = [model(frame)[1] for frame in x]
            loss = torch.stack(out).pow(2).mean()
            loss.backward()
            losses.append(loss.detach())
        return losses

    hidden.check(loop, x, backward=False)


def test_states_carried_over_mini_batches(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for part in x.split(4):
            for frame in part:
                _, mem1, spk2, mem2 = step(model, frame, mem1, mem2)
                out.append(spk2)
            out[-1].sum().item()
        return torch.stack(out)

    net.check(loop, x)


def test_evaluation_between_training_steps(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = []
        for _ in range(3):
            spikes, membranes = model(x)
            loss = spikes.mean(0).pow(2).sum() + membranes.pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.eval()
                found.append(model(x)[0].sum(0))
                model.train()
            found.append(loss.detach())
        return found

    net.check(loop, x, backward=False)


def test_two_passes_before_anything_is_read(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        out = []
        for scale in (1.0, 0.5):
            mem1, mem2 = start(model)
            for t in range(STEPS):
                _, mem1, spk2, mem2 = step(model, x[t] * scale, mem1, mem2)
                out.append(spk2)
        return [torch.stack(out)]

    assert net.check(loop, x).flushes <= 3


def test_early_exit_on_spikes(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        mem1, mem2 = start(model)
        out = []
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            out.append(mem2)
            if spk2.any():
                break
        return torch.stack(out)

    net.check(loop, x)


def test_a_value_read_in_the_middle(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        out = []
        seen = 0.0
        for t in range(STEPS):
            spk1, mem1 = model.lif1(model.fc1(x[t]), mem1)
            if t == 5:
                seen = spk1.sum().item()
            spk2, mem2 = model.lif2(model.fc2(spk1), mem2)
            out.append(spk2)
        return [torch.stack(out), torch.tensor(seen)]

    assert net.check(loop, x).flushes <= 3


def test_values_read_at_every_step_pause_the_recording(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mem1, mem2 = start(model)
        total = torch.zeros(BATCH, OUTPUTS)
        for t in range(STEPS):
            _, mem1, spk2, mem2 = step(model, x[t], mem1, mem2)
            total = total + spk2
        return [total, mem2]

    longer = torch.cat([x] * 10)
    counted = net.check(lambda model, x: [loop(model, x) for _ in range(10)], longer)
    assert counted.flushes < 30


@pytest.mark.parametrize(("steps", "most"), [(1, 12), (2, 12), (3, 12), (4, 80)])
def test_loops_that_prove_to_be_short_pause_the_recording(
    net: Twins, x: Tensor, steps: int, most: int
) -> None:
    """A small network's loop of three steps costs more to record than it gains, one of four does not."""
    counted = net.check(lambda model, x: [model(x)[0] for _ in range(80)], x[:steps], backward=False)
    assert counted.flushes <= most and (most < 80 or counted.flushes == most)


def test_a_wide_network_is_recorded_for_two_steps_too() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(300, 300), snn.Leaky(0.9)

        def forward(self, x: Tensor) -> Tensor:
            mem, out = self.lif.init_leaky(), []
            for frame in x:
                spk, mem = self.lif(self.fc(frame), mem)
                out.append(spk)
            return torch.stack(out)

    x = (torch.rand(2, 64, 300) < 0.1).float()
    counted = Twins(Wide()).check(lambda model, x: [model(x) for _ in range(9)], x)
    assert counted.flushes == 9


def test_two_losses_and_a_retained_graph(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        spikes, membranes = model(x)
        spikes.sum().backward(retain_graph=True)
        membranes.pow(2).sum().backward()
        return []

    net.check(loop, x, backward=False)


def test_backward_twice_raises_as_in_stock(net: Twins, x: Tensor) -> None:
    for model in (net.stock, net.fast):
        loss = model(x)[0].sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
