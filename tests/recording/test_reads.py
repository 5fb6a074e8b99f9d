"""Everything that reads a tensor, on recorded ones."""

from __future__ import annotations

import copy
import io
import operator
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_backend import recording
from sparse_backend.recording import sequences

from .conftest import BATCH, OUTPUTS, STEPS, Net, Twins, record

READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda d: d.sum().item(),
    "item of an entry": lambda d: d[0, 0].item(),
    "float": lambda d: float(d[1, 1].detach()),
    "bool": lambda d: bool((d > 0.1).any()),
    "len": len,
    "iter": lambda d: [row.sum() for row in d],
    "unpack": lambda d: (lambda a, *rest: a + sum(rest))(*d),
    "in": lambda d: 123.0 in d,
    "index": lambda d: d[1:3, ::2],
    "mask": lambda d: d[d > 0.1],
    "repr": repr,
    "str": str,
    "format": lambda d: f"{d[0, 0]:.3f} {d.mean():.2f}",
    "tolist": lambda d: d.tolist(),
    "numpy": lambda d: d.detach().numpy().copy(),
    "array": lambda d: np.asarray(d.detach()).copy(),
    "array of a list": lambda d: np.stack([np.asarray(v) for v in d.detach()]),
    "to": lambda d: d.to(torch.float64),
    "to same": lambda d: d.to("cpu"),
    "half": lambda d: d.half(),
    "double": lambda d: d.double(),
    "long": lambda d: d.long(),
    "cpu": lambda d: d.cpu(),
    "contiguous": lambda d: d.contiguous().is_contiguous(),
    "equal": lambda d: torch.equal(d, d.clone()),
    "allclose": lambda d: torch.allclose(d, d * 1),
    "==": lambda d: d == d.clone(),
    "compare": lambda d: (d > 0.2).sum(),
    "max": lambda d: d.max(1),
    "argmax": lambda d: d.argmax(1),
    "topk": lambda d: d.topk(2).values,
    "sort": lambda d: torch.sort(d, dim=1)[0],
    "chunk": lambda d: d.chunk(2, 1),
    "split": lambda d: torch.split(d, [1, OUTPUTS - 1], dim=1),
    "unbind": lambda d: torch.unbind(d, 1),
    "cumsum": lambda d: d.cumsum(0),
    "where": lambda d: torch.where(d > 0),
    "nonzero": lambda d: d.nonzero(),
    "transpose": lambda d: d.t() @ d,
    "matmul": lambda d: d @ torch.ones(OUTPUTS, 2),
    "rmatmul": lambda d: torch.ones(2, BATCH) @ d,
    "radd": lambda d: 1 + d,
    "rsub": lambda d: 1 - d,
    "rtruediv": lambda d: 1 / (1 + d.abs()),
    "pow": lambda d: d**2,
    "neg": lambda d: -d,
    "sum of a list": lambda d: sum([d, d, d]),
    "max of floats": lambda d: max(d.flatten().tolist()),
    "softmax": lambda d: torch.softmax(d, -1),
    "permute": lambda d: d.permute(1, 0),
    "expand": lambda d: d.expand(3, BATCH, OUTPUTS),
    "repeat": lambda d: d.repeat(2, 1),
    "view_as": lambda d: d.view_as(torch.zeros(BATCH, OUTPUTS)),
    "view dtype": lambda d: d.detach().view(torch.int32),
    "unflatten": lambda d: d.unflatten(1, (2, 2)),
    "squeeze": lambda d: d.unsqueeze(0).squeeze().squeeze(0),
    "stride": lambda d: (d.stride(), d.storage_offset(), d.is_contiguous()),
    "data_ptr": lambda d: d.data_ptr() != 0,
    "storage": lambda d: d.detach().clone().untyped_storage().nbytes(),
    "copy": lambda d: copy.copy(d.detach()),
    "deepcopy": lambda d: copy.deepcopy(d.detach()),
    "pickle": lambda d: pickle.loads(pickle.dumps(d.detach())),
    "save": lambda d: torch.save(d.detach(), io.BytesIO()),
    "hash": lambda d: {d: 1}[d],
    "id": lambda d: id(d) == id(d),
    "weakref": lambda d: weakref.ref(d)() is d,
    "isinstance": lambda d: isinstance(d, Tensor) and torch.is_tensor(d),
    "grad": lambda d: d.detach().grad,
    "grad_fn": lambda d: d.grad_fn is not None,
    "metadata": lambda d: (
        d.shape,
        d.size(0),
        d.dim(),
        d.numel(),
        d.dtype,
        d.device,
        d.requires_grad,
        d.is_leaf,
    ),
    "more metadata": lambda d: (
        d.ndim,
        d.nelement(),
        d.element_size(),
        d.is_floating_point(),
        d.layout,
        d.is_sparse,
    ),
    "like": lambda d: (torch.zeros_like(d), torch.ones_like(d, dtype=torch.int64), torch.full_like(d, 3.0)),
    "rand_like": lambda d: (torch.rand_like(d), torch.randn_like(d).shape, torch.empty_like(d).shape),
    "new": lambda d: (
        d.new_zeros(3),
        d.new_full((2,), 5.0),
        d.new_tensor([1.0]),
        d.new_ones(2, dtype=torch.int32),
    ),
    "type": lambda d: d.type(),
    "type_as": lambda d: torch.ones(2, dtype=torch.float64).type_as(d),
    "result_type": lambda d: torch.result_type(d, 1.0),
    "broadcast_shapes": lambda d: torch.broadcast_tensors(d, torch.zeros(1, OUTPUTS)),
    "std_mean": lambda d: torch.std_mean(d, 0),
    "operator": lambda d: operator.iadd(d.clone(), 1),
    "norm": lambda d: d.norm(),
    "user attribute": lambda d: setattr(d, "note", "kept") or d.note,
    "clone": lambda d: d.clone(),
}


