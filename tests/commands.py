"""Click's test runner with stdout and stderr apart, in every version of click."""

import inspect

from click.testing import CliRunner


def make_runner() -> CliRunner:
    """Return a runner; click 8.1, the last for Python 3.9, mixes the two unless told not to."""
    if "mix_stderr" in inspect.signature(CliRunner).parameters:
        return CliRunner(mix_stderr=False)
    return CliRunner()
