"""`ademx unravel`: the gradient of a residual network by the length of its paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ademx.cli import options as shared
from ademx.cli.tables import aligned, number
from ademx.errors import InputError
from ademx.files import replacing
from ademx.pictures import check_format, new_figure
from ademx.text import printable
from ademx.unravelling.figure import draw
from ademx.unravelling.found import DEFINITION, LesionRow, Unravelling
from ademx.unravelling.options import UnravelOptions
from ademx.unravelling.run import unravel_weights


@click.command()
@click.argument("label")
@shared.from_class(UnravelOptions)
@shared.from_signature
def unravel(
    plot: Path | None = shared.plot_file("Draw it: a .pdf, .png or .svg file."),
    json_file: Path | None = shared.json_file("Write all of it as JSON too."),
    overwrite: bool = shared.overwrite("Replace files that exist."),
    **arguments: Any,
) -> None:
    """Which lengths of paths the gradient of a residual network takes (arXiv:1611.10080, §3).

    LABEL is a model label (voc_rna-a1_cls21_s8) or a network's name (a1, rn-50).

    A unit adds its branch to its shortcut, so that a gradient is a sum over 2ⁿ paths through n
    units. Grouped by the number of branches on a path the sum is exact. The effective depth is
    the length up to which 95 % of the norms lie; a network with more units is not trained end to
    end, as the paper has it.

    Needs MXNet (`pip install 'ademx[cpu]'`) or PyTorch (`'ademx[torch]'`); --plot needs
    matplotlib (`'ademx[plot]'`). Model A1 at 224 takes a minute or two on two cores.
    """
    if plot:
        check_format(plot.suffix.lstrip(".").lower())
        new_figure()  # whether it can be drawn
    try:
        options = UnravelOptions(**arguments)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    found = unravel_weights(options)
    click.echo(_report(found))
    shared.write_record(json_file, found.to_json())
    if plot:
        with replacing(plot) as file:
            draw(found, file, plot.suffix.lstrip(".").lower())


def _report(found: Unravelling) -> str:
    rows = [("length", "paths", "norm", "norm of one path", "± s.e.", "share %")]
    for row in found.lengths:
        rows.append(
            (
                str(row.length),
                f"{row.paths:,}",
                f"{row.norm:.3e}",
                number(row.mean_path_norm, ".3e"),
                number(row.standard_error, ".1e"),
                f"{100 * row.share:.2f}",
            )
        )
    starved = ", ".join(found.units_starved) or "none"
    settings = found.settings
    height, width = settings["input"]
    parts = [
        f"{settings['label']}: {found.units} units, {len(settings['images'])} images of "
        f"{height}×{width}, {settings['targets']}",
        f"loss {found.loss:.4f}, error {100 * found.error:.2f} %",
        "",
        aligned(rows, num_texts=0),
        "",
        f"effective depth   {found.effective_depth} of {found.units}: {DEFINITION}",
        f"starved units     {starved} (less than 1 % of what the first unit's branch receives)",
        f"gradient's norm   {found.gradient_norm:.3e}; the sum over lengths is off by "
        f"{found.sum_error:.0e} of it",
    ]
    if found.lesions:
        parts += ["", _lesion_table("without the branch of", found.lesions.without_branch)]
        if found.lesions.exchanged:
            parts += ["", _lesion_table("exchanged", found.lesions.exchanged)]
    return printable("\n".join(parts), keep="\n")


def _lesion_table(title: str, rows: tuple[LesionRow, ...]) -> str:
    cells = [(title, "loss", "change", "error %", "change")]
    cells += [
        (
            ", ".join(row.units),
            f"{row.loss:.4f}",
            f"{row.loss_change:+.4f}",
            f"{100 * row.error:.2f}",
            f"{100 * row.error_change:+.2f}",
        )
        for row in rows
    ]
    return aligned(cells)
