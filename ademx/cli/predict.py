"""`ademx predict`: labels for any images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ademx.cli import options as shared
from ademx.text import printable

if TYPE_CHECKING:
    from ademx.convert.files import Reading
    from ademx.prediction.images import Prediction

_SHARES_SHOWN = 5


@click.command()
@click.argument("images", type=shared.ANY_PATH, nargs=-1, required=True)
@click.option(
    "--weights",
    type=shared.EXISTING_FILE,
    required=True,
    help=".params, .pth, .safetensors or .onnx file.",
)
@click.option("--output", type=shared.ANY_PATH, required=True, help="Folder for the results.")
@click.option(
    "--backend",
    type=click.Choice(["mxnet", "torch", "onnx"]),
    help="What computes.  [default: onnx for an .onnx file, else the first that is installed]",
)
@click.option("--label", help="Model label of the weights.  [default: from the file]")
@shared.dataset
@click.option(
    "--test-scales",
    type=shared.INTEGERS,
    help="Lengths of the shorter side (classification, default 320) or the longer side "
    "(segmentation, default 500, Cityscapes 2048); the results of several are averaged.",
)
@click.option("--test-flipping", is_flag=True, help="Average with the mirrored image.")
@click.option(
    "--exif",
    type=click.Choice(["turn", "ignore"]),
    default="turn",
    show_default=True,
    help="Turn an image as its EXIF orientation says, or take it as it is stored.",
)
@click.option(
    "--pool",
    type=click.Choice(["pad", "caffe", "full"]),
    default="pad",
    show_default=True,
    help="Geometry of max pooling; an .onnx file has its own.",
)
@shared.reading
@shared.devices
@click.option("--overwrite", is_flag=True, help="Replace results in the output folder.")
def predict(
    images: tuple[Path, ...],
    weights: Path,
    output: Path,
    backend: str | None,
    label: str | None,
    dataset: str | None,
    test_scales: tuple[int, ...] | None,
    test_flipping: bool,
    exif: str,
    pool: str,
    gpus: tuple[int, ...] | None,
    cpus: int | None,
    overwrite: bool,
    reading: Reading,
) -> None:
    """Label IMAGES, files or folders of them, by the network in a file of weights.

    Classification prints the five best classes with their probabilities and writes
    DIR/classes/<image>.json. Segmentation prints the largest classes with their shares of the
    pixels and writes DIR/labels/<image>.png (the dataset's label ids), DIR/overlays/<image>.png
    (colours over the image, with a legend) and DIR/shares/<image>.json.

    Images are taken as a viewer shows them: turned by their EXIF orientation, grey and palette in
    RGB, transparency over white, 16-bit greys scaled to 8 bits. One that cannot be read is named
    and left out; the exit status is then 1.
    """
    from ademx.prediction.images import PredictionOptions, find_images
    from ademx.prediction.images import predict as predictions

    chosen = None if gpus is None and cpus is None else shared.chosen_devices(gpus, cpus)
    options = PredictionOptions(
        weights=weights,
        output=output,
        backend=backend,
        label=label,
        dataset=dataset,
        test_scales=test_scales,
        test_flipping=test_flipping,
        exif=exif,
        pool=pool,
        devices=chosen,
        overwrite=overwrite,
        reading=reading,
    )
    files = find_images(images)
    broken = 0
    for prediction in predictions(files, options):
        if prediction.error:
            broken += 1
            click.echo(f"left out: {printable(prediction.error)}", err=True)
        else:
            click.echo(_lines(prediction))
    click.echo(f"\nresults: {printable(output)}", err=True)
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
