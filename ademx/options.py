"""One declaration of an option: the field of the options class that it sets.

The command line (:mod:`ademx.cli.options`), the check of a value by itself, and what a run's
record keeps are made from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ademx.devices import Devices
from ademx.errors import InputError
from ademx.forms import differing
from iters.exif import RULES
from symbols.levels import HEADS, POOL_GEOMETRIES


@dataclass(frozen=True)
class Option:
    """What is said of an option beside its name, type and default.

    Attributes:
        help: of the command line; a default that is worked out later is told there too.
        names: on the command line, where they are not the field's own.
        choices: all values that it may have; empty for any.
        least: the smallest number that it may be.
        metavar: what the command line shows for its value.
        path: "file" or "folder" that has to be there, "output" for a folder that need not be,
            "new" for a file that must not be without --overwrite, or "any".
        required: whether the command line asks for it where the field has no default.
        is_flag: of truth values: whether the option takes no value.
        decides: whether results depend on it; else it says where, how fast or how long.
        is_recorded: whether its default is recorded too; runs of before there was the option
            have no such key.
    """

    help: str
    names: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    least: int | None = None
    metavar: str | None = None
    path: str = "any"
    required: bool = True
    is_flag: bool = True
    decides: bool = True
    is_recorded: bool = True


def option(default: Any = MISSING, help: str = "", **facts: Any) -> Any:
    """Return a dataclass's field that is an option; `facts` are those of :class:`Option`."""
    return field(default=default, metadata={"option": Option(help, **facts)})


# An option that says where, how fast or how long a command runs: no result depends on it.
run_option = partial(option, decides=False)


def other_default(base: type, name: str, default: Any, help: str = "") -> Any:
    """Return the field of another class's option with another default, and help if given."""
    found = next(one for one in dataclasses.fields(base) if one.name == name)
    said: Option = found.metadata["option"]
    changed = dataclasses.replace(said, help=help or said.help)
    return field(default=default, metadata={"option": changed})


# Options of several classes.
data_root = partial(run_option, help="Folder of the dataset.", path="folder")
list_file = partial(run_option, None, "The samples, paths relative to the data root.", path="file")
dataset = partial(
    option,
    None,
    "The dataset; a YAML file describes your own.  [default: from the label]",
    metavar="NAME|FILE.yaml",
)
exif = partial(
    option,
    "auto",
    "Turn an image as its EXIF orientation says; auto: where only that fits its label's size.",
    choices=RULES,
    is_recorded=False,
)
choose_interp_method = partial(
    option,
    True,
    "Always resize by the bicubic filter.",
    names=("--no-choose-interp-method",),
)
test_flipping = partial(option, False, "Average with the mirrored image.")
tile = partial(
    option,
    None,
    "For large images, segmentation: give the network tiles of this size, pixels, of the image "
    "as --test-scales resizes it, one after another; the network's memory is then the tile's.",
    metavar="HxW",
    is_recorded=False,
)
overlap = partial(
    option,
    None,
    "Pixels that neighbouring tiles share, and across which one fades into the other; a pixel of "
    "Model A1's output depends on 470 to each side.  "
    "[default: a quarter of their shorter side]",
    least=0,
    is_recorded=False,
)
width = partial(option, 1.0, "Times all channels.")
head = partial(option, "2conv", choices=HEADS)


def pool(note: str = "", default: str | None = "pad", **facts: Any) -> Any:
    """Return the field of `--pool`, with a note behind its help."""
    told = "  [default: pad]" if default is None else ""
    help = f"Geometry of max pooling{note}.{told}"
    return option(default, help, choices=POOL_GEOMETRIES, **facts)


def declared(one: Any) -> Option | None:
    """Return what is said of a field; None for one, or anything else, that is no option."""
    return one.metadata.get("option") if isinstance(one, Field) else None


def option_name(field_name: str) -> str:
    """Return a field's name on the command line."""
    return f"--{field_name.replace('_', '-')}"


def _values(options: Any) -> Iterator[tuple[Field[Any], Option, Any]]:
    """Yield each option of an object: its field, what is said of it, and the value."""
    for one in dataclasses.fields(options):
        if (said := declared(one)) is not None:
            yield one, said, getattr(options, one.name)


