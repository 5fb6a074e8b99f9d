"""Every private torch API that this package uses, each with a documented fallback.

Nothing else in the package may touch `torch._C` or another underscored name of torch. What is missing in a
torch version degrades to a slower or more cautious public equivalent, never to a different result.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "GLOBAL_HOOKS",
    "MODES",
    "MODULE_CALL",
    "MODULE_GETATTR",
    "a_look_tells",
    "address",
    "become",
    "below_autograd",
    "copy_on_write",
    "direct_apply",
    "has_global_hooks",
    "in_clean_thread",
    "invisible_to_dynamo",
    "lazy_clone",
    "modes_matter",
    "must_run_now",
    "patch_function_apply",
    "place",
    "read_pointer",
    "rely_on_look",
    "wrap",
    "writes",
]

R = TypeVar("R")

_data_address: Callable[[Tensor], int] | None = getattr(torch._C, "_data_address", None)
_lazy_clone: Callable[[Tensor], Tensor] | None = getattr(torch, "_lazy_clone", None)

wrap: Callable[[type[Tensor], Tensor], Any] = torch.Tensor._make_subclass
"""`wrap(cls, data)`: a `cls` over the memory of `data`, without history. nn.Parameter is made with it."""


address: Callable[[Tensor], int] = _data_address or torch.Tensor.data_ptr
"""The address of a tensor's memory (the same for all views of it), without forcing a copy-on-write alias to
become a copy.

Fallback: `data_ptr()`, which does force the copy; `copy_on_write` makes no aliases then.
"""


def _address_of_first(tensor: Tensor) -> int:
    if _data_address is None:
        return tensor.data_ptr()
    return _data_address(tensor) + int(tensor.storage_offset()) * tensor.element_size()


read_pointer: Callable[[Tensor], int] = getattr(Tensor, "const_data_ptr", _address_of_first)
"""Where the first element lies, for reading: `data_ptr()` without the copy of a copy-on-write tensor.

Fallback: computed from `address`.
"""


place: Callable[[Tensor], int] = getattr(Tensor, "const_data_ptr", address)
"""`read_pointer` or `address`, whichever is quicker: it changes when the tensor's memory does."""


def copy_on_write(tensor: Tensor) -> Tensor | None:
    """A differentiable alias that keeps today's values: whoever writes to the memory gets a copy of it first.

    None where that cannot be had: memory that others write to behind torch's back (numpy, shared memory), or
    a torch without copy-on-write. While the alias lives, a write to `tensor` moves it, so `address` tells.
    """
    if _lazy_clone is None or _data_address is None:
        return None
    # Tensor.numpy() and from_numpy() mark the storage so: whoever holds the array writes without telling
    # torch.
    if not tensor.untyped_storage().resizable():
        return None
    try:
        return _lazy_clone(tensor)
    except (RuntimeError, NotImplementedError):
        return None


def lazy_clone(tensor: Tensor) -> Tensor:
    """A differentiable clone that shares memory until either side is written to. Fallback: `clone()`."""
    alias = copy_on_write(tensor)
    return tensor.clone() if alias is None else alias


_storage_uses: Callable[[int], int] = getattr(torch._C, "_storage_Use_Count", lambda _: 1 << 30)


def become(tensor: Tensor, other: Tensor) -> bool:
    """Make `tensor` and `other` change places: every reference to the one then leads to the other.

    tensor: plain, without gradient. Not done (False) where C++, a view, numpy or an alias made by `detach`
    still sees its memory, or where a weak reference or an attribute of its own hangs on it. Fallback: never
    done.
    """
    if tensor._base is not None or tensor.__dict__ or not tensor.untyped_storage().resizable():
        return False
    storage = tensor.untyped_storage()
    if _storage_uses(storage._cdata) != 2:  # the tensor, and this very question
        return False
    try:
        with torch._C.DisableTorchFunctionSubclass():
            torch.utils.swap_tensors(tensor, other)
    except (AttributeError, RuntimeError):
        return False
    return True


