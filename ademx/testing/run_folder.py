"""A test run's folder: what it was made with, what is done, and how it may go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ademx.errors import InputError
from ademx.files import write_json
from ademx.options import differences
from ademx.testing.options import EvaluationOptions

_SETTINGS = "run.json"
_RESULTS = (
    *("labels", "correct", "scores", "predictions", "scores.json", "images.npz"),
    *("submission", "submission.txt"),
)


def open_folder(settings: dict[str, Any], options: EvaluationOptions) -> None:
    """Make a folder ready for a run, or for going on with the same one.

    `settings` are kept in the folder as `run.json`: results of other weights or options never
    mix with those of this run, and nothing that is not of such a run is ever removed.

    Args:
        settings: all that decides the results, as JSON has it; "command" says what writes them.
        options: the run's: `output`, made if need be; `resume`, go on with what it holds;
            `overwrite`, remove the results that it holds; other files stay.

    Raises:
        ValueError: the folder holds results and neither flag is given, or they were made with
            other settings (the message lists the differences), or not by this command.
        OSError: the folder cannot be made or written to.
    """
    path = options.output
    results = [name for name in _RESULTS if _holds_something(path / name)]
    stored = _stored_settings(path)
    if (stored or {}).get("command") != settings["command"] and (stored is not None or results):
        raise InputError(
            f"--output {path}: holds {', '.join(results) or _SETTINGS} that "
            f"`ademx {settings['command']}` did not write; choose another folder"
        )
    if options.overwrite:
        _remove_results(path)
    elif results and not options.resume:
        raise InputError(
            f"--output {path}: holds the results of a run; go on with it by --resume, replace "
            "it by --overwrite, or choose another folder"
        )
    elif results and stored != settings:
        raise InputError(
            f"--output {path}: cannot resume, its results were made with other settings: "
            f"{differences(options, stored or {}, settings)}; choose another folder, or replace "
            "them by --overwrite"
        )
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / _SETTINGS, settings)


def _stored_settings(path: Path) -> dict[str, Any] | None:
    """Return the content of the folder's `run.json`, {} if it is no run's; None without one."""
    try:
        stored = json.loads((path / _SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):  # of brackets without end
        return {}
    return stored if isinstance(stored, dict) else {}


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _remove_results(path: Path) -> None:
    for name in (*_RESULTS, _SETTINGS):
        target = path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
