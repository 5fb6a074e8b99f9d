"""What one training step should cost on a GPU, on paper, so that a first run confirms or refutes it.

`python -m benchmarks.predict` prints each kernel's bytes and operations over an H100's rates, the launches
and the Python around them, the stock loop in the same terms, and the density above which matrix products win.
Counts of events are those that the CPU benchmark of the same rows found (benchmarks/results).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .rows import ROWS, Row

__all__ = [
    "FUNCTIONS",
    "H100",
    "Device",
    "Kernel",
    "Prediction",
    "crossover",
    "group_seconds",
    "main",
    "predict",
]

FUNCTIONS = {
    "mark_entries": "input",
    "count_rows": "lists",
    "write_entries": "input",
    "forward_scan": "forward scan",
    "write_spikes": "lists",
    "write_active": "lists",
    "reverse_scan": "reverse scan",
    "count_inputs": "dW",
    "group_inputs": "dW",
    "weight_gradient": "dW",
    "input_gradient": "dx where active",
    "scatter": "to and from dense",
    "gather": "to and from dense",
}
"""The native module's functions, and the group of predicted kernels that each belongs to."""

_RESULTS = Path(__file__).parent / "results"
_FLOAT = 4.0


@dataclass(frozen=True)
class Device:
    """Rates of a GPU and of the host that drives it.

    memory: bytes/s of device memory, measured by a large copy.  l2: bytes/s of row segments from L2, an
    assumption.  flops: of a float32 matrix product without and with TF32, assumptions.
    schedulers: each starts one instruction per clock.  load_latency, step_latency: seconds of a load from L2,
    and of one neuron step's dependent chain.  launch: seconds between the starts of two queued kernels.
    sync: seconds of a host read.
    stock_forward, stock_backward: host seconds of a stock Linear + Leaky step: dispatch as measured on a CPU
    with layers of two neurons (130 and 67 us), plus 17 launches each way.
    record: host seconds of a recorded one.  operator: host seconds around one layer's kernels, each way.
    """

    name: str = "H100 SXM"
    memory: float = 3.0e12
    l2: float = 5.5e12
    flops: float = 50e12
    flops_tf32: float = 400e12
    schedulers: int = 528
    clock: float = 1.7e9
    load_latency: float = 300 / 1.7e9
    step_latency: float = 60 / 1.7e9
    launch: float = 2.5e-6
    sync: float = 20e-6
    stock_forward: float = 190e-6
    stock_backward: float = 127e-6
    record: float = 6e-6
    operator: float = 0.4e-3


H100 = Device()


@dataclass(frozen=True)
class Kernel:
    """One kernel, or a chain of like ones; group: of `FUNCTIONS`.

    Bound by the largest of its bytes from device memory, its bytes from L2, its instructions, and the
    dependent chain of its longest warp; launches add to it.
    """

    layer: str
    group: str
    memory: float = 0.0
    l2: float = 0.0
    instructions: float = 0.0
    chain: float = 0.0
    launches: int = 1

    def _terms(self, device: Device) -> dict[str, float]:
        return {
            "memory": self.memory / device.memory,
            "L2": self.l2 / device.l2,
            "issue": self.instructions / (device.schedulers * device.clock),
            "latency": self.chain,
        }

    def work(self, device: Device) -> float:
        """Seconds without the launches."""
        return max(self._terms(device).values())

    def seconds(self, device: Device) -> float:
        return self.work(device) + self.launches * device.launch

    def bound(self, device: Device) -> str:
        """What decides: "memory", "L2", "issue", "latency" or "launches"."""
        terms = self._terms(device) | {"launches": self.launches * device.launch}
        return max(terms, key=terms.__getitem__)


@dataclass(frozen=True)
class Prediction:
    """Seconds of one training step."""

    forward: list[Kernel]
    backward: list[Kernel]
    host_forward: float
    host_backward: float
    stock_forward: float
    stock_backward: float

    def totals(self, device: Device) -> tuple[float, float]:
        """(forward, backward): kernels and host in turn, as the host waits for counts in between."""
        forward = sum(kernel.seconds(device) for kernel in self.forward) + self.host_forward
        # Nothing is waited for on the way back: whichever of the two is slower.
        backward = max(sum(kernel.seconds(device) for kernel in self.backward), self.host_backward)
        return forward, backward


def predict(row: Row, spikes: Sequence[float], device: Device = H100) -> Prediction:
    """row: of Linear layers. spikes: density of each layer's spikes; active fractions are the row's."""
    steps, batch = row.steps, row.batch
    active = row.active or 0.02
    rows = float(steps * batch)
    densities = [row.density or 0.01, *spikes]
    forward, backward = [_compress(row, rows)], []
    below = 0.0
    for layer, (inputs, width) in enumerate(zip(row.widths, row.widths[1:], strict=False)):
        events = densities[layer] * rows * inputs
        forward += _forward(f"layer {layer + 1}", steps, batch, inputs, width, events, active)
        backward = _backward(f"layer {layer + 1}", steps, batch, width, events, active, below) + backward
        below = active * rows * width
    layers = len(row.widths) - 1
    return Prediction(
        forward,
        backward,
        host_forward=layers * (steps * device.record + device.operator + device.sync),
        host_backward=layers * device.operator,
        stock_forward=layers * steps * device.stock_forward,
        stock_backward=layers * steps * device.stock_backward,
    )


def group_seconds(row: Row, spikes: Sequence[float], device: Device = H100) -> dict[str, float]:
    """Seconds of each group of native functions in one training step, launches left out."""
    found: dict[str, float] = {}
    prediction = predict(row, spikes, device)
    for kernel in (*prediction.forward, *prediction.backward):
        found[kernel.group] = found.get(kernel.group, 0.0) + kernel.work(device)
    return found