_function_modes: Callable[[], int] = getattr(torch._C, "_len_torch_function_stack", lambda: 1)
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_functorch: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
_anomaly: Callable[[], bool] = torch.is_anomaly_enabled
_tracing: Callable[[], Any] = getattr(torch._C, "_get_tracing_state", lambda: True)
_saved_hooks: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True
)


MODES: tuple[tuple[Any, ...], ...] = (
    *((_dispatch_modes,), (_functorch,), (_autocast,), (_tracing,)),
    *((_anomaly,), (_saved_hooks, True), (_function_modes,)),
)
"""(function, its arguments): where all of them answer 0, False or None, `modes_matter` says no."""


def a_look_tells(at_rest: Callable[[], bool]) -> bool:
    """Whether `at_rest`, a look at torch's own variables that takes no time, says no under each of MODES.

    Tried out, because no torch version promises it. Fallback: no; each question is asked then.
    """
    told: list[bool] = []

    def look(*tensors: Tensor) -> tuple[Tensor, ...]:
        told.append(not at_rest())
        return tensors

    def none_on() -> bool:
        # What a function returns is no part of its symbol's name: as it has been in all of torch 2.
        known = torch.__version__.startswith("2.")
        return known and at_rest() and all(not question(*arguments) for question, *arguments in MODES)

    try:
        if not none_on():
            return False
        with torch.utils._python_dispatch.TorchDispatchMode():
            look()
        with torch.autocast("cpu", torch.bfloat16):
            look()
        torch._C._functorch._vmap_increment_nesting(1, "error")
        try:
            look()
        finally:
            torch._C._functorch._vmap_decrement_nesting()
        torch._C._create_graph_by_tracing(look, (torch.zeros(1),), lambda _: "", True, False)
        with torch.autograd.set_detect_anomaly(True):
            look()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
            look()
        with torch.overrides.BaseTorchFunctionMode():
            look()
        return len(told) == len(MODES) and all(told) and none_on()
    except (AttributeError, ImportError, RuntimeError, TypeError):
        return False


def _unknown() -> bool:
    return False


_at_rest: Callable[[], bool] = _unknown


def rely_on_look(at_rest: Callable[[], bool]) -> None:
    """Let `modes_matter` take the word of an `at_rest` that `a_look_tells`."""
    global _at_rest
    _at_rest = at_rest


def modes_matter() -> bool:
    """Whether a mode is on under which an operation must run when and where it is called.

    Function and dispatch modes, functorch transforms, autocast, anomaly detection, tracing, saved-tensor
    hooks. Fallback: a mode that this torch cannot report counts as on, so that nothing is ever deferred.
    """
    return not _at_rest() and bool(
        _dispatch_modes()
        or _functorch()
        or _autocast()
        or _anomaly()
        or _tracing() is not None
        or _saved_hooks(True) is not None
        or (_function_modes() and not _only_device_modes())
    )


def must_run_now(module: torch.nn.Module) -> bool:
    """Whether a call of `module` cannot be put off: `modes_matter`, or hooks wait for its gradient."""
    return bool(module._backward_hooks or module._backward_pre_hooks) or modes_matter()


def _only_device_modes() -> bool:
    """Whether all function modes are those of `torch.set_default_device`, which change nothing recorded."""
    stack = getattr(torch.overrides, "_get_current_function_mode_stack", None)
    if stack is None:
        return False
    return all(type(mode).__name__ == "DeviceContext" for mode in stack())


def in_clean_thread(function: Callable[[], R], grad: bool, inference: bool) -> R:
    """Run `function` in a thread of its own, and wait for it.

    Modes, hooks, autocast, functorch levels and the "below autograd" state of `__torch_dispatch__` are all
    thread-local: a fresh thread is the one place where none of them is set, whatever a torch version adds to
    the list.
    """
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    stream = torch.cuda.current_stream() if device is not None else None

    def body() -> R:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            if stream is None:
                return function()
            with torch.cuda.stream(stream):
                return function()

    with ThreadPoolExecutor(1, thread_name_prefix="sparse_backend-flush") as pool:
        return pool.submit(body).result()


