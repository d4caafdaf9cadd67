"""Options that several commands share, and the types that parse them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING
from functools import partial
from pathlib import Path
from typing import Any

import click

from ademx.compat import share_cores
from ademx.convert.files import Reading
from ademx.devices import Devices
from ademx.errors import FileInTheWay, InputError
from ademx.files import write_json
from ademx.options import Option, declared, option, option_name

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)
_PATHS = {
    "file": EXISTING_FILE,
    "folder": EXISTING_FOLDER,
    "output": click.Path(file_okay=False, path_type=Path),
    "new": click.Path(dir_okay=False, path_type=Path),
}


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

# Options of several commands, for their signatures: see from_signature.
json_file = partial(option, None, names=("--json",), path="new")
plot_file = partial(option, None, names=("--plot",), path="new")
overwrite = partial(option, False)


def from_class(*classes: type) -> Decorator:
    """Return a decorator that adds all options of dataclasses, see :mod:`ademx.options`."""
    found = {one.name: one for options in classes for one in dataclasses.fields(options)}
    return _options((one.name, str(one.type), one) for one in found.values())


def from_signature(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each parameter of a command whose default is one.

    That is what :func:`ademx.options.option` returns, as for a field of an options class:

        @from_signature
        def plot(
            runs: tuple[Path, ...],  # an argument, by click.argument
            output: Path = option(Path("curves.png"), "Picture.", path="new"),
            overwrite: bool = option(False, "Replace a file that exists."),
        ) -> None:

    has `--output` and `--overwrite`. Files that a command writes, of `path="new"`, are checked
    before it is called, see :func:`check_writable`: its `overwrite`, if it has one, is for that.
    """
    own = [
        (one, said)
        for one in inspect.signature(command).parameters.values()
        if (said := declared(one.default))
    ]
    new_files = [one.name for one, said in own if said.path == "new"]

    @functools.wraps(command)
    def with_check(*positional: Any, **arguments: Any) -> Any:
        paths = [arguments[name] for name in new_files]
        check_writable(paths, overwrite=arguments.get("overwrite"))
        return command(*positional, **arguments)

    return _options((one.name, str(one.annotation), one.default) for one, _ in own)(with_check)


def stacked(*decorators: Decorator) -> Decorator:
    """Return one decorator that does what these do, written above each other in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for add in reversed(decorators):
            command = add(command)
        return command

    return decorate


def _options(declarations: Iterable[tuple[str, str, Any]]) -> Decorator:
    """Return a decorator that adds options, given the name, the type and the field of each.

    A field that is no option may be told by several options: see _SEVERAL.
    """
    found: list[Decorator] = []
    for name, annotation, one in declarations:
        kind = annotation.partition(" | ")[0]
        if said := declared(one):
            found.append(_option(name, one.default, kind, said))
        elif kind in _SEVERAL:
            found.append(_SEVERAL[kind])
    return stacked(*found)


def _option(name: str, default: Any, kind: str, said: Option) -> Callable[..., Any]:
    """Return the option of a field whose type is `kind`, but for None."""
    facts: dict[str, Any] = {
        "help": said.help,
        "metavar": said.metavar,
        "required": default is MISSING and said.required,
    }
    if default is not MISSING:  # a default of None would do for a value that is required
        facts["default"] = default
    if kind in ("bool", "CrfParameters") and said.is_flag:
        facts |= {"flag_value": False} if default is True else {}
        facts |= {} if "/" in "".join(said.names) else {"is_flag": True}
    else:
        facts |= _value(kind, said)
        if default not in (MISSING, None, (), ""):
            is_tuple = isinstance(default, tuple)
            facts["show_default"] = ",".join(map(str, default)) if is_tuple else True
    return click.option(*(said.names or (option_name(name),)), name, **facts)


def _value(kind: str, said: Option) -> dict[str, Any]:
    """Return the type of an option that takes a value."""
    if said.choices:
        return {"type": click.Choice(said.choices)}
    several = re.fullmatch(r"tuple\[(Path|str), \.\.\.\]", kind)
    kind = several[1] if several else kind
    type_ = _PATHS.get(said.path, ANY_PATH) if kind == "Path" else _TYPES[kind]
    if said.least is not None:
        type_ = (click.FloatRange if kind == "float" else click.IntRange)(min=said.least)
    return {"type": type_, "multiple": several is not None}


def without_effect(*names: str, flags: Sequence[str] = ()) -> Decorator:
    """Return a decorator that takes, and hides, options of the release that say nothing here."""
    return stacked(
        *(
            click.option(name, is_flag=name in flags, hidden=True, expose_value=False)
            for name in (*names, *flags)
        )
    )


def as_object(name: str, kind: type) -> Decorator:
    """Return a decorator that adds all options of a dataclass as one argument, the object."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_object(*positional: Any, **arguments: Any) -> Any:
            given = {one.name: arguments.pop(one.name) for one in dataclasses.fields(kind)}
            return command(*positional, **{name: kind(**given)}, **arguments)

        return from_class(kind)(with_object)

    return decorate


