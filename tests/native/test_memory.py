"""The pool of blocks: reused, bounded, and alive as long as a tensor needs it."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from sparse_backend.ops import memory

from .native_layer import _cpu

MIB = 1 << 20
DEFAULT = 512 * MIB


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    gc.collect()
    _cpu.drop_pooled_memory()
    yield
    _cpu.limit_pooled_memory(DEFAULT)
    _cpu.drop_pooled_memory()


def test_a_block_is_used_again_when_its_last_tensor_has_died() -> None:
    first = memory.empty((MIB, 3), torch.float32)
    where, part = first.data_ptr(), first[5:7]
    assert first.shape == (MIB, 3) and first.is_contiguous() and where % 64 == 0
    part.fill_(2)
    del first
    assert _cpu.pooled_memory() == 0  # part still shares the memory
    assert memory.empty((MIB, 3), torch.float32).data_ptr() != where
    other = _cpu.pooled_memory()
    assert other >= 12 * MIB
    assert float(part.sum()) == 12
    del part
    assert _cpu.pooled_memory() == 2 * other
    assert memory.empty((3, MIB // 2), torch.float64).data_ptr() == where


def test_the_pool_is_bounded_and_can_be_dropped() -> None:
    _cpu.limit_pooled_memory(10 * MIB)
    sizes = [memory.empty((size * MIB,), torch.uint8) for size in (2, 3, 4, 9)]
    while sizes:
        del sizes[0]
        assert _cpu.pooled_memory() <= 10 * MIB
    assert _cpu.pooled_memory() >= 9 * MIB  # the latest is kept, the oldest went
    _cpu.limit_pooled_memory(0)
    assert _cpu.pooled_memory() == 0
    _cpu.limit_pooled_memory(DEFAULT)
    _ = memory.empty((2 * MIB,), torch.uint8), memory.drop()
    del _
    assert _cpu.pooled_memory() > 0
    memory.drop()
    assert _cpu.pooled_memory() == 0


def test_a_larger_block_serves_a_smaller_request_but_not_a_tiny_one() -> None:
    large, small = memory.empty((9 * MIB,), torch.uint8), memory.empty((4 * MIB,), torch.uint8)
    places = [large.data_ptr(), small.data_ptr()]
    del large, small
    kept = _cpu.pooled_memory()
    first = memory.empty((3 * MIB + MIB // 2,), torch.uint8)
    assert first.data_ptr() == places[1]  # the smaller of the two that are large enough
    second = memory.empty((3 * MIB + MIB // 2,), torch.uint8)
    assert second.data_ptr() == places[0] and _cpu.pooled_memory() == 0
    del first, second
    assert _cpu.pooled_memory() == kept  # whole blocks come back
    tiny = [memory.empty((MIB,), torch.uint8) for _ in range(2)]
    assert tiny[0].data_ptr() not in places[:1] and tiny[1].data_ptr() not in places[:1]


def test_small_tensors_are_torchs_own() -> None:
    small = memory.empty((10, 10), torch.float32)
    del small
    assert _cpu.pooled_memory() == 0
    assert memory.empty((0, 4), torch.float64).shape == (0, 4)


def test_blocks_come_and_go_from_several_threads() -> None:
    def churn(value: int, wrong: list[int]) -> None:
        for turn in range(40):
            tensor = memory.empty((MIB + 4096 * (turn % 3),), torch.uint8)
            tensor[::4096] = value
            if int(tensor[::4096].max()) != value or int(tensor[::4096].min()) != value:
                wrong.append(value)

    wrong: list[int] = []
    threads = [threading.Thread(target=churn, args=(value, wrong)) for value in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FAULTS = """
import resource, statistics
import torch
from sparse_backend.ops import memory
from sparse_backend.ops.native_call import module
module()
print(memory.keep_freed())
def step():
    gradients = [torch.ones(3 << 18) for _ in range(8)]  # 3 MiB each
    total = sum(gradients)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# The median, because the heap may still grow once or twice before it holds a whole step.
print(statistics.median(faults() for _ in range(21)))
print(memory.describe())
"""


def _run(**variables: str) -> tuple[bool, float, str]:
    """Whether freed memory is kept, page faults of a step, and what `describe` says."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={**known, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    kept, faults, text = run.stdout.splitlines()
    return kept == "True", float(faults), text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own rules")