def check(options: Any) -> None:
    """Raise ValueError for a value that is none of its option's choices, or too small."""
    for one, said, value in _values(options):
        if value is None:
            continue
        if said.choices and value not in said.choices:
            choices = ", ".join(said.choices)
            raise InputError(f"{option_name(one.name)} {value}: choose one of {choices}")
        if said.least is not None and value < said.least:
            raise InputError(f"{option_name(one.name)} {value}: expected {said.least} or above")


def check_tile(options: Any) -> None:
    """Raise ValueError for a `tile` and an `overlap` that do not fit each other."""
    tile, overlap = options.tile, options.overlap
    if tile is None and overlap is not None:
        raise InputError("--overlap has no effect without --tile: add it")
    if tile is not None and (min(tile) < 1 or (overlap or 0) >= min(tile)):
        sides = "x".join(map(str, tile))
        raise InputError(
            f"--tile {sides} --overlap {overlap or 0}: expected sides above 0 and less overlap"
        )


def deciding(options: Any) -> dict[str, Any]:
    """Return the options that decide results, as JSON has them."""
    return {
        one.name: _json_value(value)
        for one, said, value in _values(options)
        if said.decides and (said.is_recorded or value != one.default)
    }


def chosen(options: Any) -> dict[str, Any]:
    """Return the options that decide results and are not as they are by default."""
    return {
        one.name: value
        for one, said, value in _values(options)
        if said.decides and value != one.default
    }


def command_line(options: Any) -> list[str]:
    """Return the arguments that make the options: those that are not as they are by default."""
    arguments: list[str] = []
    for one in dataclasses.fields(options):
        said, value = declared(one), getattr(options, one.name)
        if isinstance(value, Devices):
            gpus = ",".join(map(str, value.gpus))
            arguments += ["--gpus", gpus] if gpus else ["--cpus", f"{value.cpus}"]
        elif said is None and dataclasses.is_dataclass(value):
            arguments += command_line(value)
        elif said is not None and value != one.default and value is not None:
            arguments += _arguments((said.names or (option_name(one.name),))[0], value, said)
    return arguments


def differences(options: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in words which settings of two runs differ, options as they are typed, or "".

    Args:
        options: a run's, whose class declares the options.
        before: settings of the other run, as JSON has them, which may lack some.
        now: settings of this one.
    """
    fields = [
        one
        for part in (options, *vars(options).values())
        if dataclasses.is_dataclass(part)
        for one in dataclasses.fields(part)
    ]
    declared_as = {one.name: (one, said) for one in fields if (said := declared(one)) is not None}
    told = []
    for name, values in sorted(differing(before, now).items()):
        if name not in declared_as:
            told.append("{} was {!r}, now {!r}".format(name, *values))
            continue
        one, said = declared_as[name]
        typed = (said.names or (option_name(name),))[0]
        words = (_setting_text(typed, value, one, said) for value in values)
        told.append("{} was {}, now {}".format(typed, *words))
    return "; ".join(told)


def _setting_text(typed: str, value: Any, one: Field[Any], said: Option) -> str:
    """Return a setting as JSON has it in the words of the command line, behind the option."""
    if value in (None, []):
        return "not given"
    if isinstance(value, bool) and said.is_flag:
        if "/" in typed:
            return typed.split("/")[not value]
        return "not given" if value == one.default else "given"
    return _typed(value, said)


def _arguments(name: str, value: Any, said: Option) -> list[str]:
    """Return what sets an option, by its first name, to a value that is not its default."""
    value = _json_value(value)
    if isinstance(value, dict):
        return [name, f"{name}-params", _typed(value, said)]
    if isinstance(value, bool) and said.is_flag:
        return [name.split("/")[0 if value else -1]]
    if isinstance(value, list) and isinstance(value[0], Path):
        return [part for path in value for part in (name, str(path))]
    return [name, _typed(value, said)]


def _typed(value: Any, said: Option) -> str:
    """Return a value as JSON has it as it is typed behind its option."""
    if isinstance(value, dict):
        return ",".join(f"{key}={part}" for key, part in value.items())
    parts = value if isinstance(value, list) else [value]
    return ("x" if said.metavar == "HxW" else ",").join(map(str, parts))


def _json_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value
