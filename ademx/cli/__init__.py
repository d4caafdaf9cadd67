"""The `ademx` command: one click group, one module per command, loaded when it is called."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from typing import Any

import click

import ademx
from ademx.cli.process import LogFormatter, is_told, prepare_streams, unwinding
from ademx.errors import UserError
from ademx.text import printable

# Command, which has a module of its name -> its help in a line, so that `ademx --help` loads none.
_COMMANDS = {
    "compare": "Two or more test runs beside each other.",
    "convert": "Weights to and from PyTorch, in several layouts.",
    "data": "Datasets: make lists, import yours, check files, draw one.",
    "demo": "All of it in minutes on generated data, no GPU.",
    "doctor": "What the engines find on this machine, and how to mend it.",
    "evaluate": "Test weights on a dataset and print the scores.",
    "launch": "Several workers of one training on this machine.",
    "plot": "Draw the curves of training runs.",
    "train": "Train a classifier or a segmentation network.",
    "predict": "Label images: five best classes, or a class each pixel.",
    "reproduce": "The published table beside ours: test or train a row.",
    "summary": "Parameters, operations, memory and depth, per level.",
    "symbol": "The graph beside the weights, for plain MXNet.",
    "unravel": "Lengths of the paths that gradients take; lesions.",
    "weights": "The released weights: list, verify, show.",
}


class _LazyGroup(click.Group):
    """Lists commands without importing them, so that `--help` needs neither MXNet nor torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"ademx.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's mistake becomes one line on stderr and exit status 1."""
        prepare_streams()
        try:
            with unwinding():
                return super().invoke(ctx)
        except BrokenPipeError:  # of a reader that has seen enough: click ends quietly
            raise
        except click.ClickException as error:
            told = error
        except (UserError, OSError) as error:
            of_the_system = isinstance(error, UserError) or error.errno is not None
            if not of_the_system or logging.getLogger().isEnabledFor(logging.DEBUG):
                raise
            told = click.ClickException(str(error))
        told.message = printable(told.message, keep="\n\t")
        if is_told(told.message):
            raise click.exceptions.Exit(told.exit_code)
        raise told


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ademx.__version__, prog_name="ademx")
@click.option("--debug", is_flag=True, help="Log debug messages and show tracebacks.")
def main(debug: bool) -> None:
    """The Wider or Deeper networks (ResNet-38, arXiv:1611.10080) on MXNet 1.9 and PyTorch."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(
        handlers=[handler], level=logging.DEBUG if debug else logging.INFO, force=True
    )
    # Pillow's, of half the pixels that are refused, tears bars.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
