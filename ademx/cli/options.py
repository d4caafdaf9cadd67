"""Options that several commands share, and the types that parse them."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

import click

from ademx.compat import share_cores
from ademx.convert.files import Reading
from ademx.devices import Devices
from ademx.errors import FileInTheWay
from ademx.options import Option, declared, option_name

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)


log_file = click.option("--log-file", type=ANY_PATH, help="Append the log to this file too.")


def from_class(*classes: type) -> Callable[..., Any]:
    """Return a decorator that adds all options of dataclasses, see :mod:`ademx.options`."""
    found = {one.name: one for options in classes for one in dataclasses.fields(options)}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(found.values()):
            kind = str(one.type).partition(" | ")[0]
            if said := declared(one):
                command = _option(one.name, one.default, kind, said)(command)
            elif kind in _SEVERAL:
                command = _SEVERAL[kind](command)
        return command

    return decorate


def from_field(name: str, one: Field[Any]) -> Callable[..., Any]:
    """Return the option of a field that is declared in :mod:`ademx.options`."""
    said = declared(one) or Option("")
    return _option(name, one.default, type(one.default).__name__, said)


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
    if kind == "int":
        return {"type": click.IntRange(min=said.least)}
    paths = {"file": EXISTING_FILE, "folder": EXISTING_FOLDER, "any": ANY_PATH}
    paths["output"] = click.Path(file_okay=False, path_type=Path)
    if kind == "tuple[Path, ...]":
        return {"type": paths[said.path], "multiple": True}
    if kind == "Path":
        return {"type": paths[said.path]}
    return {"type": _TYPES[kind]}


def without_effect(*names: str, flags: Sequence[str] = ()) -> Callable[..., Any]:
    """Return a decorator that takes, and hides, options of the release that say nothing here."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in (*names, *flags):
            hidden = click.option(name, is_flag=name in flags, hidden=True, expose_value=False)
            command = hidden(command)
        return command

    return decorate


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a file of weights does not say of itself, as the argument `reading`."""

    @functools.wraps(command)
    def with_reading(*positional: Any, **arguments: Any) -> Any:
        given = {one.name: arguments.pop(one.name) for one in dataclasses.fields(Reading)}
        return command(*positional, reading=Reading(**given), **arguments)

    return from_class(Reading)(with_reading)


class _Integers(click.ParamType):
    """Whole numbers separated by commas, as a tuple; an empty text is an empty tuple."""

    name = "N[,N…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(field) for field in value.split(",") if field.strip())
        except ValueError:
            self.fail(f"{value!r}: expected whole numbers separated by commas", param, ctx)


class _Range(click.ParamType):
    """Two numbers separated by a comma, as a tuple."""

    name = "LOW,HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            low, high = map(float, value.split(","))
            return low, high
        except ValueError:
            self.fail(f"{value!r}: expected two numbers separated by a comma", param, ctx)


class _Size(click.ParamType):
    """Height and width in pixels, such as 504x504, as a tuple.

    Args:
        free: whether "free", which is None, is a size too.
    """

    name = "HxW"

    def __init__(self, *, free: bool = False) -> None:
        self._free = free

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int] | None:
        if self._free and value == "free":
            return None
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", value)
        if match is None:
            more = ", or free" if self._free else ""
            expected = f"expected height x width in pixels, such as 504x504{more}"
            self.fail(f"{value!r}: {expected}", param, ctx)
        return int(match[1]), int(match[2])


INTEGERS = _Integers()
SIZE, SIZE_OR_FREE = _Size(), _Size(free=True)


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
        chosen = None if (gpus, cpus) == (None, None) else Devices(gpus=gpus or (), cpus=cpus or 1)
        return command(*positional, devices=chosen, **arguments)

    add = [
        click.option(
            "--gpus",
            type=INTEGERS,
            default=None,
            help='GPUs to use, such as 0,1; "" for the CPU.  [default: the first GPU, if any]',
        ),
        click.option(
            "--cpus",
            type=click.IntRange(min=1),
            help="Compute on the CPU, in so many contexts that share the images.",
        ),
    ]
    return add[0](add[1](with_devices))


# By the type of the field: of a value, and of what is told by several options.
_TYPES = {
    "str": click.STRING,
    "float": click.FLOAT,
    "bool": click.BOOL,
    "tuple[int, ...]": INTEGERS,
    "tuple[float, float]": _Range(),
    "tuple[int, int]": SIZE,
}
_SEVERAL = {"Devices": devices, "Reading": reading}


def check_writable(
    paths: Sequence[Path | None], *, overwrite: bool, made_later: Path | None = None
) -> None:
    """Raise, before any work is done, for a file that could not be written at its end.

    Args:
        paths: of the files; None is none.
        overwrite: whether they may be there.
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
            raise FileInTheWay(f"{path} exists: choose another name or add --overwrite")


def log_to(path: Path | None) -> None:
    """Write the log to a file too, behind what it holds; None writes none."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.getLogger().handlers[0].formatter)
    logging.getLogger().addHandler(handler)
