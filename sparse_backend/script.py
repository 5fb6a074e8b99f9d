"""Run a script as `python script.py` would: same sys.argv, `__main__`, sys.path, tracebacks and exit code."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType, TracebackType
from typing import Any

__all__ = ["ScriptNotFoundError", "run"]


class ScriptNotFoundError(Exception):
    """There is no such script or module; the message is what the python command would print."""


def run(target: str, args: Sequence[str], *, as_module: bool = False) -> int:
    """Run the script at path `target`, or the module of that name with `as_module`, in this process.

    An exception that the script does not catch is printed as the interpreter would, without the frames of
    this package. `__main__`, sys.argv and sys.path[0] stay the script's afterwards, for what runs at exit.

    Returns: the exit code.
    Raises: ScriptNotFoundError; SystemExit if the script does.
    """
    code, path, spec = _compile_module(target) if as_module else _compile_script(target)
    main = ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=__builtins__, __spec__=spec, __cached__=None)
    if spec is not None:
        main.__package__ = spec.parent
        main.__loader__ = spec.loader
    sys.modules["__main__"] = main
    sys.argv[:] = [path if as_module else target, *args]
    # `python -m sparse_backend` has put the current folder there, which is right for `-m module` alone.
    sys.path[0] = os.getcwd() if as_module else os.path.dirname(os.path.realpath(path))
    try:
        exec(code, main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        trimmed = _below_this_file(error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            raise error.with_traceback(trimmed) from None
        _report(type(error), error, trimmed)
        return 1
    return 0


def _compile_script(path: str) -> tuple[CodeType, str, None]:
    where = os.path.abspath(path)  # so `__file__` and tracebacks have it, while sys.argv has what was typed
    try:
        with io.open_code(where) as source:
            text = source.read()
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        raise ScriptNotFoundError(f"can't open file {path!r}: {reason}") from None
    return _compile(text, where), where, None


def _compile_module(name: str) -> tuple[CodeType, str, Any]:
    sys.path[0] = os.getcwd()
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        raise ScriptNotFoundError(f"error while looking for module {name!r}: {error}") from None
    get_code = getattr(getattr(spec, "loader", None), "get_code", None)
    code = None if spec is None or get_code is None else get_code(spec.name)
    if spec is None or code is None:
        raise ScriptNotFoundError(f"no module named {name}")
    return code, spec.origin or name, spec


def _compile(text: bytes, path: str) -> CodeType:
    try:
        return compile(text, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        _report(type(error), error, None)
        raise SystemExit(1) from None


def _below_this_file(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    hook: Callable[..., Any] = sys.excepthook
    hook(kind, error.with_traceback(traceback), traceback)
