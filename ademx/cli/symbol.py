"""`ademx symbol`: a network's graph as the JSON file that plain MXNet reads beside the weights."""

from __future__ import annotations

import re
from pathlib import Path

import click
from click.core import ParameterSource

from ademx import options as declare
from ademx.cli import options as shared
from ademx.errors import MissingFile
from ademx.files import replacing
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
    from ademx.convert.files import read_weights
    from ademx.labels import parse_label
    from ademx.networks.graph import build_symbol

    path = Path(label)
    if path.suffix and not path.is_file():
        raise MissingFile(f"{label}: there is no such file; a label alone has no {path.suffix}")
    parsed = parse_label(label)
    prefix = f"{parsed}_ep"
    if path.is_file():
        weights = read_weights(path, label=parsed, complete=False)
        weights.check_fit()
        _refuse_given("width", "head")
        width, head = weights.width, weights.head
        prefix = re.sub(r"-\d{4}$", "", path.stem)
    target = output or path.parent / f"{prefix}-symbol.json"
    shared.check_writable([target], overwrite=overwrite)
    graph = build_symbol(parsed, width=width, pool=pool, head=head)
    with replacing(target) as file:
        file.write(graph.tojson().encode())
    click.echo(target)


def _refuse_given(*names: str) -> None:
    """Raise UsageError where one of these options is on the command line."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} goes with a label alone: a file of weights tells it")