def test_what_torch_frees_in_a_step_serves_the_next() -> None:
    kept, faults, text = _run()
    assert kept and "256 MiB" in text
    assert faults < 100  # of 24 MiB in pages of 4 KiB: 6,144
    theirs = "MALLOC_TRIM_THRESHOLD_"
    kept, faults, text = _run(**{theirs: str(1 << 17)})
    assert not kept and theirs in text
    assert faults > 1000  # as the user has set it, the heap's end goes back to the system each time
    kept, _, text = _run(GLIBC_TUNABLES="glibc.malloc.arena_max=4")
    assert not kept and "GLIBC_TUNABLES" in text
    kept, _, text = _run(SPARSE_BACKEND_NATIVE="1", GLIBC_TUNABLES="glibc.cpu.x86_ibt=off")
    assert kept


def test_a_block_above_the_bound_leaves_the_others_where_they_are() -> None:
    _cpu.limit_pooled_memory(10 * MIB)
    kept, large = memory.empty((4 * MIB,), torch.uint8), memory.empty((20 * MIB,), torch.uint8)
    del kept
    before = _cpu.pooled_memory()
    del large
    assert _cpu.pooled_memory() == before >= 4 * MIB


@pytest.mark.parametrize("size", [2**62, 2**63 - 1, 2**64 - 1])
def test_a_size_beyond_all_memory_is_refused(size: int) -> None:
    with pytest.raises(MemoryError):
        _cpu.Block(size)


_SCARCE = """
import ctypes, resource, sys, torch
from sparse_backend.ops import cpu
from sparse_backend.neurons import Coefficients, Neuron, NeuronSpec
from sparse_backend.ops.sequence import GradientRule, LinearFeed, run_layer

torch.set_num_threads(2)
steps, batch, inputs = 40, 32, 6000
x = torch.full((steps, batch, inputs), 2.0)
zero = torch.zeros(())
neuron = Neuron(NeuronSpec(pre="subtract"), Coefficients.of(zero, membrane=0.9, threshold=1e-3))
feed = LinearFeed(torch.ones(2000, inputs, requires_grad=True))
sparse = (torch.rand(steps, batch, inputs) < 0.001).float()

def forward():
    state, rule = (torch.zeros(batch, 2000),), GradientRule("window", 9e9)
    return run_layer(sparse, feed, neuron, state, steps=steps, rule=rule).spikes.idx.sum()

def compress():
    return cpu.compress(x, 1.0)[2].sum()

hard = resource.getrlimit(resource.RLIMIT_AS)[1]

def grow():
    # Steps for which there was no memory are shown again, once there is.
    growing, failed = cpu.module().GrowingEvents(batch, inputs, cpu.module().FLOAT32, 2), None
    for t, step in enumerate(x):
        try:
            growing.add(t, step.data_ptr(), step.stride(0), 2)
        except MemoryError as error:
            failed = error
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            growing.add(t, step.data_ptr(), step.stride(0), 2)
    val = cpu.lists(growing.finish(steps, 2), steps * batch, x.dtype)[2]
    assert val.numel() == x.numel()
    if failed:
        raise failed
    return val.sum()

want = {call: call() for call in (compress, forward, grow)}
failed = done = 0
for extra in range(0, 240, 8):
    for call in want:
        cpu.module().drop_pooled_memory()
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc keeps what was freed
        held = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (held + (extra << 20), hard))
        try:
            assert call() == want[call]
            done += 1
        except (MemoryError, RuntimeError) as error:  # the latter is torch's
            assert isinstance(error, MemoryError) or "memory" in str(error), error
            failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print(failed, done)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on address space is Linux's")
def test_where_memory_ends_calls_fail_and_nothing_else() -> None:
    """Lists that cannot grow raise MemoryError whichever thread finds it, and later calls work."""
    run = subprocess.run(
        [sys.executable, "-c", _SCARCE], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, f"{run.returncode}: {run.stderr[-2000:]}"
    failed, done = map(int, run.stdout.split())
    assert failed >= 5 and done >= 5
