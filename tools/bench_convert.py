"""Measures `ademx convert` on a file of A1's size, against reading and writing its bytes.

Needs: MXNet (the `cpu` extra), PyTorch, 2 GB of disk, 2 GB of memory, two minutes.
Expected: at most twice the time of the bytes alone (both wait until they are on the disk); memory
less than 1.3 of the file's size above what the imports take.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import click
from bench_params import LABEL, make_file, peak_bytes
from bench_rows import report_figures, seconds_in_turns

from ademx.compat import import_mxnet
from ademx.convert.writing import Writing
from ademx.convert.writing import convert as convert_file
from ademx.files import replacing

LIMITS = {
    "params_to_safetensors_ratio": 2.0,
    "params_to_pth_ratio": 2.0,
    "safetensors_to_params_ratio": 2.0,
    "pth_to_params_ratio": 2.0,
    "safetensors_peak_ratio": 1.3,
    "pth_peak_ratio": 1.3,
}

CONVERT = """
import sys
import torch
from ademx.convert.writing import Writing, convert
if sys.argv[1:]:
    convert(sys.argv[1], sys.argv[2], writing=Writing(layout="resnet38d", with_head=True))
"""


def copy_bytes(source: Path, target: Path) -> None:
    """Read a file and write its bytes to another, onto the disk."""
    content = source.read_bytes()
    with replacing(target) as file:
        file.write(content)


def convert_with_mxnet(source: Path, target: Path) -> None:
    """Convert in the plain way: MXNet's reader, PyTorch's writer, onto the disk as well."""
    import torch

    arrays = import_mxnet().nd.load(str(source))
    state = {name: torch.from_numpy(array.asnumpy()) for name, array in arrays.items()}
    with replacing(target) as file:
        torch.save(state, file)


def measure(folder: Path, repeats: int) -> dict[str, float]:
    """Return the figures: medians of `repeats` alternating runs.

    Times are in milliseconds; a `_ratio` is over the time of the bytes alone, and of a peak over
    the file's size.
    """
    source = folder / f"{LABEL}_ep-0001.params"
    make_file(source)
    paths = {kind: folder / f"a1.{kind}" for kind in ("safetensors", "pth", "params")}
    work = {
        "bytes": lambda: copy_bytes(source, folder / "copy"),
        "mxnet": lambda: convert_with_mxnet(source, folder / "mxnet.pth"),
        "params_to_safetensors": lambda: _to_torch(source, paths["safetensors"]),
        "params_to_pth": lambda: _to_torch(source, paths["pth"]),
        "safetensors_to_params": lambda: convert_file(paths["safetensors"], paths["params"]),
        "pth_to_params": lambda: convert_file(paths["pth"], paths["params"]),
    }
    for function in work.values():
        function()  # warms the page cache
    medians = seconds_in_turns(work, repeats)
    size, imports = source.stat().st_size, peak_bytes(CONVERT)
    return {
        "file_mb": size / 1e6,
        **{f"{name}_ms": 1e3 * value for name, value in medians.items()},
        **{f"{n}_ratio": v / medians["bytes"] for n, v in medians.items() if n != "bytes"},
        **{
            f"{kind}_peak_ratio": (peak_bytes(CONVERT, source, paths[kind]) - imports) / size
            for kind in ("safetensors", "pth")
        },
    }


def _to_torch(source: Path, target: Path) -> None:
    convert_file(source, target, writing=Writing(layout="resnet38d", with_head=True))


@click.command()
@click.option("--repeats", default=5, show_default=True, help="Runs of each way.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def convert(repeats: int, json_file: Path | None) -> None:
    """Converting weights of A1's size, beside MXNet and PyTorch."""
    logging.getLogger("ademx").setLevel(logging.ERROR)  # the layouts' warnings are not measured
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), repeats)
    report_figures(figures, LIMITS, json_file)


if __name__ == "__main__":
    convert()
