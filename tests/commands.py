"""Commands run as their user runs them, with stdout and stderr apart; and what pages say."""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ademx.cli import main


def main_text(page: Path) -> str:
    """Return what an HTML file's main part says, without its scripts, a space for each tag."""
    main = re.search("<main.*</main>", page.read_text(encoding="utf-8"), re.DOTALL)
    text = re.sub("<script.*?</script>", "", main.group(), flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", " ", text).split())


def make_runner() -> CliRunner:
    """Return a runner; click 8.1, the last for Python 3.9, mixes the two unless told not to."""
    if "mix_stderr" in inspect.signature(CliRunner).parameters:
        return CliRunner(mix_stderr=False)
    return CliRunner()


def run_evaluate(task: str, weights, data: Path, output: Path, *options: object) -> Result:
    """Run `ademx evaluate TASK`, at scale 64 and on one CPU unless `options` say otherwise.

    `weights` is a file or several.
    """
    files = [weights] if isinstance(weights, Path) else weights
    arguments = [*(f"--weights={file}" for file in files), "--data-root", data, "--output", output]
    if "--test-scales" not in options:
        arguments += ["--test-scales", 64]
    if not {"--gpus", "--cpus"} & set(options):
        arguments += ["--cpus", 1]
    command = ["evaluate", task, *map(str, (*arguments, *options))]
    result = make_runner().invoke(main, command)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def options_of(command: Sequence[str]) -> object:
    """Return the options object that `ademx evaluate` or `ademx train` makes of arguments."""
    taken: list[object] = []

    def take(options: object) -> None:
        taken.append(options)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ademx.training.run.train", take)
        patch.setattr("ademx.cli.evaluate.run_test", take)
        result = make_runner().invoke(main, [*map(str, command)])
    assert taken, result.output
    return taken[0]
