"""Names of files and classes that would act on a terminal."""

from __future__ import annotations

import os

import pytest

from ademx.text import first_few, isolated, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("traffic light", "traffic light"),
        ("épée 路 ж\u00a0\u202f", "épée 路 ж\u00a0\u202f"),
        ("\u200cک\u200d", "\u200cک\u200d"),
        ("a\x1b[2Jb\x07", r"a\x1b[2Jb\x07"),
        ("a\nb\r\tc\x7f\x9b", r"a\nb\r\tc\x7f\x9b"),
        ("a\u202eb\u2028", r"a\u202eb\u2028"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
        (12, "12"),
    ],
)
def test_what_acts_on_a_terminal_is_escaped(name, shown):
    assert printable(name) == shown


def test_line_breaks_may_stay():
    assert printable("two\nlines\x1b", keep="\n") == "two\nlines\\x1b"


def test_of_many_names_the_first_are_said():
    assert first_few(["a", "b\n"], shown=2) == r"a, b\n"
    assert first_few("abc", shown=2) == "a, b and 1 more"
    assert first_few("abc", shown=1, separator="; ") == "a; and 2 more"


def test_what_runs_from_the_right_is_isolated():
    assert isolated("a\x1b") == r"a\x1b"
    assert isolated("חתול") == "\u2068חתול\u2069"
    assert isolated("\u2069قط\u202e") == "\u2068\\u2069قط\\u202e\u2069"  # it cannot end it itself
