"""`ademx symbol`: a network's graph as the JSON file that plain MXNet reads beside the weights."""

from __future__ import annotations

import re
from pathlib import Path

import click
from click.core import ParameterSource

from ademx import options as declare
from ademx.cli import options as shared
from ademx.convert.files import NetworkWeights, read_weights
from ademx.errors import MissingFile
from ademx.files import replacing
from ademx.labels import label_in, parse_label
from ademx.networks.graph import build_symbol
from ademx.options import option


@click.command()
@click.argument("label")
@shared.from_signature
def symbol(
    label: str,
    output: Path | None = option(
        None,
        "The file.  [default: LABEL_ep-symbol.json, beside a FILE of weights]",
        names=("-o", "--output"),
    ),
    width: float = declare.width(),
    pool: str = declare.pool(),
    head: str = declare.head("Top of a segmentation network."),
    overwrite: bool = shared.overwrite("Replace a file that exists."),
) -> None:
    """Write the graph of LABEL, with which plain MXNet runs the weights.

    LABEL is a model label, or a FILE of weights whose name is one and which tells width and head.
    Beside models/LABEL_ep-0001.params, a file in the release's layout,

    mx.model.load_checkpoint("models/LABEL_ep", 1) and mx.mod.Module.load("models/LABEL_ep", 1)

    read both. The input "data" is (batch, 3, height, width) float32, RGB, normalised;
    "softmax_output" has the probabilities; parameters have their learning-rate multipliers as
    attributes. On CPUs set MXNET_SUBGRAPH_BACKEND=NONE: MXNet 1.9.1 fuses layers, and computes
    networks with blocks on level 1, such as B, wrongly.
    """
    weights, parsed = weights_in(label), parse_label(label)
    prefix = f"{parsed}_ep"
    if weights:
        width, head = weights.width, weights.head
        prefix = re.sub(r"-\d{4}$", "", Path(label).stem)
    target = output or Path(label).parent / f"{prefix}-symbol.json"
    shared.check_writable([target], overwrite=overwrite)
    graph = build_symbol(parsed, width=width, pool=pool, head=head)
    with replacing(target) as file:
        file.write(graph.tojson().encode())
    click.echo(target)


def weights_in(label: str, *, allow_headless: bool = False) -> NetworkWeights | None:
    """Return the weights where a command's LABEL is a FILE of them; None for a label alone.

    Args:
        label: the argument.
        allow_headless: whether the head may be absent.

    Raises:
        click.UsageError: --width or --head is on the command line of a file, which tells both.
        FileNotFoundError: it looks like a file, and there is none.
        ValueError: its name is no label, or what it holds is not the label's.
    """
    path = Path(label)
    if not path.is_file():
        if path.suffix:
            raise MissingFile(f"{label}: there is no such file; a label alone has no {path.suffix}")
        return None
    context = click.get_current_context()
    for name in ("width", "head"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} goes with a label alone: a file of weights tells it")
    # What is no file of weights is told before its name is held against a label.
    weights = read_weights(path, label=label_in(path), complete=False)
    weights.check_fit(allow_headless=allow_headless)
    return weights