def _compress(row: Row, rows: float) -> Kernel:
    entries, events = rows * row.widths[0], (row.density or 0.01) * rows * row.widths[0]
    # The dense input is read once for its bits, the bits twice; an index is written per event.
    return Kernel("input", "input", memory=_FLOAT * entries + 3 * entries / 8 + 4 * events, launches=4)


def _forward(
    name: str, steps: int, batch: int, inputs: int, width: int, events: float, active: float
) -> list[Kernel]:
    rows, warps = float(steps * batch), batch * -(-width // 32)
    per_step = events / rows
    # Eight loads are in flight at a time; blocks of 16 steps share the last, partly filled round.
    rounds = -(-16 * per_step // 8) / 16
    chain = steps * (rounds * H100.load_latency + H100.step_latency)
    instructions = warps * steps * (60 + 6 * per_step)
    listed = active * rows * width
    scan = Kernel(
        name,
        "forward scan",
        memory=_FLOAT * listed + 2 * rows * width / 8,
        l2=_FLOAT * events * width,
        instructions=instructions,
        chain=chain,
    )
    lists = Kernel(name, "lists", memory=4 * rows * width / 8 + 20 * listed, launches=7)
    return [scan, lists]


def _backward(
    name: str, steps: int, batch: int, width: int, events: float, active: float, below: float
) -> list[Kernel]:
    rows, warps = float(steps * batch), batch * -(-width // 32)
    chunk = max(16, int(0.4 * 50e6 / (_FLOAT * batch * width)) // 16 * 16)
    chunks = -(-steps // chunk)
    listed = active * rows * width
    scan = Kernel(
        name,
        "reverse scan",
        memory=12 * listed,
        l2=_FLOAT * rows * width + 12 * listed,
        instructions=warps * steps * 60,
        chain=steps * H100.step_latency + steps / 16 * 2 * H100.load_latency,
        launches=chunks,
    )
    weight = Kernel(name, "dW", l2=_FLOAT * events * width, memory=16 * events, launches=chunks + 3)
    found = [scan, weight]
    if below:
        # A row of lambda serves every entry of its (t, b); a row of W^T per active entry.
        found.append(
            Kernel(
                name,
                "dx where active",
                l2=_FLOAT * (below + rows) * width,
                memory=8 * below,
                launches=chunks,
            )
        )
    return found


def dense_seconds(row: Row, device: Device = H100, tf32: bool = False) -> float:
    """Device time of a training step of the best dense program.

    A matrix product over all steps per product, and one fused scan per layer each way, which reads or writes
    three floats per entry.
    """
    rows = float(row.steps * row.batch)
    flops = device.flops_tf32 if tf32 else device.flops
    total = 0.0
    for layer, (inputs, width) in enumerate(zip(row.widths, row.widths[1:], strict=False)):
        products = 3 if layer else 2  # no gradient of the data
        total += products * 2 * rows * inputs * width / flops + 2 * 3 * _FLOAT * rows * width / device.memory
    return total


def crossover(device: Device = H100, tf32: bool = False) -> float:
    """Density above which a matrix product beats adding a row of float32 per event."""
    return (2 / (device.flops_tf32 if tf32 else device.flops)) / (_FLOAT / device.l2)


def _measured_spikes(name: str) -> list[float] | None:
    """Spike densities of a row's layers in the newest CPU result that has it."""
    for path in sorted(_RESULTS.glob("cpu-*.json"), reverse=True):
        for result in json.loads(path.read_text())["results"]:
            if result["row"] == name:
                return [layer["spike_density"] for layer in result["layers"]]
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the prediction of each row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--config", default="F,N,S,L", help="rows of Linear layers")
    names = parser.parse_args(argv).config.split(",")
    if not all(name in ROWS and not ROWS[name].channels for name in names):
        parser.error(f"rows are {', '.join(name for name, row in ROWS.items() if not row.channels)}")
    console = Console() if sys.stdout.isatty() else Console(width=118)
    for name in names:
        spikes = _measured_spikes(name) or [0.005] * len(ROWS[name].widths)
        _show(console, name, predict(ROWS[name], spikes), H100)
    console.print(f"matrix products win above {crossover():.1%} events, {crossover(tf32=True):.2%} with TF32")
    return 0


def _show(console: Console, name: str, found: Prediction, device: Device) -> None:
    table = Table(title=f"{name} on {device.name}, predicted", title_justify="left")
    for head in ("kernel", "us", "bound by", "launches"):
        table.add_column(head, justify="left" if head in ("kernel", "bound by") else "right")
    for kernel in (*found.forward, *found.backward):
        table.add_row(
            f"{kernel.layer}: {kernel.group}",
            f"{1e6 * kernel.seconds(device):.0f}",
            kernel.bound(device),
            str(kernel.launches),
        )
    forward, backward = found.totals(device)
    console.print(table)
    pairs = [
        ("forward", found.stock_forward, forward),
        ("backward", found.stock_backward, backward),
        ("step", found.stock_forward + found.stock_backward, forward + backward),
    ]
    for phase, stock, fast in pairs:
        console.print(
            f"{phase:9} stock {1e3 * stock:6.1f} ms, accelerated {1e3 * fast:5.2f} ms, {stock / fast:4.0f}x",
            highlight=False,
        )
    kernels = sum(kernel.seconds(device) for kernel in (*found.forward, *found.backward))
    dense, tf32 = (1e3 * dense_seconds(ROWS[name], device, allowed) for allowed in (False, True))
    console.print(
        f"on the device {1e3 * kernels:.2f} ms; a fused dense program {dense:.2f} ms, {tf32:.2f} with TF32",
        highlight=False,
    )
    console.print(
        f"of it, the host takes {1e3 * found.host_forward:.1f} ms in the forward pass\n",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())
