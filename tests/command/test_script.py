"""`python -m sparse_backend script.py` behaves as `python script.py` does."""

import os
import subprocess
import sys

import pytest

ECHO = """
import json, os, sys
print(json.dumps([sys.argv, __name__, __file__, sys.path[0], sys.modules["__main__"].__dict__ is globals()]))
"""


def python(folder, *args, **environment):
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def both(folder, *args):
    return python(folder, *args), python(folder, "-m", "sparse_backend", *args)


def test_main_argv_and_path(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "echo.py").write_text(ECHO)
    plain, ours = both(tmp_path, "sub/echo.py", "--seed", 3, "--help", "x y")
    assert plain.returncode == ours.returncode == 0
    assert ours.stdout == plain.stdout


def test_module_of_a_package(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "__main__.py").write_text(ECHO + "from . import __name__ as own\nprint(own)\n")
    plain, ours = both(tmp_path, "-m", "package", "1")
    assert plain.returncode == ours.returncode == 0, ours.stderr
    assert ours.stdout == plain.stdout


@pytest.mark.parametrize(
    "ending", ["sys.exit(3)", "sys.exit('bad data')", "raise SystemExit", "1 / 0", "pass"]
)
def test_exit_code(tmp_path, ending):
    (tmp_path / "end.py").write_text(f"import sys\n{ending}\n")
    plain, ours = both(tmp_path, "end.py")
    assert ours.returncode == plain.returncode


def test_traceback_is_the_users_alone(tmp_path):
    (tmp_path / "fails.py").write_text("def f():\n    return {}['key']\n\n\nf()\n")
    plain, ours = both(tmp_path, "fails.py")
    assert ours.returncode == 1
    assert ours.stderr == plain.stderr


def test_syntax_error(tmp_path):
    (tmp_path / "broken.py").write_text("x = (\n")
    ours = python(tmp_path, "-m", "sparse_backend", "broken.py")
    assert ours.returncode == 1
    assert 'broken.py", line 1' in ours.stderr and "sparse_backend/script.py" not in ours.stderr


def test_own_excepthook_and_atexit(tmp_path):
    (tmp_path / "hooks.py").write_text(
        "import atexit, sys\n"
        "value = 'still here'\n"
        "atexit.register(lambda: print(value))\n"
        "sys.excepthook = lambda kind, error, traceback: print('hooked', kind.__name__)\n"
        "raise ValueError\n"
    )
    plain, ours = both(tmp_path, "hooks.py")
    assert (
        (ours.returncode, ours.stdout)
        == (plain.returncode, plain.stdout)
        == (1, "hooked ValueError\nstill here\n")
    )


def test_classes_of_the_script_can_be_pickled(tmp_path):
    (tmp_path / "pickles.py").write_text(
        "import pickle\nclass Thing: pass\nassert type(pickle.loads(pickle.dumps(Thing()))) is Thing\n"
    )
    assert python(tmp_path, "-m", "sparse_backend", "pickles.py").returncode == 0


def test_missing_script(tmp_path):
    ours = python(tmp_path, "-m", "sparse_backend", "absent.py")
    assert ours.returncode == 2 and "can't open file 'absent.py'" in ours.stderr


def test_bad_option(tmp_path):
    ours = python(tmp_path, "-m", "sparse_backend", "--budget", "0", "x.py")
    assert ours.returncode == 2 and "budget=0.0 must lie in (0, 1]" in ours.stderr


def test_says_when_nothing_was_accelerated(tmp_path):
    (tmp_path / "plain.py").write_text("print('hello')\n")
    ours = python(tmp_path, "-m", "sparse_backend", "plain.py")
    assert ours.returncode == 0 and "no snnTorch or Norse layer was accelerated" in ours.stderr
    switched_off = python(tmp_path, "-m", "sparse_backend", "plain.py", SPARSE_BACKEND_DISABLE="1")
    assert "SPARSE_BACKEND_DISABLE is set" in switched_off.stderr


def test_doctor(tmp_path):
    ours = python(tmp_path, "-m", "sparse_backend", "doctor")
    assert "CPU kernels" in ours.stdout and "\x1b" not in ours.stdout
    without = python(tmp_path, "-m", "sparse_backend", "doctor", SPARSE_BACKEND_NATIVE="0")
    assert without.returncode == 1 and "SPARSE_BACKEND_NATIVE" in without.stdout
    unreadable = python(tmp_path, "-m", "sparse_backend", "doctor", SPARSE_BACKEND_NATIVE="perhaps")
    assert unreadable.returncode == 1 and "must be 1 or 0" in unreadable.stdout
