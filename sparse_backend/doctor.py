"""`python -m sparse_backend doctor`: what is installed, which kernels run, and what is missing and why."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from .errors import ArgumentError
from .ops import calibration, memory
from .ops.cuda_place import code_for
from .options import native_allowed

__all__ = ["Finding", "examine", "main"]

State = Literal["ok", "missing", "note"]
_MARKS: dict[State, tuple[str, str]] = {
    "ok": ("yes", "green"),
    "missing": ("no", "yellow"),
    "note": ("-", "dim"),
}
_EXTRAS = {
    "snntorch": "snntorch",
    "norse": "norse",
    "rich": "examples",
    "matplotlib": "examples",
    "scikit-learn": "examples",
}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is there, and what to know or do about it."""

    subject: str
    state: State
    text: str


def examine() -> list[Finding]:
    """Look at Python, torch, the neuron libraries, the native modules, the GPU and the environment."""
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.machine()} {platform.system()}"),
        Finding("sparse_backend", "ok", _package_version()),
        Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        *(_distribution(name) for name in _EXTRAS),
        *_adapters(),
        _cpu_module(),
        _cost_model(),
        _allocator(),
        _recorder_module(),
        _cuda_module(),
        _gpu(),
        *_environment(),
    ]


def main(argv: Sequence[str]) -> int:
    """The command line; returns 0 if the native CPU kernels and a neuron library are there, else 1."""
    parser = argparse.ArgumentParser(prog="python -m sparse_backend doctor", description=__doc__)
    parser.parse_args(argv)
    findings = examine()
    _show(findings)
    state = {finding.subject: finding.state for finding in findings}
    libraries = [finding for finding in findings if finding.subject.endswith(" adapter")]
    working = state["CPU kernels"] == "ok" and any(finding.state == "ok" for finding in libraries)
    return 0 if working else 1


def _show(findings: list[Finding]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            print(f"{finding.subject:{width}}  {_MARKS[finding.state][0]:3}  {finding.text}")
        return
    table = Table("", "there", "", title="sparse_backend doctor", title_justify="left")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        table.add_row(finding.subject, f"[{style}]{mark}[/]", finding.text.replace("[", r"\["))
    console = Console()
    (console if console.is_terminal else Console(width=118)).print(table)


def _package_version() -> str:
    import sparse_backend

    return f"{sparse_backend.__version__} in {os.path.dirname(sparse_backend.__file__)}"


def _distribution(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", f"pip install 'sparse-backend[{_EXTRAS[name]}]'")


def _adapters() -> list[Finding]:
    from .adapters import adapters, unavailable

    there = [Finding(f"{adapter.name} adapter", "ok", "ready") for adapter in adapters(idle=True)]
    missing = unavailable(idle=True)
    return there + [Finding(f"{name} adapter", "missing", reason) for name, reason in missing.items()]


def _cpu_module() -> Finding:
    subject = "CPU kernels"
    try:
        if not native_allowed():
            return Finding(subject, "missing", "SPARSE_BACKEND_NATIVE rules them out; plain torch is used")
    except ArgumentError as error:
        return Finding(subject, "missing", str(error))
    try:
        module: Any = importlib.import_module("sparse_backend._cpu")
    except ImportError as error:
        return Finding(subject, "missing", f"{_absence('_cpu', error)}; plain torch is used, slowly")
    try:
        return Finding(subject, "ok", f"instruction set {module.isa()} of {', '.join(module.isas())}")
    except ValueError as error:
        return Finding(subject, "missing", f"SPARSE_BACKEND_ISA: {error}")


def _recorder_module() -> Finding:
    subject = "native recorder"
    try:
        allowed = native_allowed()
        importlib.import_module("sparse_backend._recording")
    except ArgumentError as error:
        return Finding(subject, "missing", str(error))
    except ImportError as error:
        return Finding(subject, "missing", f"{_absence('_recording', error)}; loops are recorded by Python")
    if not allowed:
        return Finding(subject, "missing", "SPARSE_BACKEND_NATIVE rules it out; loops are recorded by Python")
    return Finding(subject, "ok", "ordinary steps of a loop are taken up in C++")


def _cost_model() -> Finding:
    try:
        return Finding("CPU cost model", "note", calibration.describe())
    except ArgumentError as error:
        return Finding("CPU cost model", "note", str(error))


def _allocator() -> Finding:
    subject = "freed memory"
    try:
        return Finding(subject, "note", memory.describe())
    except ArgumentError as error:
        return Finding(subject, "note", str(error))


def _cuda_module() -> Finding:
    subject = "CUDA kernels"
    try:
        module: Any = importlib.import_module("sparse_backend._cuda")
    except ImportError as error:
        return Finding(subject, "missing", _absence("_cuda", error))
    return Finding(subject, "ok", f"built for {module.ARCHITECTURES.replace(',', ', ')}")


def _absence(name: str, error: ImportError) -> str:
    if importlib.util.find_spec(f"sparse_backend.{name}") is not None:
        return f"built, but cannot be loaded: {error}"
    tool = "a C++ compiler" if name != "_cuda" else "nvcc"
    return f"not built: {tool} was not found when the package was installed; install it and install again"


def _gpu() -> Finding:
    if not torch.version.cuda:
        return Finding(
            "GPU", "note", "this torch is built without CUDA; install a CUDA build of torch to use a GPU"
        )
    if not torch.cuda.is_available():
        return Finding(
            "GPU", "note", f"torch (CUDA {torch.version.cuda}) sees none; is there a driver? nvidia-smi tells"
        )
    major, minor = torch.cuda.get_device_capability()
    name = f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
    try:
        module: Any = importlib.import_module("sparse_backend._cuda")
    except ImportError:
        return Finding(
            "GPU", "missing", f"{name}; without CUDA kernels its layers run in plain torch, slowly"
        )
    fits, how = code_for(module.ARCHITECTURES, (major, minor))
    return Finding("GPU", "ok" if fits else "missing", f"{name}; {how}")


def _environment() -> list[Finding]:
    found = sorted(name for name in os.environ if name.startswith("SPARSE_BACKEND_"))
    return [Finding(name, "note", f"set to {os.environ[name]!r}") for name in found]
