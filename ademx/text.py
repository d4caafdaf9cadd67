"""Foreign text for terminals, logs and tables: names of files, classes and parameters."""

from __future__ import annotations

import unicodedata

# Control characters; invisible ones, of which some turn the reading direction around; halves of
# characters; separators of lines and paragraphs.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# They join letters in the scripts of India and Persia, and the parts of an emoji.
_JOINERS = "\u200c\u200d"


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


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        character = chr(ord(character) - 0xDC00)
    return character.encode("unicode_escape").decode("ascii")
