"""Options that several commands share, and the types that parse them."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ademx.compat import share_cores
from ademx.convert.layouts import LAYOUTS
from ademx.options import Option, declared, option_name

if TYPE_CHECKING:
    from ademx.devices import Devices

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)


dataset = click.option(
    "--dataset",
    metavar="NAME|FILE.yaml",
    help="The dataset; a YAML file describes your own.  [default: from the label]",
)
log_file = click.option("--log-file", type=ANY_PATH, help="Append the log to this file too.")


def from_class(options: type) -> Callable[..., Any]:
    """Return a decorator that adds all options of a dataclass, see :mod:`ademx.options`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(dataclasses.fields(options)):
            kind = str(one.type).partition(" | ")[0]
            if said := declared(one):
                command = _option(one, kind, said)(command)
            elif kind in _SEVERAL:
                command = _SEVERAL[kind](command)
        return command

    return decorate


def _option(one: Field[Any], kind: str, said: Option) -> Callable[..., Any]:
    """Return the option of a field whose type is `kind`, but for None."""
    default = None if one.default is MISSING else one.default
    facts: dict[str, Any] = {
        "help": said.help,
        "metavar": said.metavar,
        "default": default,
        "required": one.default is MISSING and said.required,
    }
    if kind in ("bool", "CrfParameters") and said.is_flag:
        facts |= {"flag_value": False} if default else {}
        facts |= {} if "/" in "".join(said.names) else {"is_flag": True}
    else:
        facts |= _value(kind, said)
        if default is not None and default != ():
            is_tuple = isinstance(default, tuple)
            facts["show_default"] = ",".join(map(str, default)) if is_tuple else True
    return click.option(*(said.names or (option_name(one),)), one.name, **facts)


def _value(kind: str, said: Option) -> dict[str, Any]:
    """Return the type of an option that takes a value."""
    if said.choices:
        return {"type": click.Choice(said.choices)}
    if kind == "int":
        return {"type": click.IntRange(min=said.least)}
    paths = {"file": EXISTING_FILE, "folder": EXISTING_FOLDER, "any": ANY_PATH}
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
    def with_reading(
        *positional: Any, source_layout: str | None, drop_extra: bool, abn: bool, **arguments: Any
    ) -> Any:
        from ademx.convert.files import Reading

        chosen = Reading(source_layout=source_layout, drop_extra=drop_extra, abn=abn)
        return command(*positional, reading=chosen, **arguments)

    add = [
        click.option(
            "--source-layout",
            type=click.Choice(LAYOUTS),
            help="Parameter names in the weights' file.  [default: recognised; the label chooses "
            "between the two wider_resnet]",
        ),
        click.option(
            "--drop-extra",
            is_flag=True,
            help="Leave out what is not the network's, such as other projects' heads.",
        ),
        click.option(
            "--abn",
            is_flag=True,
            help="The weights are of mapillary's InPlaceABN: take |γ| of the normalisations.",
        ),
    ]
    for option in reversed(add):
        with_reading = option(with_reading)
    return with_reading


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


INTEGERS = _Integers()


def devices(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--gpus` and `--cpus`."""
    command = click.option(
        "--cpus",
        type=click.IntRange(min=1),
        help="Compute on the CPU, in so many contexts that share the images.",
    )(command)
    return click.option(
        "--gpus",
        type=INTEGERS,
        default=None,
        help='GPUs to use, such as 0,1; "" for the CPU.  [default: the first GPU, if any]',
    )(command)


# By the type of the field: of a value, and of what is told by several options.
_TYPES = {
    "str": click.STRING,
    "float": click.FLOAT,
    "bool": click.BOOL,
    "tuple[int, ...]": INTEGERS,
    "tuple[float, float]": _Range(),
}
_SEVERAL = {"Devices": devices, "Reading": reading}


def chosen_devices(
    gpus: tuple[int, ...] | None, cpus: int | None, *, backend: str = "mxnet"
) -> Devices:
    """Return what `--gpus` and `--cpus` ask for; without either, the first GPU or one CPU."""
    if gpus and cpus:
        raise click.UsageError("--gpus and --cpus exclude each other: give one of them")
    share_cores(cpus or 1)  # before MXNet is loaded
    from ademx.devices import Devices
    from ademx.engines.backends import default_devices

    if gpus is None and cpus is None:
        return default_devices(backend)
    return Devices(gpus=gpus or (), cpus=cpus or 1)


def check_writable(
    paths: Sequence[Path | None], *, overwrite: bool, made_later: Path | None = None
) -> None:
    """Raise, before any work is done, for a file that could not be written at its end.

    Args:
        paths: of the files; None is none.
        overwrite: whether they may be there.
        made_later: a folder that the work itself makes.

    Raises:
        click.UsageError: its folder is not there, or it is a folder itself.
        FileExistsError: it is there, and `overwrite` is not set.
    """
    for path in filter(None, paths):
        if not path.parent.is_dir() and path.parent != made_later:
            raise click.UsageError(f"{path}: there is no folder {path.parent}: make it first")
        if path.is_dir():
            raise click.UsageError(f"{path} is a folder: expected the name of a file")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists: choose another name or add --overwrite")


def log_to(path: Path | None) -> None:
    """Write the log to a file too, behind what it holds; None writes none."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.getLogger().handlers[0].formatter)
    logging.getLogger().addHandler(handler)