_GLOBAL_HOOKS: list[Any] = [
    getattr(torch.nn.modules.module, f"_global_{kind}", None)
    for kind in ("backward_pre_hooks", "backward_hooks", "forward_pre_hooks", "forward_hooks")
]
GLOBAL_HOOKS: tuple[dict[Any, Any], ...] | None = (
    tuple(_GLOBAL_HOOKS) if all(isinstance(hooks, dict) for hooks in _GLOBAL_HOOKS) else None
)
"""The hooks that every module's call runs. Fallback: None, so that every call goes by nn.Module."""


_getattr: Any = torch.nn.Module.__getattr__
_code = getattr(_getattr, "__code__", None)
_genuine = (
    _code is not None
    and _code.co_filename == torch.nn.modules.module.__file__
    and {"_parameters", "_buffers", "_modules"} <= set(_code.co_consts)
)
MODULE_GETATTR: Any = _getattr if _genuine else None
"""`nn.Module.__getattr__`, which asks `_parameters`, `_buffers` and `_modules` in this order. Fallback: None,
where it is another function by now."""


_call = torch.nn.Module.__call__
_call_code = getattr(_call, "__code__", None)
MODULE_CALL: Any = (
    _call if _call_code is not None and _call_code.co_filename == torch.nn.modules.module.__file__ else None
)
"""`nn.Module.__call__`, which calls `forward` and the hooks there are. Fallback: None, where it is another
function by now; then every call goes by that."""


def has_global_hooks() -> bool:
    """Whether hooks are registered for all modules. Fallback: yes, so that nothing is deferred."""
    check = getattr(torch.nn.modules.module, "_has_any_global_hook", None)
    return True if check is None else bool(check())


def writes(function: Any) -> bool:
    """Whether an operator, as `__torch_dispatch__` receives it, writes to an argument. Fallback: yes."""
    schema = getattr(function, "_schema", None)
    return True if schema is None else bool(schema.is_mutable)


def below_autograd() -> bool:
    """Whether this thread is inside an operator below autograd (`__torch_dispatch__`): no graph is built.

    Fallback: no; then what is computed there has no gradient, and using one raises (see
    recording/deferred.py).
    """
    try:
        return bool(
            torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradFunctionality)
        )
    except AttributeError:
        return False


def invisible_to_dynamo(function: Callable[..., R]) -> Callable[..., R]:
    """Keep torch.compile from looking at `function` and at all that runs below it.

    Where a compiled function meets a deferred tensor, its graph ends; what is executed then must not be
    compiled piece by piece. `torch.compiler.disable` does the same, but imports torch._dynamo (a second) and
    costs at each call. Fallback: the attribute by which it marks the function itself.
    """
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    try:
        from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy

        skip = _FrameAction.SKIP
        set_code_exec_strategy(function.__code__, _FrameExecStrategy(skip, skip))
    except (ImportError, AttributeError, TypeError):
        pass
    return function


def direct_apply(cls: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`cls.apply` without the Python that torch puts before it, which looks after functorch's wrappers; nor
    does it see `patch_function_apply`. Fallback: `cls.apply`."""
    return getattr(super(torch.autograd.Function, cls), "apply", cls.apply)


def patch_function_apply(resolve: Callable[[Any], Any]) -> bool:
    """Make every `torch.autograd.Function.apply` see resolved arguments.

    `apply` never calls `__torch_function__`, but it passes its arguments through `unwrap_dead_wrappers`.
    Returns whether the patch is in place. Fallback: deferred tensors then reach `__torch_dispatch__`, which
    raises DeferredEscapeError where a gradient would be lost.
    """
    try:
        from torch._functorch import utils
    except ImportError:
        return False
    original = getattr(utils, "unwrap_dead_wrappers", None)
    if original is None:
        return False
    if getattr(original, "resolves_deferred", False):
        return True

    def unwrap_dead_wrappers(args: tuple[Any, ...]) -> tuple[Any, ...]:
        return original(tuple(map(resolve, args)))

    unwrap_dead_wrappers.resolves_deferred = True  # type: ignore[attr-defined]
    utils.unwrap_dead_wrappers = unwrap_dead_wrappers
    return True
