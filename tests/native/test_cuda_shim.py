"""The shim that runs CUDA kernels on the host: what it must notice, and the kernels under the address
sanitizer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import host_build

PROGRAM = """
#include <cuda_runtime_api.h>
#include <cstdio>
#include <stdexcept>

__global__ void kernel(int* out) {
    __shared__ int shared[64];
    const int lane = int(threadIdx.x % 32);
    BODY
}

int main() {
    int out[64] = {};
    try {
        SB_LAUNCH((kernel), 1, 64, nullptr, out);
    } catch (const std::logic_error& error) {
        std::puts(error.what());
        return 1;
    }
    for (int k = 0; k < 64; ++k) std::printf("%d ", out[k]);
}
"""


def run_kernel(body: str, folder: Path) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is needed to build kernels for the host")
    source, program = folder / "kernel.cpp", folder / "kernel"
    source.write_text(PROGRAM.replace("BODY", body))
    files = [str(source), str(host_build.SHIM / "shim.cpp"), "-o", str(program)]
    subprocess.run([compiler, "-std=c++17", "-O1", f"-isystem{host_build.SHIM}", *files], check=True)
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 40) __syncthreads();", "waits at __syncthreads for threads that do not come"),
        ("if (threadIdx.x == 7) return; __syncthreads(); out[0] = lane;", "63 of 64|1 of 64"),
        ("if (lane < 5) out[0] = __ballot_sync(0xFFFFFFFFu, true);", "waits at __ballot_sync"),
        ("if (lane < 5) __syncwarp(); else out[0] = __shfl_sync(0xFFFFFFFFu, lane, 0);", "meets"),
        ("if (lane < 5) __syncwarp(0xFF); else __syncwarp(0xFFFFFFFFu);", "meets __syncwarp within a warp"),
        ("__syncwarp(1);", "the caller is not in its mask"),
    ],
    ids=[
        "branch-around-barrier",
        "early-return",
        "partial-warp",
        "two-collectives",
        "two-masks",
        "not-in-mask",
    ],
)
def test_threads_that_never_meet_fail_the_launch(tmp_path: Path, body: str, message: str) -> None:
    done = run_kernel(body, tmp_path)
    assert done.returncode == 1, done
    assert "kernel (kernel), block 0" in done.stdout and re.search(message, done.stdout), done.stdout


def test_collectives(tmp_path: Path) -> None:
    body = """ shared[threadIdx.x] = int(threadIdx.x); __syncthreads(); const int mirrored = shared[63 -
    threadIdx.x]; int sum = lane; for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu,
    sum, step); const unsigned odd = __ballot_sync(0xFFFFFFFFu, lane % 2 == 1), same =
    __match_any_sync(0xFFFFFFFFu, lane % 4); const bool right = mirrored == 63 - int(threadIdx.x) && sum ==
    496 && odd == 0xAAAAAAAAu &&
                       same == 0x11111111u << (lane % 4) && __shfl_sync(0xFFFFFFFFu, 2.5 * lane, 4) == 10.0;
    if (lane < 8) __syncwarp(0xFF);
    out[threadIdx.x] = right;
    """
    assert run_kernel(body, tmp_path).stdout.split() == ["1"] * 64


def test_a_missing_barrier_shows(tmp_path: Path) -> None:
    """Threads run in another order at the next launch, so that what depends on the order differs."""
    body = "shared[threadIdx.x] = int(threadIdx.x) + 1; out[threadIdx.x] = shared[(threadIdx.x + 1) % 64];"
    once = run_kernel(body, tmp_path).stdout.split()
    assert once != [str((k + 1) % 64 + 1) for k in range(64)]


def library_of(compiler: str, name: str) -> Path | None:
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    return path if path.is_absolute() else None


def test_kernels_under_the_address_sanitizer() -> None:
    """In a process of its own, which has the sanitizer from its start: kernels on tensors of exact sizes."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ on Linux")
    preloaded = [library_of(compiler, name) for name in ("libasan.so", "libstdc++.so")]
    if None in preloaded:
        pytest.skip("this g++ has no address sanitizer")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(map(str, preloaded)),
        "ASAN_OPTIONS": "detect_leaks=0",
        "SPARSE_BACKEND_SHIM": "address",
    }
    root = host_build.ROOT
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(root / "tests/ops/test_cuda.py"),
    ]
    selected = "test_widths or atan or any or join_between or capture or room or inverse"
    done = subprocess.run(
        [*command, "-k", selected], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
