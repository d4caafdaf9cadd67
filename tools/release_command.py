"""The release's two scripts took one flat command line; here it becomes one of `ademx`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ademx.cli import main

_PHASES = {"train": "train", "val": "evaluate"}


def run(task: str, arguments: Sequence[str]) -> None:
    """Run `ademx evaluate TASK` or `ademx train TASK` with the release's arguments.

    Long options may be shortened as the release's parser allows (`--weight`), `--phase` is
    "train" unless given, and `--output` is the folder that holds one folder a run, named after
    the weights (and the split, where it is not "val").

    Args:
        task: "classification" or "segmentation".
        arguments: the command line without the script's name.
    """
    phase, rest = _phase(arguments)
    command = _command(phase, task)
    rest = _unabbreviated(rest, command)
    if phase == "val":
        rest = _with_run_folder(rest)
    main([_PHASES[phase], task, *rest], prog_name="ademx")


def _phase(arguments: Sequence[str]) -> tuple[str, list[str]]:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--phase", choices=sorted(_PHASES), default="train")
    known, rest = parser.parse_known_args(arguments)
    return known.phase, rest


def _command(phase: str, task: str) -> click.Command:
    context = click.Context(main)
    group = main.get_command(context, _PHASES[phase])
    command = group.get_command(context, task) if isinstance(group, click.Group) else None
    if command is None:
        sys.exit(f"--phase {phase}: not available in this version")
    return command


def _unabbreviated(arguments: Sequence[str], command: click.Command) -> list[str]:
    """Return the arguments with every unambiguous beginning of an option written out."""
    names = [name for parameter in command.params for name in parameter.opts]
    result = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        matches = [option for option in names if option.startswith(name)]
        if name.startswith("--") and name not in names and len(matches) == 1:
            argument = matches[0] + equals + value
        result.append(argument)
    return result


def _with_run_folder(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--output` naming the run's own folder, as the release has it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", type=Path)
    known, rest = parser.parse_known_args(arguments)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--split", default="train")  # Release: its default in both phases
    given = parser.parse_known_args(arguments)[0]
    if given.weights is None:
        return list(arguments)
    folder = known.output if known.output is not None else given.weights.parent
    suffix = "" if given.split == "val" else f"_{given.split}"
    return [
        "--split",
        given.split,
        *rest,
        "--output",
        str(folder / f"{given.weights.stem}{suffix}"),
    ]
