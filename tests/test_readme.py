"""README: its commands, links and files exist, and it stays a page that is read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from ademx.cli import main
from ademx.published import RESULTS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCKS = "\n".join(re.findall(r"^    (.*)$", TEXT, re.MULTILINE)).replace("\\\n", " ")
COMMANDS = sorted(
    {
        line.partition("ademx ")[2].partition("  #")[0]
        for line in _BLOCKS.splitlines()
        if re.search(r"(^|-m | )ademx (?!demo\b)\w+ ", line)
    }
    | set(re.findall(r"`ademx ([^`]+)`", TEXT.replace("\n", " ")))
)


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words begin with, and the words that follow."""
    command: click.Command = main
    context = click.Context(command)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        if found is None:
            break
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_their_options_exist(line):
    command, words = find_command(shlex.split(line))
    assert command is not main and not (isinstance(command, click.Group) and words), line
    if command.name == "launch" and "--" in words:
        test_commands_and_their_options_exist(shlex.join(words[words.index("--") + 1 :]))
        words = words[: words.index("--")]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    given = {word for word in words if word.startswith("--") and word != "--help"}
    assert given <= known, f"ademx {line}: no such option"


def test_there_are_commands():
    assert len(COMMANDS) > 20


def test_links_and_pictures_are_there():
    pictures = [ROOT / path for path in re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)]
    assert len(pictures) == 2
    assert sum(path.stat().st_size for path in pictures) < 300_000
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    for script in re.findall(r"tools/\w+\.\w+", TEXT):
        assert (ROOT / script).is_file(), script


def test_files_names_extras_and_targets_are_there():
    folders = "ademx|iters|symbols|tools|tests"
    paths = set(re.findall(rf"`((?:{folders})/[\w./]*)`", TEXT))
    assert len(paths) > 10
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    names = re.findall(rf"`(\w+)` of\s+`((?:{folders})/[\w./]+)`", TEXT)
    assert len(names) > 4
    for name, path in names:
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in re.findall(r"'(?:\.|ademx)\[(\w+)\]'", TEXT):
        assert f'"{extra}": ' in setup, extra
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)`", TEXT):
        assert f"\n{target}:" in makefile, target


def test_rows_are_those_of_the_table():
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d. /]+) % \| not run \|$", TEXT, re.MULTILINE)
    published = {row.name: row for row in RESULTS}
    assert len(rows) == 6
    for name, values in rows:
        assert values == " / ".join(map(published[name].printed, published[name].values))
    assert f"prints all {len(RESULTS)}." in TEXT


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 220
