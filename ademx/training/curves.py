"""The curves of training runs, from their `metrics.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ademx.errors import InputError, MissingFile
from ademx.pictures import check_format, new_figure
from ademx.published import METRIC_NAMES
from ademx.training.progress import METRICS_FILE, parse_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POSITION = ("epoch", "update", "seconds")  # where a line is, not what was measured
_RATE = "lr"
_VALIDATION = "val"
_TITLES = {
    **{name: f"{title}, %" for name, title in METRIC_NAMES.items()},
    "mean_accuracy": "mean accuracy, %",
    "lr": "learning rate",
    "data_wait": "share of time waiting for data",
    "images_per_second": "images per second",
}
_STYLES: dict[str, dict[str, Any]] = {
    "update": {"linewidth": 1},
    "epoch": {"linestyle": "", "marker": "o", "markersize": 4},
    _VALIDATION: {
        "linestyle": "--",
        "marker": "D",
        "markersize": 4,
        "markeredgecolor": "black",
    },
}
_TOO_LARGE = 1e100  # nothing measured is; matplotlib cannot space an axis of the largest floats
_PANEL = (6.0, 3.2)  # inches


@dataclass(frozen=True)
class Run:
    """The curves of one run.

    Attributes:
        name: for the legend.
        curves: kind of line ("update", "epoch" or "val") -> what was measured -> update -> value.
    """

    name: str
    curves: dict[str, dict[str, dict[int, float]]]


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """Return the curves of runs, each named by its folder, or its path where names would agree.

    Args:
        paths: folders with a `metrics.jsonl`, or such files.

    Raises:
        FileNotFoundError: a folder has none.
        ValueError: a line that is not one of a run's metrics, or no line at all. The last line
            may be cut off, as it is while a run writes it.
    """
    files = [path / METRICS_FILE if path.is_dir() else path for path in paths]
    for file in files:
        if not file.is_file():
            raise MissingFile(
                f"{file}: there is no such file; name the --output folder of `ademx train`"
            )
    names = [file.resolve().parent.name for file in files]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [Run(name, _curves(file)) for name, file in zip(names, files)]


def _curves(file: Path) -> dict[str, dict[str, dict[int, float]]]:
    curves: dict[str, dict[str, dict[int, float]]] = {}
    lines = file.read_bytes().splitlines()
    for number, text in enumerate(lines, 1):
        try:
            line = parse_line(text)
        except InputError as error:
            if number == len(lines):
                break
            raise InputError(f"{file}, line {number}: {error}") from None
        kind, update = str(line.get("kind", "update")), line["update"]
        for name, value in line.items():
            # A resumed run writes updates again: the last line counts.
            if name not in _POSITION and _is_number(value):
                curves.setdefault(kind, {}).setdefault(name, {})[update] = float(value)
    if not curves:
        raise InputError(f"{file}: holds no complete line of metrics yet")
    return curves


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float) and not _TOO_LARGE < abs(value) < math.inf


def draw(runs: Sequence[Run], file: BinaryIO, picture_format: str) -> None:
    """Draw one panel for each thing measured, over updates, with all runs that measured it.

    Thin lines are parts of an epoch, dots whole epochs, dashed lines the val split. All panels
    have the same axis of updates; the val split's score, if any, is below the loss.

    Args:
        runs: as :func:`load_runs` returns them.
        file: to write the picture to.
        picture_format: one of :data:`ademx.pictures.FORMATS`.

    Raises:
        ValueError: an unknown format.
        MissingDependency: matplotlib is not installed.
    """
    check_format(picture_format)
    figure = new_figure()
    names = _panels(runs)
    columns = 1 if len(names) == 1 else 2
    rows = math.ceil(len(names) / columns)
    figure.set_size_inches(_PANEL[0] * columns, _PANEL[1] * rows + 0.4)
    first: Axes | None = None
    for number, name in enumerate(names):
        column, row = divmod(number, rows)
        place = figure.add_subplot(rows, columns, 1 + row * columns + column, sharex=first)
        _draw_panel(place, runs, name)
        first = first or place
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(file, format=picture_format, dpi=120)


def _panels(runs: Sequence[Run]) -> list[str]:
    """Return what any run measured: the loss, the val split's first score, the rate, the rest."""
    kinds = [curves for run in runs for curves in run.curves.values()]
    names = list(dict.fromkeys(name for curves in kinds for name in curves))
    scores = [name for run in runs for name in run.curves.get(_VALIDATION, ())]
    # The rate is first in the files, and the loss next.
    first = [*[name for name in names if name != _RATE][:1], *scores[:1], _RATE]
    return [name for name in dict.fromkeys((*first, *names)) if name in names]


def _draw_panel(axes: Axes, runs: Sequence[Run], name: str) -> None:
    for number, run in enumerate(runs):
        for kind, style in _STYLES.items():
            # Each run has lines in each panel, even empty ones, for the legend of them all.
            curve = sorted(run.curves.get(kind, {}).get(name, {}).items())
            label = run.name if kind == "update" else None
            updates, values = [one for one, _ in curve], [one for _, one in curve]
            axes.plot(updates, values, color=f"C{number}", label=label, **style)
    is_tested = any(name in run.curves.get(_VALIDATION, ()) for run in runs)
    title = _TITLES.get(name, name.replace("_", " ")) + (" (val dashed)" if is_tested else "")
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("update")
    axes.grid(alpha=0.3)
