"""Which errors a command tells in one line, and which keep their traceback."""

from __future__ import annotations

import ast
import errno
import pickle
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from commands import make_runner

from ademx import cli, errors
from ademx.errors import FileInTheWay, InputError, MissingDependency, MissingFile, SystemFault

ROOT = Path(__file__).parents[1]
TYPES = (InputError, MissingFile, FileInTheWay, SystemFault, MissingDependency)


def _raising(error: Exception, monkeypatch: pytest.MonkeyPatch, *options: str) -> Result:
    def fail() -> str:
        raise error

    monkeypatch.setattr("ademx.cli.doctor.examine", fail)
    return make_runner().invoke(cli.main, [*options, "doctor"])


@pytest.mark.parametrize("kind", TYPES)
def test_what_a_user_can_cause_is_one_line(kind, monkeypatch):
    result = _raising(kind("a.png: found this: expected that"), monkeypatch)
    assert result.exit_code == 1
    assert result.stderr == "Error: a.png: found this: expected that\n"


def test_debug_shows_its_traceback(monkeypatch):
    error = InputError("found this")
    assert _raising(error, monkeypatch, "--debug").exception is error


def test_what_the_system_says_of_a_file_is_one_line(monkeypatch):
    result = _raising(PermissionError(errno.EACCES, "Permission denied", "a.png"), monkeypatch)
    assert result.exit_code == 1
    assert result.stderr == "Error: [Errno 13] Permission denied: 'a.png'\n"


def _fault_of_numpy() -> Exception:
    with pytest.raises(ValueError, match="broadcast") as caught:
        np.zeros(3) + np.zeros(2)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError("a bug that no system call answered"),
        RuntimeError("a bug"),
        ImportError("a bug"),
        _fault_of_numpy(),
    ],
    ids=repr,
)
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    result = _raising(error, monkeypatch)
    assert result.exception is error and result.exit_code == 1
    assert "Error:" not in result.stderr


@pytest.mark.parametrize("kind", TYPES)
def test_errors_are_of_the_kinds_that_python_has_for_them(kind):
    assert issubclass(kind, errors.UserError)
    assert issubclass(kind, (ValueError, FileNotFoundError, FileExistsError, OSError, ImportError))
    copied = pickle.loads(pickle.dumps(kind("a.png: no such file")))
    assert type(copied) is kind and str(copied) == "a.png: no such file"


def _raised(node: ast.AST) -> str | None:
    made = node.exc if isinstance(node, ast.Raise) else None
    return made.func.id if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) else None


def test_what_we_raise_of_a_users_input_has_the_base_class():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for top in ("ademx", "symbols", "iters")
        for path in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _raised(node) in ("ValueError", "FileNotFoundError", "FileExistsError")
    ]
    assert not wrong, f"raise a type of ademx.errors: {wrong}"
