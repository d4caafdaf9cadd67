"""Which class each label of an annotation tool means; nothing is guessed."""

from __future__ import annotations

import difflib
import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ademx.errors import InputError
from ademx.text import first_few
from iters.datasets import VOID
from iters.files import read_text

_log = logging.getLogger(__name__)

IGNORED = "__ignore__"  # labelme's word for what no class is asked of
BACKGROUND = "background"
_BACKGROUNDS = (BACKGROUND, "_background_")  # labelme's word for it is the second

_ALIKE = 0.7  # of difflib's ratio, for labels
_RARE = 10  # times as often has the other of two alike labels


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset to make.

    Attributes:
        names: of each class id.
        ids: stored id of each label whose shapes are drawn, which is a class id or 255 for none.
        unlabelled: stored id where there is no shape.
        order: which of overlapping shapes wins, "first" or "last".
    """

    names: tuple[str, ...]
    ids: Mapping[str, int]
    unlabelled: int
    order: str


def choose_classes(
    counts: Mapping[str, int],
    *,
    labels: Path | None,
    unlisted: str,
    unlabelled: str,
    order: str,
) -> Classes:
    """Return the classes of labels that were found.

    Args:
        counts: number of shapes of each label, in the order of the classes if no file gives it.
        labels: a file with a class a line; labels behind it, after tabs, mean the same. None:
            each label is a class.
        unlisted: "skip" or "void" for shapes whose label the file does not list, or "refuse".
        unlabelled: "background", a class, or "void": what pixels without a shape are.
        order: which of overlapping shapes wins, "first" or "last".

    Raises:
        ValueError: a label is not listed; the file is malformed; there is no label.
    """
    if labels is None:
        rows = sorted(([label] for label in counts), key=lambda row: row[0] not in _BACKGROUNDS)
    else:
        rows = list(_read_labels(labels))
    # The class that a label means, in the order of the classes.
    means = {label: row[0] for row in rows for label in row}
    means = {label: BACKGROUND if name in _BACKGROUNDS else name for label, name in means.items()}
    if unlabelled == BACKGROUND and BACKGROUND not in means.values():
        means = {**dict.fromkeys(_BACKGROUNDS, BACKGROUND), **means}
    names = tuple(name for name in dict.fromkeys(means.values()) if name != IGNORED)
    ids = {label: VOID if name == IGNORED else names.index(name) for label, name in means.items()}
    ids.setdefault(IGNORED, VOID)
    if labels is None:
        _warn_of_alike(counts)
    else:
        _check_unlisted(counts, ids, labels, unlisted)
        unused = sorted(
            {*names}
            - {names[ids[label]] for label in counts if ids.get(label, VOID) != VOID}
            - {BACKGROUND}
        )
        if unused:
            _log.warning("%s: classes without a shape: %s", labels, first_few(unused))
    if all(ids.get(label, VOID) == VOID for label, number in counts.items() if number):
        raise InputError("found no shape with the label of a class: there is nothing to learn")
    if unlisted == "void":
        ids = {**dict.fromkeys(counts, VOID), **ids}
    background = VOID if unlabelled == "void" else names.index(BACKGROUND)
    return Classes(names, ids, background, order)


def _read_labels(path: Path) -> Iterator[list[str]]:
    """Yield the class of each line with the labels that mean it."""
    known: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        row = line.split("\t")
        for label in row:
            if label in known:
                raise InputError(
                    f"{path}, line {number}: found {label!r} again, as in line {known[label]}: "
                    "expected each label once"
                )
            known[label] = number
        yield row
    if not known:
        raise InputError(f"{path}: the file is empty: expected a class a line")


def _check_unlisted(
    counts: Mapping[str, int], ids: Mapping[str, int], path: Path, unlisted: str
) -> None:
    """Raise ValueError for labels that are not listed, or tell what becomes of them."""
    others = [
        f"{label!r} ({counts[label]:,}{_listed_like(label, list(ids))})"
        for label in counts
        if label not in ids
    ]
    if others and unlisted == "refuse":
        raise InputError(
            f"labels that {path} does not list, with their numbers of shapes: "
            f"{', '.join(others)}: correct them; list each as a class, or behind one, after a tab, "
            "as another name of it; or add --unlisted skip or --unlisted void"
        )
    if others:
        done = "left out" if unlisted == "skip" else "drawn as no class (255)"
        _log.warning(
            "shapes of labels that %s does not list are %s: %s", path, done, ", ".join(others)
        )


def _listed_like(label: str, listed: Sequence[str]) -> str:
    same = [other for other in listed if _key(other) == _key(label)]
    near = same or difflib.get_close_matches(label, listed, n=1, cutoff=_ALIKE)
    return f"; listed is {near[0]!r}" if near else ""


def _warn_of_alike(counts: Mapping[str, int]) -> None:
    labels = sorted(counts)
    pairs = [
        f"{one!r} ({counts[one]:,}) and {other!r} ({counts[other]:,})"
        for position, one in enumerate(labels[:VOID])
        for other in labels[position + 1 : VOID]
        if _are_alike(one, other, counts)
    ]
    if pairs:
        _log.warning(
            "labels that look alike, each of which is a class of its own now: %s: correct them, "
            "or join them by --labels",
            first_few(pairs),
        )


def _are_alike(one: str, other: str, counts: Mapping[str, int]) -> bool:
    if _key(one) == _key(other):
        return True
    few, many = sorted((counts[one], counts[other]))
    return 0 < few * _RARE <= many and difflib.SequenceMatcher(None, one, other).ratio() >= _ALIKE


def _key(label: str) -> str:
    """Return what stays of a label without capitals, spaces and punctuation, in one spelling."""
    key = unicodedata.normalize("NFKC", label).casefold()
    return "".join(filter(str.isalnum, key)) or label