def plain(value: Any) -> Any:
    """Numbers, arrays and tensors in a form that can be compared."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value


@pytest.mark.parametrize("which", ["spk2", "mem2"])
@pytest.mark.parametrize("step", [3, STEPS - 1])
@pytest.mark.parametrize("read", READS)
def test_a_read_gives_what_stock_gives(net: Twins, x: Tensor, read: str, step: int, which: str) -> None:
    seen: list[Any] = []

    def loop(model: Net, x: Tensor) -> list[Any]:
        kept = record(model, x)
        torch.manual_seed(5)
        value = plain(READS[read](getattr(kept, which)[step]))
        seen.append(value)
        return [value if isinstance(value, (Tensor, tuple, list)) else (), torch.stack(kept.spk2)]

    net.check(loop, x)
    reference, value = seen
    if not isinstance(value, (Tensor, tuple, list)):
        if isinstance(value, str):
            # The name of the last operation differs, the numbers do not.
            value, reference = (text.partition("grad_fn")[0] for text in (value, reference))
        assert value == pytest.approx(reference, rel=1e-4) if isinstance(value, float) else value == reference


@pytest.mark.parametrize(
    "read",
    ["metadata", "more metadata", "like", "rand_like", "new", "len", "hash", "id", "weakref", "isinstance"],
)
def test_questions_that_need_no_value_do_not_flush(net: Twins, x: Tensor, read: str) -> None:
    kept = record(net.fast, x)
    READS[read](kept.mem2[3])
    assert recording.is_deferred(kept.mem2[3]) and not recording.flush_reasons()


def test_a_printed_value_keeps_its_link(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> Tensor:
        kept = record(model, x)
        with torch.no_grad():
            print(kept.mem2[2], kept.spk2[4].sum())
        return kept.mem2[2].sum() + kept.spk2[4].sum()

    net.check(loop, x)


def test_a_recorded_value_through_a_queue(net: Twins, x: Tensor) -> None:
    from multiprocessing.reduction import ForkingPickler

    with torch.no_grad():
        kept = record(net.fast, x)
        expected = record(net.stock, x)
    restored = pickle.loads(bytes(ForkingPickler.dumps(kept.mem2[4])))
    torch.testing.assert_close(restored, expected.mem2[4], rtol=1e-4, atol=1e-5)


def _halved(mem: Tensor) -> None:
    mem.mul_(0.5)


def _written_behind(mem: Tensor) -> None:
    mem.data.zero_()


def _detached(mem: Tensor) -> None:
    mem.detach_()


def _reshaped(mem: Tensor) -> None:
    mem.unsqueeze_(0)
    mem.squeeze_(0)


@pytest.mark.parametrize("happens", [None, _halved, _written_behind, _detached, _reshaped])
def test_membranes_are_stacked_after_the_last_one_became_real(net: Twins, x: Tensor, happens: Any) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        mems = record(model, x).mem2
        torch.stack(mems[:3]).sum()
        if happens is not None:
            with torch.no_grad():
                happens(mems[-1])
        return [torch.stack(mems), torch.stack(mems[4:]), torch.stack(mems[::-1]), torch.stack(mems[-1:])]

    net.check(loop, x)


def test_the_membrane_of_another_loop_is_not_taken_for_the_last_one(net: Twins, x: Tensor) -> None:
    def loop(model: Net, x: Tensor) -> list[Tensor]:
        first, second = record(model, x).mem2, record(model, 2 * x).mem2
        recording.flush()
        return [torch.stack([*first[:-1], second[-1]]), torch.stack([*first[:-2], first[-1]])]

    net.check(loop, x)


def test_a_stack_of_whole_runs_is_one_piece(net: Twins, x: Tensor) -> None:
    mems = record(net.fast, x).mem2
    recording.flush()
    assert len(sequences._runs(mems, "a test")) == 1
    assert len(sequences._runs([*mems[:3], *mems[4:]], "a test")) == 2
