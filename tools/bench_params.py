"""Measures reading `.params` files against MXNet's own reader, on a file of A1's size.

Needs: MXNet (the `cpu` extra), 1 GB of disk, 1.5 GB of memory, half a minute.
Expected: listing under 50 ms; reading at most 1.0 of MXNet's time; peak memory at most 1.1 of the
file's size.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from bench_rows import report_figures, seconds_in_turns

from ademx import params as params_format
from ademx.compat import import_mxnet
from ademx.networks.graph import parameter_shapes

LABEL = "ilsvrc-cls_rna-a1_cls1000"
LIMITS = {"list_ms": 50.0, "load_ratio": 1.0, "peak_ratio": 1.1}

LOAD = """
import sys
import numpy
from ademx.params import load
if sys.argv[1:]:
    loaded = load(sys.argv[1])
"""
# Appended to what a process of its own runs. On Linux the peak of resident bytes that `getrusage`
# gives starts from the parent's, so the kernel's own count is read.
_PEAK = """
import re, sys
with open("/proc/self/status") as status:
    sys.stdout.write(str(int(re.search(r"VmHWM:\\s*(\\d+)", status.read()).group(1)) * 1024))
"""


def make_file(path: Path) -> None:
    """Write random weights of A1, 437 MB."""
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.standard_normal(shape, np.float32)
        for name, shape in parameter_shapes(LABEL).items()
    }
    aux = {name: array for name, array in arrays.items() if "_moving_" in name}
    params_format.save(path, {name: arrays[name] for name in arrays if name not in aux}, aux)


def list_file(path: Path) -> int:
    """Open a file, list names, shapes and dtypes; return the number of arrays."""
    with params_format.open_params(path) as file:
        return len([(name, entry.shape, entry.dtype) for name, entry in file.entries.items()])


def peak_bytes(code: str, *arguments: object) -> int:
    """Return the peak memory of a process that runs this with these arguments."""
    command = [sys.executable, "-c", code + _PEAK, *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(path: Path, repeats: int) -> dict[str, float]:
    """Return the figures for a file: medians of `repeats` alternating runs.

    Times are in milliseconds, `load_ratio` is ours over MXNet's, `peak_ratio` is memory above a
    process that only imports, over the file's size.
    """
    mx = import_mxnet()

    def with_mxnet() -> dict[str, object]:
        return {name: array.asnumpy() for name, array in mx.nd.load(str(path)).items()}

    params_format.load(path)  # warms the page cache
    with_mxnet()
    ways = {
        "list": lambda: list_file(path),
        "load": lambda: params_format.load(path),
        "mxnet": with_mxnet,
    }
    medians = seconds_in_turns(ways, repeats)
    size = path.stat().st_size
    return {
        "file_mb": size / 1e6,
        "arrays": list_file(path),
        **{f"{name}_ms": 1e3 * value for name, value in medians.items()},
        "load_ratio": medians["load"] / medians["mxnet"],
        "peak_ratio": (peak_bytes(LOAD, path) - peak_bytes(LOAD)) / size,
    }


@click.command()
@click.option("--repeats", default=7, show_default=True, help="Runs of each reader.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def params(repeats: int, json_file: Path | None) -> None:
    """Reading a .params file of A1's size, beside MXNet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a1.params"
        make_file(path)
        figures = measure(path, repeats)
    report_figures(figures, LIMITS, json_file)


if __name__ == "__main__":
    params()
