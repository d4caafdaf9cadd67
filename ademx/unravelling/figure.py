"""What was found of a network as a figure: paths, norms and shares by length, and lesions."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from ademx.pictures import check_format, new_figure
from ademx.unravelling.found import DEPTH_SHARE, Unravelling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = (4.4, 3.4)  # inches


def draw(found: Unravelling, file: BinaryIO, picture_format: str) -> None:
    """Draw a panel for the number of paths, for norms, for shares, and for lesions if any.

    Args:
        found: of the network.
        file: to write the picture to.
        picture_format: one of :data:`ademx.pictures.FORMATS`.

    Raises:
        ValueError: an unknown format.
        MissingDependency: matplotlib is not installed.
    """
    check_format(picture_format)
    panels = [_draw_paths, _draw_norms, _draw_shares, *([_draw_lesions] if found.lesions else [])]
    figure = new_figure()
    columns = 3 if len(panels) == 3 else 2
    rows = len(panels) // columns
    figure.set_size_inches(_PANEL[0] * columns, _PANEL[1] * rows + 0.3)
    for position, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, position)
        panel(axes, found)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    images = len(found.settings.get("images", ()))
    title = found.settings.get("label", "")
    figure.suptitle(f"{title}, {found.units} units, {images} images", fontsize="medium")
    figure.savefig(file, format=picture_format, dpi=120)


def _draw_paths(axes: Axes, found: Unravelling) -> None:
    axes.bar([row.length for row in found.lengths], [row.paths for row in found.lengths])
    _name(axes, "number of paths", "length: branches on a path")


def _draw_norms(axes: Axes, found: Unravelling) -> None:
    lengths = [row.length for row in found.lengths]
    axes.plot(
        lengths, [row.norm for row in found.lengths], "o-", markersize=3, label="sum over paths"
    )
    single = [
        (row.length, row.mean_path_norm, row.standard_error or 0.0)
        for row in found.lengths
        if row.mean_path_norm is not None
    ]
    places, means, errors = zip(*single)
    label = "one path: mean, standard error"
    axes.errorbar(places, means, errors, fmt="s-", markersize=3, capsize=2, label=label)
    axes.set_yscale("log", nonpositive="mask")
    axes.legend(fontsize="small")
    _name(axes, "norm of the gradient", "length")


def _draw_shares(axes: Axes, found: Unravelling) -> None:
    axes.bar([row.length for row in found.lengths], [100 * row.share for row in found.lengths])
    depth = found.effective_depth
    label = f"{100 * DEPTH_SHARE:g} % up to the\neffective depth, {depth}"
    axes.axvline(depth, color="black", linestyle="--", linewidth=1, label=label)
    axes.legend(fontsize="small", loc="upper left" if 2 * depth > found.units else "upper right")
    axes.margins(y=0.3)  # the legend's place
    _name(axes, "share of the sum of norms, %", "length")


def _draw_lesions(axes: Axes, found: Unravelling) -> None:
    if found.lesions is None:
        return
    rows = found.lesions.without_branch
    places = range(len(rows))
    axes.bar(places, [row.loss_change for row in rows])
    axes.set_xticks(places, [row.units[0].removeprefix("res") for row in rows], rotation=90)
    axes.tick_params(axis="x", labelsize="small" if len(rows) < 30 else "xx-small")
    if max(abs(row.loss_change) for row in rows) > 1:
        axes.set_yscale("symlog", linthresh=0.1)
    _name(axes, "change of the loss without a unit's branch", "unit")


def _name(axes: Axes, title: str, across: str) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(across)
    if across != "unit":
        axes.locator_params(axis="x", integer=True)