class _Parsed(click.ParamType):
    """A value that a function makes of a text.

    Args:
        name: what the help shows for it.
        parse: returns the value; raises ValueError for a text that stands for none.
        expected: what messages say of the texts that stand for one.
    """

    def __init__(self, name: str, parse: Callable[[str], Any], expected: str) -> None:
        self.name = name
        self._parse = parse
        self._expected = expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            return self._parse(value)
        except ValueError:
            self.fail(f"{value!r}: expected {self._expected}", param, ctx)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(field) for field in text.split(",") if field.strip())


def _range(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(","))
    return low, high


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise InputError(text)
    return int(match[1]), int(match[2])


def _size_or_free(text: str) -> tuple[int, int] | None:
    return None if text == "free" else _size(text)


_SIDES = "height x width in pixels, such as 504x504"
INTEGERS = _Parsed("N[,N…]", _integers, "whole numbers separated by commas")
SIZE = _Parsed("HxW", _size, _SIDES)
SIZE_OR_FREE = _Parsed("HxW", _size_or_free, f"{_SIDES}, or free")


def chosen_devices(gpus: tuple[int, ...] | None, cpus: int | None) -> Devices | None:
    """Return what `--gpus` and `--cpus` choose; None without either."""
    return None if (gpus, cpus) == (None, None) else Devices(gpus=gpus or (), cpus=cpus or 1)


def devices(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--gpus` and `--cpus`, as the argument `devices`; None without either."""

    @functools.wraps(command)
    def with_devices(
        *positional: Any, gpus: tuple[int, ...] | None, cpus: int | None, **arguments: Any
    ) -> Any:
        if gpus and cpus:
            raise click.UsageError("--gpus and --cpus exclude each other: give one of them")
        if cpus:
            share_cores(cpus)  # before MXNet is loaded
        return command(*positional, devices=chosen_devices(gpus, cpus), **arguments)

    gpus_help = 'GPUs to use, such as 0,1; "" for the CPU.  [default: the first GPU, if any]'
    cpus_help = "Compute on the CPU, in so many contexts that share the images."
    added = (
        ("gpus", "tuple[int, ...]", option(None, gpus_help)),
        ("cpus", "int", option(None, cpus_help, least=1)),
    )
    return _options(added)(with_devices)


# Type of a field -> what parses its one option.
_TYPES = {
    "str": click.STRING,
    "int": click.INT,
    "float": click.FLOAT,
    "bool": click.BOOL,
    "tuple[int, ...]": INTEGERS,
    "tuple[float, float]": _Parsed("LOW,HIGH", _range, "two numbers separated by a comma"),
    "tuple[int, int]": SIZE,
}
# Type of a field -> the decorator that adds the several options that make it.
_SEVERAL = {"Devices": devices, "Reading": as_object("reading", Reading)}


def check_writable(
    paths: Sequence[Path | None], *, overwrite: bool | None, made_later: Path | None = None
) -> None:
    """Raise, before any work is done, for a file that could not be written at its end.

    Args:
        paths: of the files; None is none.
        overwrite: whether they may be there; None where no option says so.
        made_later: a folder that the work itself makes.

    Raises:
        click.UsageError: its folder is not there or cannot be written to, or it is a folder.
        FileExistsError: it is there, and `overwrite` is not set.
    """
    for path in filter(None, paths):
        if not path.parent.is_dir() and path.parent != made_later:
            raise click.UsageError(f"{path}: there is no folder {path.parent}: make it first")
        if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
            raise click.UsageError(f"{path}: nothing can be written to {path.parent}")
        if path.is_dir():
            raise click.UsageError(f"{path} is a folder: expected the name of a file")
        if path.exists() and not overwrite:
            instead = "" if overwrite is None else " or add --overwrite"
            raise FileInTheWay(f"{path} exists: choose another name{instead}")


def write_record(path: Path | None, value: Any) -> None:
    """Write what `--json` asks for; None asks for nothing."""
    if path is not None:
        write_json(path, value)


def log_file(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--log-file`, which is opened when the whole command line has been understood."""

    @functools.wraps(command)
    def with_log(*positional: Any, log_file: Path | None, **arguments: Any) -> Any:
        if log_file is not None:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
            handler.setFormatter(logging.getLogger().handlers[0].formatter)
            logging.getLogger().addHandler(handler)
        return command(*positional, **arguments)

    add = click.option("--log-file", type=ANY_PATH, help="Append the log to this file too.")
    return add(with_log)
