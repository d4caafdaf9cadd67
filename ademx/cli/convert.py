"""`ademx convert`: weights from one file kind and layout to another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ademx import options as declare
from ademx.cli import options as shared
from ademx.convert.files import Reading
from ademx.convert.writing import Writing
from ademx.convert.writing import convert as convert_weights
from ademx.options import option


@click.command()
@click.argument("src", type=shared.EXISTING_FILE)
@click.argument("dst", type=shared.ANY_PATH)
@shared.as_object("writing", Writing)
@click.option(
    *("--input", "input_size"),
    metavar="HxW|free",
    type=shared.SIZE_OR_FREE,
    help="Size that an .onnx file takes, pixels.  [default: free, that is any]",
)
@shared.from_signature
@shared.as_object("reading", Reading)
def convert(
    src: Path,
    dst: Path,
    *,
    input_size: tuple[int, int] | None,
    label: str | None = option(None, "Model label of the weights.  [default: from a file's name]"),
    pool: str | None = declare.pool(" in an .onnx file", default=None),
    reading: Reading,
    overwrite: bool = shared.overwrite("Replace DST if it exists."),
    writing: Writing,
) -> None:
    """Write the weights in SRC to DST: a .params, .pth or .safetensors file each.

    DST may also be an .onnx file, which is the whole network: it maps "data", (batch, 3, height,
    width) float32 as its metadata says, to "probabilities". Opset 13. OpenVINO computes it in
    bfloat16 on CPUs that have that, far off, unless INFERENCE_PRECISION_HINT is f32.

    The layout of SRC is recognised by its names, whatever wraps them (state_dict, model, module.,
    backbone.). Numbers are kept bit by bit. Layouts: release (the .params names), native (the
    networks of ademx.convert.torch_model), resnet38d (jiwoon-ahn/psa; with a head its
    fc8_seg_conv1 and fc8_seg_conv2), wider_resnet and wider_resnet_a2 (mapillary/inplace_abn,
    NVIDIA/semantic-segmentation), gluoncv (its WiderResNetA2; .params). What names do not show is
    warned of on stderr.

    ResNets are read from torchvision (layout torchvision: 50 is rn-50b here) and gluoncv (v1 and
    v1b). Their input is divided by the standard deviation, which labels tell by _meanstd:
    ilsvrc-cls_rn-50b_cls1000_meanstd. The authors' own ResNet-50, 101 and 152 are read from their
    .caffemodel files, BGR turned to RGB. Biases before normalisations go into the moving means.
    """
    if writing.layout == "caffe":  # which is read and not written
        writing = dataclasses.replace(writing, layout=None)
        reading = dataclasses.replace(reading, source_layout="caffe")
    shared.check_writable([dst], overwrite=overwrite)
    if dst.suffix == ".onnx" and writing != Writing():
        raise click.UsageError(f"{dst}: an .onnx file has its own names and always a head")
    if dst.suffix != ".onnx" and (input_size or pool):
        raise click.UsageError(f"{dst}: --input and --pool are for .onnx files")
    found = convert_weights(
        *(src, dst),
        label=label,
        writing=writing,
        reading=reading,
        input_size=input_size,
        pool=pool or "pad",
    )
    checked = f"names and shapes are those of {found}" if found else "no label to check it against"
    click.echo(f"{dst}: {checked}")
