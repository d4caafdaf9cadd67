"""Tables on stdout."""

from __future__ import annotations

from collections.abc import Sequence

from ademx.text import printable


def number(value: float | None, form: str = ".2f") -> str:
    """Return a number in this form, "–" for None and nan."""
    return "–" if value is None or value != value else format(value, form)


def aligned(rows: Sequence[Sequence[str]], *, num_texts: int = 1) -> str:
    """Return rows as lines: the first `num_texts` columns to the left, numbers to the right.

    Cells may hold foreign names: what could act on a terminal is escaped.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if position < num_texts else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )
