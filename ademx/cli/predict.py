"""`ademx predict`: labels for any images."""

from __future__ import annotations

from pathlib import Path

import click

from ademx.cli import options as shared
from ademx.prediction.images import Prediction, PredictionOptions, find_images
from ademx.prediction.images import predict as predict_images
from ademx.text import printable

_SHARES_SHOWN = 5


@click.command()
@click.argument("images", type=shared.ANY_PATH, nargs=-1, required=True)
@shared.as_object("options", PredictionOptions)
def predict(images: tuple[Path, ...], options: PredictionOptions) -> None:
    """Label IMAGES, files or folders of them, by the network in a file of weights.

    Classification prints the five best classes with their probabilities and writes
    DIR/classes/<image>.json. Segmentation prints the largest classes with their shares of the
    pixels and writes DIR/labels/<image>.png (the dataset's label ids), DIR/overlays/<image>.png
    (colours over the image, with a legend) and DIR/shares/<image>.json.

    Images are taken as a viewer shows them: turned by their EXIF orientation, grey and palette in
    RGB, transparency over white, 16-bit greys scaled to 8 bits. One that cannot be read is named
    and left out; the exit status is then 1.
    """
    files = find_images(images)
    broken = 0
    for prediction in predict_images(files, options):
        if prediction.error:
            broken += 1
            click.echo(f"left out: {printable(prediction.error)}", err=True)
        else:
            click.echo(_lines(prediction))
    click.echo(f"\nresults: {printable(options.output)}", err=True)
    if broken:
        raise click.ClickException(f"{broken} of {len(files)} images could not be used")


def _lines(prediction: Prediction) -> str:
    """Return the file's name and a line for each of the highest classes."""
    shown = prediction.classes[:_SHARES_SHOWN]
    lines = [f"  {100 * one.value:6.2f} %  {printable(one.name)}" for one in shown]
    rest = len(prediction.classes) - len(shown)
    if rest:
        lines.append(f"            and {rest} more")
    return "\n".join([printable(prediction.image), *lines])
