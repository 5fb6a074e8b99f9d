"""What recording costs beside the kernels: `python -m benchmarks.overhead`.

The network is so small (20-30-30-10, batch 8) that next to nothing is computed: what is left is Python.
"""

from __future__ import annotations

import copy
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import snntorch as snn
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import sparse_backend

__all__ = ["main"]

_WIDTHS = (20, 30, 30, 10)
_BATCH = 8
_REPEATS = 60
_PARTS = ("loop", "read", "backward")

Run = Callable[[], Mapping[str, float]]


class Net(nn.Module):
    """Three Linear + Leaky layers, as a tutorial writes them.

    keep: the output layer's spikes and membranes of all steps are kept, else its spikes alone.
    """

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.keep = keep
        (self.fc1, self.fc2, self.fc3) = (nn.Linear(a, b) for a, b in itertools.pairwise(_WIDTHS))
        (self.lif1, self.lif2, self.lif3) = (snn.Leaky(beta=0.9) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The kept outputs, unread; x `[T, B, N]`."""
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        kept = []
        for step in range(x.shape[0]):
            spk, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk, mem2 = self.lif2(self.fc2(spk), mem2)
            spk, mem3 = self.lif3(self.fc3(spk), mem3)
            kept.append(spk)
            if self.keep:
                kept.append(mem3)
        return kept


class _Idle(nn.Module):
    def __call__(self, *args: Tensor) -> tuple[Tensor, ...] | Tensor:  # without any of nn.Module's own work
        return args if len(args) > 1 else args[0]


def _only_the_loop(net: Net) -> Net:
    """The same Python loop over modules that do nothing: what no recorder can save."""
    bare = copy.deepcopy(net)
    for name, _ in net.named_children():
        setattr(bare, name, _Idle())
    for lif in (bare.lif1, bare.lif2, bare.lif3):
        lif.init_leaky = lambda: torch.zeros(0)  # type: ignore[assignment]
    return bare


def _loop(net: Net, x: Tensor) -> Run:
    def run() -> Mapping[str, float]:
        start = time.perf_counter()
        kept = net(x)
        return {"loop": time.perf_counter() - start, "kept": float(len(kept))}

    return run


def _training_step(net: Net, x: Tensor) -> Run:
    def run() -> Mapping[str, float]:
        net.zero_grad()
        times = [time.perf_counter()]
        kept = net(x)
        times.append(time.perf_counter())
        loss = torch.stack(kept[:: 1 + net.keep]).sum()
        if net.keep:
            loss = loss + torch.stack(kept[1::2]).sum()
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        return dict(zip(_PARTS, (b - a for a, b in itertools.pairwise(times)), strict=True))

    return run


def _backward_at_every_step(net: Net, x: Tensor) -> Run:
    def run() -> Mapping[str, float]:
        net.zero_grad()
        mems = [torch.zeros(())] * 3
        start = time.perf_counter()
        for frame in x:
            spk, mem1 = net.lif1(net.fc1(frame), mems[0])
            spk, mem2 = net.lif2(net.fc2(spk), mems[1])
            spk, mem3 = net.lif3(net.fc3(spk), mems[2])
            spk.sum().backward()
            mems = [mem1.detach(), mem2.detach(), mem3.detach()]
        return {"loop": time.perf_counter() - start}

    return run


def _medians(runs: Mapping[str, Run], repeats: int = _REPEATS) -> dict[str, dict[str, float]]:
    """Median seconds per part, the runs in turn."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in runs}
    for repeat in range(-10, repeats):
        for name, run in runs.items():
            gc.collect() if repeat % 10 == 0 else None
            seconds = run()
            if repeat >= 0:
                found[name].append(seconds)
    return {
        name: {part: statistics.median(one[part] for one in each) for part in each[0]}
        for name, each in found.items()
    }


def _networks(keep: bool) -> tuple[Net, Net, Net]:
    torch.manual_seed(0)
    stock = Net(keep)
    fast = copy.deepcopy(stock)
    sparse_backend.accelerate(fast, gradient="window")
    return stock, fast, _only_the_loop(stock)


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="right" if head else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _per_step(console: Console, steps: int = 100) -> None:
    rows = []
    for keep in (False, True):
        stock, fast, bare = _networks(keep)
        x = (torch.rand(steps, _BATCH, _WIDTHS[0]) < 0.1).float()
        runs = {"stock": _training_step(stock, x), "fast": _training_step(fast, x), "bare": _loop(bare, x)}
        runs |= {"fast, 1 step": _training_step(fast, x[:1]), "fast, 2 steps": _training_step(fast, x[:2])}
        times = _medians(runs)
        per = 1e6 / (3 * (steps - 2))
        loop = (times["fast"]["loop"] - times["fast, 2 steps"]["loop"]) * per
        user = times["bare"]["loop"] * 1e6 / (3 * steps)
        start = 1e6 * times["fast, 2 steps"]["loop"]
        reading, backward = (1e6 * times["fast"][part] for part in ("read", "backward"))
        whole = 1e3 * sum(times["fast"][part] for part in _PARTS)
        whole_stock = 1e3 * sum(times["stock"][part] for part in _PARTS)
        rows.append(
            [
                "spikes and membranes" if keep else "spikes",
                *(f"{value:.2f}" for value in (loop, user)),
                *(f"{value:.0f}" for value in (start, reading, backward)),
                *(f"{value:.2f}" for value in (whole, whole_stock)),
            ]
        )
    heads = ("kept of the output layer", "us per step and layer", "of it the loop's own")
    heads += ("first 2 steps, us", "flush, us", "backward, us", "in all, ms", "stock, ms")
    console.print(_table(f"{steps} steps, 3 layers of Linear + Leaky", heads, rows))


def _short_loops(console: Console) -> None:
    stock, fast, _ = _networks(True)
    rows = []
    for steps in (1, 2, 3, 5, 10, 25, 100):
        x = (torch.rand(steps, _BATCH, _WIDTHS[0]) < 0.1).float()
        sparse_backend.recording.reset_backoff()
        times = _medians({"stock": _training_step(stock, x), "fast": _training_step(fast, x)})
        a, b = (1e3 * sum(times[name][part] for part in _PARTS) for name in ("stock", "fast"))
        rows.append([f"{steps} steps", f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}x"])
    sparse_backend.recording.reset_backoff()
    x = (torch.rand(25, _BATCH, _WIDTHS[0]) < 0.1).float()
    times = _medians({"stock": _backward_at_every_step(stock, x), "fast": _backward_at_every_step(fast, x)})
    a, b = (1e3 * times[name]["loop"] for name in ("stock", "fast"))
    rows.append(["25 steps, backward at each", f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}x"])
    title = "training step of a loop, ms"
    console.print(_table(title, ("", "stock", "accelerated", "ratio"), rows))


def main() -> None:
    """Print both tables; medians, stock and accelerated in turn."""
    console = Console(width=130)
    _per_step(console)
    _short_loops(console)


if __name__ == "__main__":
    main()
