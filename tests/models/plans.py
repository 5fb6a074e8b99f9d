"""Random stock models and the loops that users write around them, as data that hypothesis can shrink."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import hypothesis.strategies as st
import snntorch as snn
import torch
from torch import Tensor, nn

from sparse_backend.neurons import Surrogate
from sparse_backend.neurons import surrogates as S


@dataclass(frozen=True)
class NeuronPlan:
    """One neuron layer. `kind` is "leaky" or "lapicque"."""

    kind: str = "leaky"
    reset: str = "subtract"
    reset_delay: bool = True
    beta: float = 0.9
    per_neuron: bool = False
    learn_beta: bool = False
    learn_threshold: bool = False
    graded: float = 1.0
    learn_graded: bool = False

    def build(self, width: int, spike_grad: object, init_hidden: bool, output: bool) -> nn.Module:
        shared = {
            "spike_grad": spike_grad,
            "init_hidden": init_hidden,
            "output": output,
            "learn_threshold": self.learn_threshold,
            "reset_mechanism": self.reset,
        }
        if self.kind == "lapicque":
            return snn.Lapicque(beta=self.beta, **shared)
        beta = torch.full((width,), self.beta) - 0.3 * torch.rand(width) if self.per_neuron else self.beta
        return snn.Leaky(
            beta,
            learn_beta=self.learn_beta,
            graded_spikes_factor=self.graded,
            learn_graded_spikes_factor=self.learn_graded,
            reset_delay=self.reset_delay,
            **shared,
        )


@dataclass(frozen=True)
class Plan:
    """A model, its input and the loop around it.

    loss: what the loss reads: "spikes", "membranes", "last_membrane", "one_spike" or "hidden" (a regulariser
    on the first layer's spikes beside the output's). cut_every: detach the states every so many steps (0:
    never).
    """

    widths: tuple[int, ...] = (7, 5, 3)
    neurons: tuple[NeuronPlan, ...] = (NeuronPlan(), NeuronPlan())
    surrogate: Surrogate = field(default_factory=lambda: S.atan(2.0))
    steps: int = 12
    batch: int = 4
    density: float = 0.3
    bias: bool = True
    init_hidden: bool = False
    constant_input: bool = False
    input_gradient: bool = False
    initial_state: bool = False
    loss: str = "spikes"
    cut_every: int = 0
    seed: int = 0

    def build(self, dtype: torch.dtype, spike_grad: object | None = None) -> Net:
        torch.manual_seed(self.seed)
        return Net(self, self.surrogate if spike_grad is None else spike_grad).to(dtype)

    def input(self, dtype: torch.dtype) -> Tensor:
        torch.manual_seed(self.seed + 1)
        shape = (
            (self.batch, self.widths[0]) if self.constant_input else (self.steps, self.batch, self.widths[0])
        )
        values = (torch.rand(shape) < self.density).to(dtype)
        return values.requires_grad_(self.input_gradient)


class Net(nn.Module):
    """Linear + neuron layers with the explicit-state or the init_hidden loop of snnTorch's tutorials."""

    def __init__(self, plan: Plan, spike_grad: object) -> None:
        super().__init__()
        self.plan = plan
        pairs = list(zip(plan.widths[:-1], plan.widths[1:], strict=True))
        self.feeds = nn.ModuleList(nn.Linear(a, b, bias=plan.bias) for a, b in pairs)
        for feed in self.feeds:
            # Default initialisation leaves small random nets silent; four times that makes every layer fire.
            with torch.no_grad():
                feed.weight.mul_(4.0)
        last = len(pairs) - 1
        self.neurons = nn.ModuleList(
            neuron.build(width, spike_grad, plan.init_hidden, output=plan.init_hidden and index == last)
            for index, (neuron, (_, width)) in enumerate(zip(plan.neurons, pairs, strict=True))
        )

    def initial(self) -> list[Tensor] | None:
        if not self.plan.initial_state or self.plan.init_hidden:
            return None
        torch.manual_seed(self.plan.seed + 2)
        weight = self.feeds[0].weight
        return [torch.rand(self.plan.batch, w).to(weight).requires_grad_() for w in self.plan.widths[1:]]

    def forward(self, x: Tensor, states: list[Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """(spikes, membranes, hidden spikes), each stacked over time."""
        spikes, membranes, hidden = [], [], []
        if self.plan.init_hidden:
            for neuron in self.neurons:
                neuron.reset_mem()
        mems = list(states) if states is not None else [neuron.reset_mem() for neuron in self.neurons]
        for t in range(self.plan.steps):
            now = x if self.plan.constant_input else x[t]
            if self.plan.cut_every and t % self.plan.cut_every == self.plan.cut_every - 1:
                mems = self.detach(mems)
            for index, (feed, neuron) in enumerate(zip(self.feeds, self.neurons, strict=True)):
                current = feed(now)
                if not self.plan.init_hidden:
                    now, mems[index] = neuron(current, mems[index])
                elif index == len(self.neurons) - 1:
                    now, mems[index] = neuron(current)
                else:
                    now = neuron(current)
                if index == 0:
                    hidden.append(now)
            spikes.append(now)
            membranes.append(mems[-1])
        return torch.stack(spikes), torch.stack(membranes), torch.stack(hidden)

    def detach(self, mems: list[Tensor]) -> list[Tensor]:
        if self.plan.init_hidden:
            for neuron in self.neurons:
                neuron.mem.detach_()
            return mems
        return [mem.detach() for mem in mems]


@dataclass
class Result:
    spikes: Tensor
    membranes: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]


def run(net: Net, dtype: torch.dtype) -> Result:
    """One training step's forward and backward; gradients of parameters, input and initial states."""
    plan = net.plan
    x = plan.input(dtype)
    states = net.initial()
    spikes, membranes, hidden = net(x, states)
    torch.manual_seed(plan.seed + 3)
    weights = torch.randn(membranes.shape).to(dtype)
    if plan.loss == "spikes":
        loss = (spikes * weights).sum()
    elif plan.loss == "membranes":
        loss = (membranes * weights).sum()
    elif plan.loss == "last_membrane":
        loss = (membranes[-1] * weights[-1]).sum()
    elif plan.loss == "one_spike":
        loss = (spikes[plan.steps // 2] * weights[0]).sum()
    else:
        loss = (spikes * weights).sum() + (hidden.mean(0) ** 2).sum()
    leaves = dict(net.named_parameters())
    if plan.input_gradient:
        leaves["input"] = x
    leaves |= {f"state{index}": state for index, state in enumerate(states or [])}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }
    return Result(spikes.detach(), membranes.detach(), loss.detach(), gradients)


def twins(plan: Plan, dtype: torch.dtype, spike_grad: object | None = None) -> tuple[Net, Net]:
    """The same model twice, with equal weights."""
    net = plan.build(dtype, spike_grad)
    return net, copy.deepcopy(net)


neuron_plans = st.builds(
    NeuronPlan,
    kind=st.sampled_from(["leaky", "leaky", "leaky", "lapicque"]),
    reset=st.sampled_from(["subtract", "zero", "none"]),
    reset_delay=st.booleans(),
    beta=st.sampled_from([0.5, 0.8, 0.95]),
    per_neuron=st.booleans(),
    learn_beta=st.booleans(),
    learn_threshold=st.booleans(),
    graded=st.sampled_from([1.0, 1.0, 1.5]),
    learn_graded=st.booleans(),
)


@st.composite
def plans(draw: st.DrawFn, max_steps: int = 40, max_width: int = 24, max_batch: int = 8) -> Plan:
    layers = draw(st.integers(1, 3))
    width = st.integers(1, max_width)
    return Plan(
        widths=tuple(draw(width) for _ in range(layers + 1)),
        neurons=tuple(draw(neuron_plans) for _ in range(layers)),
        surrogate=draw(st.sampled_from([S.atan(2.0), S.fast_sigmoid(5.0), S.triangle(0.5), S.sigmoid(3.0)])),
        steps=draw(st.integers(1, max_steps)),
        batch=draw(st.integers(1, max_batch)),
        density=draw(st.sampled_from([0.0, 0.05, 0.3, 1.0])),
        bias=draw(st.booleans()),
        init_hidden=draw(st.booleans()),
        constant_input=draw(st.booleans()),
        input_gradient=draw(st.booleans()),
        initial_state=draw(st.booleans()),
        loss=draw(st.sampled_from(["spikes", "membranes", "last_membrane", "one_spike", "hidden"])),
        cut_every=draw(st.sampled_from([0, 0, 1, 3, 7])),
        seed=draw(st.integers(0, 10_000)),
    )
