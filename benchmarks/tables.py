"""A measurement as tables and lines on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from .timing import PHASES, Ratio
from .worst import TARGET

__all__ = ["show", "show_sweep", "show_worst"]


def show(console: Console, result: dict[str, Any], title: str) -> None:
    """Print one row: its check, and where that holds timings, activity, memory and kernels."""
    agreement = result["agreement"]
    if result["agrees"]:
        console.print(_timings(result, title))
    else:
        console.print(f"{title}\n[bold red]differs from stock: no speed is shown")
    lines = [
        f"spikes: {agreement['diverged']} of {agreement['batch']} batch elements diverge and are left out",
        *(
            [
                f"gradients: rounding decides a maximum or an edge of the window in {agreement['undecided']} "
                "more, which are left out as well"
            ]
            if agreement["undecided"]
            else []
        ),
        f"gradients: relative difference {agreement['gradient']:.1e}, cosine {agreement['cosine']:.6f}",
        f"input density {_percent(result['input_density'])}; weight gains "
        + (", ".join(f"{entry['gain']:.2f}" for entry in result["gains"]) or "none"),
    ]
    if "losses" in result:
        first = ", ".join(f"{side} {losses[0]:.7g}" for side, losses in result["losses"].items())
        lines.append(f"loss of the scripts' first step: {first}")
    if result["agrees"]:
        lines += _activity(result)
        if "recording" in result:
            lines.append(_recording(result["recording"]))
        if "peak_memory" in result:
            lines.append(f"peak memory of a step: {_memory(result['peak_memory'])}")
        if "peak_memory_with_spikes" in result:
            lines.append(f"with all layers' spikes kept: {_memory(result['peak_memory_with_spikes'])}")
        lines += [_peer(name, peer) for name, peer in result["peers"].items()]
        lines.append(_repeats(result))
    console.print("\n".join(lines), markup=False, highlight=False)
    if "kernels" in result:
        console.print(_kernels(result))
    if "least" in result:
        console.print(_least(result), markup=False, highlight=False)
    if "functions" in result:
        console.print(_functions(result))


def show_sweep(console: Console, results: list[dict[str, Any]], over: str) -> None:
    """Print a sweep: a line per value."""
    sides = list(next((r["seconds"] for r in results if r["agrees"]), {}))
    table = Table(title=f"step, ms, over {over}; gradient {results[0]['gradient']}", title_justify="left")
    for head in (over, *sides, "stock / accelerated", "active", "input density"):
        table.add_column(head, justify="right")
    for result in results:
        if not result["agrees"]:
            table.add_row(f"{result['value']:g}", "differs", style="red")
            continue
        seconds = result["seconds"]
        table.add_row(
            f"{result['value']:g}",
            *(f"{1e3 * seconds[side]['step']:.2f}" if side in seconds else "-" for side in sides),
            str(Ratio(**result["ratios"]["stock"]["step"])),
            "/".join(_percent(layer["active_fraction"]) for layer in result["layers"]),
            _percent(result["input_density"]),
        )
    console.print(table)


def show_worst(console: Console, results: list[dict[str, Any]]) -> None:
    """Print accelerated time over stock's, by the medians and in the best and worst repeat."""
    table = Table(title=f"accelerated / stock, target at most {TARGET}", title_justify="left")
    for head in ("case", "gradient", "stock, ms", "accelerated, ms", "step", "range", "spikes differ in"):
        table.add_column(head, justify="left" if head in ("case", "gradient") else "right")
    for result in results:
        agreement = result["agreement"]
        flips = f"{agreement['diverged']} of {agreement['batch']}"
        if not result["agrees"]:
            table.add_row(result["row"], result["gradient"], "differs", "", "", "", flips, style="red")
            continue
        step = result["ratios"]["stock"]["step"]
        slower = 1 / step["median"]
        table.add_row(
            *(result["row"], result["gradient"]),
            *(f"{1e3 * result['seconds'][side]['step']:.2f}" for side in ("stock", "accelerated")),
            f"{slower:.2f}x",
            f"{1 / step['high']:.2f}-{1 / step['low']:.2f}",
            flips,
            style="yellow" if slower > TARGET else None,
        )
    console.print(table)


