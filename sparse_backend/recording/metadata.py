"""Questions about a deferred tensor that are answered without computing it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .deferred import Deferred
from .place import metadata

__all__ = ["ANSWERS"]

Arguments = tuple[Any, ...]
Answer = Callable[[Deferred, Arguments, dict[str, Any]], Any]


def _requires_grad(tensor: Deferred, *_: Any) -> bool:
    source = tensor._source
    return source is not None and source.requires_grad and not tensor._cut


def _size(tensor: Deferred, args: Arguments, kwargs: dict[str, Any]) -> Any:
    shape = metadata(tensor)[0]
    dim = args[0] if args else kwargs.get("dim")
    return shape if dim is None else shape[dim]


def _like(
    factory: Callable[..., Tensor], tensor: Deferred, args: Arguments, kwargs: dict[str, Any]
) -> Tensor:
    shape, dtype, device = metadata(tensor)
    options = {"dtype": dtype, "device": device, **{k: v for k, v in kwargs.items() if v is not None}}
    options.pop("memory_format", None)
    return factory(shape, *args, **options)


def _new(factory: Callable[..., Tensor], tensor: Deferred, args: Arguments, kwargs: dict[str, Any]) -> Tensor:
    _, dtype, device = metadata(tensor)
    return factory(torch.empty((), dtype=dtype, device=device), *args, **kwargs)


def _dim(tensor: Deferred, *_: Any) -> int:
    return len(metadata(tensor)[0])


def _numel(tensor: Deferred, *_: Any) -> int:
    return metadata(tensor)[0].numel()


def _on(kind: str) -> Answer:
    return lambda tensor, *_: metadata(tensor)[2].type == kind


def _always(value: object) -> Answer:
    return lambda *_: value


_T: Any = torch.Tensor

ANSWERS: dict[Any, Answer] = {
    _T.shape.__get__: lambda tensor, *_: metadata(tensor)[0],
    _T.dtype.__get__: lambda tensor, *_: metadata(tensor)[1],
    _T.device.__get__: lambda tensor, *_: metadata(tensor)[2],
    _T.layout.__get__: _always(torch.strided),
    _T.ndim.__get__: _dim,
    _T.requires_grad.__get__: _requires_grad,
    _T.is_leaf.__get__: lambda tensor, *_: not _requires_grad(tensor),
    _T.is_sparse.__get__: _always(False),
    _T.is_sparse_csr.__get__: _always(False),
    _T.is_quantized.__get__: _always(False),
    _T.is_nested.__get__: _always(False),
    _T.is_meta.__get__: _always(False),
    _T.is_cuda.__get__: _on("cuda"),
    _T.is_cpu.__get__: _on("cpu"),
    _T.itemsize.__get__: lambda tensor, *_: metadata(tensor)[1].itemsize,
    _T.nbytes.__get__: lambda tensor, *_: metadata(tensor)[1].itemsize * _numel(tensor),
    _T.size: _size,
    _T.dim: _dim,
    _T.ndimension: _dim,
    _T.numel: _numel,
    _T.nelement: _numel,
    torch.numel: _numel,
    _T.element_size: lambda tensor, *_: metadata(tensor)[1].itemsize,
    _T.__len__: lambda tensor, *_: metadata(tensor)[0][0],
    _T.is_floating_point: _always(True),
    torch.is_floating_point: _always(True),
    _T.is_complex: _always(False),
    torch.is_complex: _always(False),
    _T.is_conj: _always(False),
    torch.is_conj: _always(False),
    _T.is_neg: _always(False),
    torch.is_neg: _always(False),
    _T.is_inference: lambda tensor, *_: tensor._source is not None and tensor._source.inference,
    torch.is_inference: lambda tensor, *_: tensor._source is not None and tensor._source.inference,
    _T.get_device: lambda tensor, *_: -1 if metadata(tensor)[2].index is None else metadata(tensor)[2].index,
    torch.zeros_like: functools.partial(_like, torch.zeros),
    torch.ones_like: functools.partial(_like, torch.ones),
    torch.empty_like: functools.partial(_like, torch.empty),
    torch.full_like: functools.partial(_like, torch.full),
    torch.rand_like: functools.partial(_like, torch.rand),
    torch.randn_like: functools.partial(_like, torch.randn),
    _T.new_zeros: functools.partial(_new, _T.new_zeros),
    _T.new_ones: functools.partial(_new, _T.new_ones),
    _T.new_empty: functools.partial(_new, _T.new_empty),
    _T.new_full: functools.partial(_new, _T.new_full),
    _T.new_tensor: functools.partial(_new, _T.new_tensor),
}
"""Function -> answer(tensor, other arguments, keyword arguments); `tensor` is deferred and not real yet."""
