"""What each CUDA kernel takes of a multiprocessor: registers, shared memory, stack and spills, from ptxas.

    python src_cuda/resources.py [OUT]      prints the table; writes it to OUT as well

One line per kernel, architecture and precision; the kernels of the neuron family, compiled once per
structure, are summed up as a range.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ARCHITECTURES = ("sm_80", "sm_90")
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Werror=all-warnings", "-Xptxas=-v"]
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)'")
NAME = re.compile(r"\d+([a-z_]+_kernel)")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclass
class Resources:
    """Of all compiled variants of one kernel."""

    registers: list[int] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    spills: list[int] = field(default_factory=list)


def variant(mangled: str, kernel: str) -> str:
    """What a kernel is compiled for: the last of its template arguments, which is a type of numbers."""
    arguments, template, _ = mangled[mangled.index(kernel) + len(kernel) :].partition("EEv")
    last = arguments.rstrip("E")
    if not template or not arguments.startswith("I"):
        return "-"
    if last.endswith(("Half", "BFloat")):
        return "2 bytes"
    return {"d": "double", "f": "float", "h": "1 byte"}[last[-1]]


def measure() -> dict[tuple[str, str, str], Resources]:
    """Compile every kernel source for every architecture and read what ptxas says."""
    found: dict[tuple[str, str, str], Resources] = defaultdict(Resources)
    with tempfile.TemporaryDirectory() as scratch:
        for source in sorted((FOLDER / "cuda").glob("*.cu")):
            codes = [f"-gencode=arch=compute_{arch[3:]},code={arch}" for arch in ARCHITECTURES]
            command = ["nvcc", *FLAGS, *codes, "-c", str(source), "-o", f"{scratch}/kernel.o"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            current = Resources()
            for line in done.stderr.splitlines():
                if entry := ENTRY.search(line):
                    mangled, arch = entry.groups()
                    kernel = NAME.findall(mangled)[0]
                    current = found[kernel, arch, variant(mangled, kernel)]
                elif used := STACK.search(line):
                    current.stack.append(int(used[1]))
                    current.spills.append(int(used[2]) + int(used[3]))
                elif used := USED.search(line):
                    current.registers.append(int(used[1]))
                    current.shared.append(int(used[2] or 0))
    return found


def span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def table(found: dict[tuple[str, str, str], Resources]) -> str:
    columns = ("kernel", "arch", "for", "variants", "registers", "shared B", "stack B", "spilled B")
    rows = [columns]
    for (kernel, arch, real), r in sorted(found.items()):
        rows.append(
            (
                kernel,
                arch,
                real,
                str(len(r.registers)),
                *map(span, (r.registers, r.shared, r.stack, r.spills)),
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(columns))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = table(measure())
    print(text, end="")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)
