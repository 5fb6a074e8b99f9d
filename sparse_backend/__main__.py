"""`python -m sparse_backend`: run a script accelerated, compare it with stock, or tell what is installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .cli_options import add_options, chosen_options
from .errors import SparseBackendError

__all__ = ["main"]

_DESCRIPTION = """Run an unmodified Python script with every snnTorch and Norse model accelerated."""
_COMMANDS = """commands (a script of that name: write ./compare or ./doctor):
  python -m sparse_backend [options] script.py [arguments of the script]
  python -m sparse_backend [options] -m package.module [arguments of the module]
  python -m sparse_backend compare [options] script.py [arguments of the script]
  python -m sparse_backend doctor"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["compare"]:
        from .compare.cli import main as compare

        return compare(argv[1:])
    if argv[:1] == ["doctor"]:
        from .doctor import main as doctor

        return doctor(argv[1:])
    return _run(argv)


def _run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse_backend",
        description=_DESCRIPTION,
        epilog=_COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument("--report", action="store_true", help="at the end, print what was accelerated")
    parser.add_argument("-m", dest="as_module", action="store_true", help="the target is a module's name")
    parser.add_argument("target", metavar="script.py", help="the script to run")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its own arguments")
    chosen = parser.parse_args(argv)
    from . import script
    from .install import install

    try:
        installation = install(**chosen_options(chosen))
    except SparseBackendError as error:
        parser.error(str(error))
    failed = True
    try:
        code = script.run(chosen.target, chosen.args, as_module=chosen.as_module)
        failed = code != 0
        return code
    except script.ScriptNotFoundError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except SystemExit as error:
        failed = error.code not in (0, None)
        raise
    finally:
        if chosen.report:
            for report in installation.reports:
                print(report, file=sys.stderr)
        if not failed and not installation.neurons:
            print(f"{parser.prog}: {_why_nothing()}", file=sys.stderr)


def _why_nothing() -> str:
    from .adapters import unavailable
    from .options import disabled

    if disabled():
        return "SPARSE_BACKEND_DISABLE is set: everything ran stock"
    reasons = "".join(f"; {reason}" for reason in unavailable().values())
    return f"no snnTorch or Norse layer was accelerated (--report says why){reasons}"


if __name__ == "__main__":
    sys.exit(main())
