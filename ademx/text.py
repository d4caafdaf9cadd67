"""Foreign text for terminals, logs and tables: names of files, classes and parameters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# Control characters; invisible ones, of which some turn the reading direction around; halves of
# characters; separators of lines and paragraphs.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# They join letters in the scripts of India and Persia, and the parts of an emoji.
_JOINERS = "\u200c\u200d"
# What begins and what ends a text whose direction is its own.
ISOLATES = "\u2068\u2069"
_FROM_THE_RIGHT = frozenset({"R", "AL", "AN"})


def printable(text: object, *, keep: str = "") -> str:
    r"""Return a text with every character escaped that could act on a terminal, such as `\x1b`.

    Letters of all scripts stay as they are. A byte of a file name that is not UTF-8, which Python
    holds as half a character, comes out as that byte, `\xe9`.

    Args:
        text: what is to be shown; what is no string is taken as `str` shows it.
        keep: characters that stay, such as a line break in a text of several lines.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        _escaped(character)
        if unicodedata.category(character) in _ESCAPED_CATEGORIES
        and character not in _JOINERS
        and character not in keep
        else character
        for character in shown
    )


def first_few(names: Iterable[object], *, shown: int = 8, separator: str = ", ") -> str:
    """Return the first of the names, printable, and how many more there are, for a message."""
    names = list(names)
    rest = len(names) - shown
    more = f"{separator.rstrip(', ')} and {rest:,} more" if rest > 0 else ""
    return separator.join(map(printable, names[:shown])) + more


def one_line(error: BaseException) -> str:
    """Return the line of an error's message that says what is wrong, which in MXNet's is the last.

    Its errors begin with what stood on the stack.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def isolated(text: object) -> str:
    """Return a printable text that does not change the order of what stands beside it.

    Where a text runs from the right to the left it gets the marks that `<bdi>` stands for, for
    places that can have no element: titles, options, drawings.
    """
    shown = printable(text)
    turns = any(unicodedata.bidirectional(character) in _FROM_THE_RIGHT for character in shown)
    return shown.join(ISOLATES) if turns else shown


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        character = chr(ord(character) - 0xDC00)
    return character.encode("unicode_escape").decode("ascii")
