"""What `doctor` says of a device and a build that may not fit it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_backend.doctor import examine
from sparse_backend.ops.cuda_place import code_for


@pytest.mark.parametrize(
    ("architectures", "capability", "state", "says"),
    [
        ("80-real,90", (8, 0), "ok", "sm_80"),
        ("80-real,90", (8, 9), "ok", "sm_80"),
        ("80-real,90", (9, 0), "ok", "sm_90"),
        ("80-real,90", (12, 0), "ok", "compute_90"),
        ("80-real,90", (7, 5), "missing", "plain torch"),
        ("80-real,90-real", (12, 0), "missing", "plain torch"),
        ("80,90-real", (10, 0), "ok", "compute_80"),
        ("86-real", (8, 0), "missing", "plain torch"),
    ],
)
def test_code_for_a_device(architectures: str, capability: tuple[int, int], state: str, says: str) -> None:
    fits, text = code_for(architectures, capability)
    assert fits == (state == "ok") and says in text


@pytest.mark.host
def test_an_unknown_instruction_set_is_a_finding(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "sparse_backend", "doctor"],
        env=os.environ | {"SPARSE_BACKEND_ISA": "x86-64-v9", "SPARSE_BACKEND_COSTS": str(tmp_path / "costs")},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in run.stderr
    assert "x86-64-v9" in run.stdout and "must be auto or one of" in " ".join(run.stdout.split())


def test_every_finding_has_a_text() -> None:
    findings = examine()
    assert {"python", "torch", "CPU kernels", "CUDA kernels", "GPU"} <= {f.subject for f in findings}
    assert all(finding.text for finding in findings)
