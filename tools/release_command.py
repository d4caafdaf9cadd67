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
    "train" unless given, and `--output` is the folder that holds one folder and one log a run,
    named after the weights (and the split, where it is not "val").

    Args:
        task: "classification" or "segmentation".
        arguments: the command line without the script's name.
    """
    phase, rest = _phase(arguments)
    command = _command(phase, task)
    rest = _unabbreviated(rest, command)
    if phase == "val":
        rest = _as_tested(rest, task)
    debug = [argument for argument in rest if argument == "--debug"]  # `ademx` takes it first
    rest = [argument for argument in rest if argument != "--debug"]
    main([*debug, _PHASES[phase], task, *rest], prog_name="ademx")


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


def _as_tested(arguments: Sequence[str], task: str) -> list[str]:
    """Return the arguments of `ademx evaluate` that do what these do in the release.

    There the results go to a folder in `--output` that is named after the log file, and that
    after the weights; and a classifier is tested at `--crop-size` where no scale is given.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--output", "--log-file", "--weights", "--split", "--test-scales", "--crop-size"):
        parser.add_argument(name)
    given, _ = parser.parse_known_args(arguments)
    if given.weights is None:
        return list(arguments)
    weights = Path(given.weights)
    split = given.split or "train"  # Release: its default in both phases
    folder = weights.parent if given.output is None else Path(given.output)
    suffix = "" if split == "val" else f"_{split}"
    log_file = folder / (given.log_file or f"{weights.stem}{suffix}.log")
    output = ["--log-file", str(log_file), "--output", str(log_file.with_suffix(""))]
    rest = [*arguments, "--split", split, *output]  # what is given twice is the last
    if task == "classification" and given.test_scales is None and given.crop_size is not None:
        rest += ["--test-scales", given.crop_size]
    return rest
