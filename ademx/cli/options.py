"""Options that several commands share, and the types that parse them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)


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


INTEGERS = _Integers()


def devices(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--gpus` and `--cpus`."""
    command = click.option(
        "--cpus",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="CPU contexts that share the images, where no GPU is used.",
    )(command)
    return click.option(
        "--gpus",
        type=INTEGERS,
        default=None,
        help='GPUs to use, such as 0,1; "" for the CPU.  [default: the first GPU, if any]',
    )(command)
