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

# Command -> (module, its one-line help, so that `ademx --help` loads none of them).
_COMMANDS = {
    "compare": ("ademx.cli.compare", "Two or more test runs beside each other."),
    "convert": ("ademx.cli.convert", "Weights to and from PyTorch, in several layouts."),
    "data": ("ademx.cli.data", "Datasets: make lists, import yours, check files, draw one."),
    "demo": ("ademx.cli.demo", "All of it in minutes on generated data, no GPU."),
    "doctor": ("ademx.cli.doctor", "What MXNet finds on this machine, and how to mend it."),
    "evaluate": ("ademx.cli.evaluate", "Test weights on a dataset and print the scores."),
    "launch": ("ademx.cli.launch", "Several workers of one training on this machine."),
    "plot": ("ademx.cli.plot", "Draw the curves of training runs."),
    "train": ("ademx.cli.train", "Train a classifier or a segmentation network."),
    "predict": ("ademx.cli.predict", "Label images: five best classes, or a class each pixel."),
    "reproduce": ("ademx.cli.reproduce", "The published table beside ours: test or train a row."),
    "summary": ("ademx.cli.summary", "Parameters, operations, memory and depth, per level."),
    "symbol": ("ademx.cli.symbol", "The graph beside the weights, for plain MXNet."),
    "unravel": ("ademx.cli.unravel", "Lengths of the paths that gradients take; lesions."),
    "weights": ("ademx.cli.weights", "The released weights: list, verify, show."),
}


class _LazyGroup(click.Group):
    """Lists commands without importing them, so that `--help` needs neither MXNet nor torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's mistake becomes one line on stderr and exit status 1."""
        prepare_streams()
        try:
            with unwinding():
                return super().invoke(ctx)
        except click.ClickException as error:
            error.message = printable(error.message, keep="\n\t")
            if is_told(error.message):
                raise click.exceptions.Exit(error.exit_code) from error
            raise
        except BrokenPipeError:  # of a reader that has seen enough: click ends quietly
            raise
        except (UserError, OSError) as error:
            of_the_system = isinstance(error, UserError) or error.errno is not None
            if not of_the_system or logging.getLogger().isEnabledFor(logging.DEBUG):
                raise
            message = printable(error, keep="\n\t")
            if is_told(message):
                raise click.exceptions.Exit(1) from error
            raise click.ClickException(message) from error


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
