"""A test run's folder: what it was made with, what is done, and how it may go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ademx.files import write_json

_SETTINGS = "run.json"
_RESULTS = ("labels", "correct", "scores", "predictions", "scores.json", "submission.txt")


def open_folder(path: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Make a folder ready for a run, or for going on with the same one.

    `settings` are kept in the folder as `run.json`: results of other weights or options never
    mix with those of this run.

    Args:
        path: folder of the run's files; made if need be.
        settings: all that decides the results, as JSON has it.
        resume: go on with what the folder holds.
        overwrite: remove the results that the folder holds; other files stay.

    Raises:
        ValueError: the folder holds results and neither flag is given, or they were made with
            other settings; the message lists the differences.
    """
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    if overwrite:
        _remove_results(path)
    held = _held_settings(path)
    if held is not None and not resume:
        raise ValueError(
            f"--output {path}: holds the results of a run; go on with it by --resume, replace "
            "it by --overwrite, or choose another folder"
        )
    if held is not None and held != settings:
        raise ValueError(
            f"--output {path}: cannot resume, its results were made with other settings: "
            f"{_differences(held, settings)}; choose another folder, or replace them by "
            "--overwrite"
        )
    path.mkdir(parents=True, exist_ok=True)
    if held is None:
        write_json(path / _SETTINGS, settings)


def _held_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings that made the folder's results; None where it holds no results."""
    results = [name for name in _RESULTS if _holds_something(path / name)]
    if not results:
        return None
    try:
        held: dict[str, Any] = json.loads((path / _SETTINGS).read_text(encoding="utf-8"))
        return held
    except FileNotFoundError:
        raise ValueError(
            f"--output {path}: holds {', '.join(results)} but not the {_SETTINGS} that says what "
            "made them; choose another folder, or replace them by --overwrite"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{path / _SETTINGS}: not the settings of a run ({error}); choose another --output, "
            "or replace the run by --overwrite"
        ) from None


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _remove_results(path: Path) -> None:
    for name in (*_RESULTS, _SETTINGS):
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _differences(held: dict[str, Any], settings: dict[str, Any]) -> str:
    names = sorted(name for name in held.keys() | settings.keys())
    return "; ".join(
        f"{name} was {held.get(name)!r}, now {settings.get(name)!r}"
        for name in names
        if held.get(name) != settings.get(name)
    )