def _timings(result: dict[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for head in ("", *PHASES):
        table.add_column(head, justify="right" if head else "left")
    for side, seconds in result["seconds"].items():
        table.add_row(f"{side}, ms", *(f"{1e3 * seconds[phase]:.2f}" for phase in PHASES))
    for side, ratios in result["ratios"].items():
        shown = (str(Ratio(**ratios[phase])) for phase in PHASES)
        table.add_row(f"{side} / accelerated", *shown, style="bold" if side == "stock" else None)
    return table


def _activity(result: dict[str, Any]) -> list[str]:
    lines = []
    for layer in result["layers"]:
        active, spikes = _percent(layer["active_fraction"]), _percent(layer["spike_density"])
        forms = ", ".join(f"{product} {'/'.join(kinds)}" for product, kinds in layer["algorithms"].items())
        lines.append(f"{layer['name']}: {active} active, {spikes} spikes; {forms}")
    return lines


def _repeats(result: dict[str, Any]) -> str:
    if "rounds" not in result:
        return f"medians of {result['repeats']} training steps, ratios with their range over the steps"
    return (
        f"medians of {result['rounds']} processes of each side, of {result['repeats']} training steps each; "
        "ratios with their range over the processes"
    )


def _peer(name: str, peer: dict[str, Any]) -> str:
    if peer["missing"]:
        return f"{name}: left out; {peer['missing']}"
    if not peer["agrees"]:
        found = peer["agreement"]
        difference = f"gradients by {found['gradient']:.1e}" if found else "gradients are missing"
        return f"{name}: differs from stock, left out; {difference}"
    agreement = peer["agreement"]
    if agreement is None:
        return f"{name}: {peer['note']}; only its shapes are compared"
    return f"{name}: {peer['note']}; gradients differ by {agreement['gradient']:.1e} from stock's"


def _recording(found: dict[str, Any]) -> str:
    if found["broken_by"]:
        return f"recording: broken by {found['broken_by']}"
    return f"recording: {1e3 * found['seconds']:.2f} ms, {found['microseconds']:.1f} us per layer and step"


def _memory(peaks: dict[str, int | None]) -> str:
    stock, fast = peaks["stock"], peaks["accelerated"]
    if stock is None or fast is None:
        return "unknown on this system"
    share = f", {fast / stock:.1%} of stock" if stock else ""
    return f"stock {stock / 2**20:.0f} MiB, accelerated {fast / 2**20:.0f} MiB{share}"


def _kernels(result: dict[str, Any]) -> Table:
    """The operator calls of one step; what is left of the step is recording, autograd and Python."""
    table = Table(title="operators of a step, ms", title_justify="left")
    for head in ("operator", "forms"):
        table.add_column(head)
    for head in ("time", "in kernels", "floor", "over floor"):
        table.add_column(head, justify="right")
    for entry in result["kernels"]:
        inside = sum(entry["native"].values())
        table.add_row(
            f"{entry['count']} x {entry['kernel']}" if entry["count"] > 1 else entry["kernel"],
            entry["forms"],
            f"{1e3 * entry['seconds']:.2f}",
            f"{1e3 * inside:.2f}" if entry["native"] else "-",
            "-" if entry["floor"] is None else f"{1e3 * entry['floor']:.2f}",
            "-" if entry["over_floor"] is None else f"{entry['over_floor']:.1f}x",
        )
    return table


def _least(result: dict[str, Any]) -> str:
    least = result["least"]
    parts = " + ".join(f"{part} {1e3 * least[part]:.2f}" for part in ("operators", "loss", "optimizer"))
    most = result["seconds"]["stock"]["step"] / least["step"]
    return f"floors: {parts} = {1e3 * least['step']:.2f} ms, without the loop and Python; at most {most:.0f}x"


def _functions(result: dict[str, Any]) -> Table:
    """On a GPU: device time of the native functions of one step, against what was predicted."""
    table = Table(title="native functions of a step, us on the device", title_justify="left")
    for head in ("", "time", "calls", "predicted", "over prediction"):
        table.add_column(head, justify="right" if head else "left")
    predicted = result.get("predicted", {})
    for group, entry in result["functions"].items():
        floor = predicted.get(group)
        table.add_row(
            group,
            f"{1e6 * entry['seconds']:.0f}",
            f"{entry['calls']:.0f}",
            f"{1e6 * floor:.0f}" if floor else "-",
            f"{entry['seconds'] / floor:.1f}x" if floor else "-",
        )
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
