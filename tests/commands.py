"""Click's test runner with stdout and stderr apart, in every version of click; and pages' text."""

import inspect
import re
from pathlib import Path

from click.testing import CliRunner


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
