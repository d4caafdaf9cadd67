"""Measures reading `.params` files against MXNet's own reader, on a file of A1's size.

Needs: MXNet (the `cpu` extra), 1 GB of disk, 1.5 GB of memory, half a minute.
Expected: listing under 50 ms; reading at most 1.0 of MXNet's time; peak memory at most 1.1 of the
file's size.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from ademx import params as params_format
from ademx.compat import import_mxnet
from ademx.files import write_json

# Levels 2 to 7 of A1: blocks, output channels of a block's convolutions, their kernels.
LEVELS = (
    (3, (128, 128), (3, 3)),
    (3, (256, 256), (3, 3)),
    (6, (512, 512), (3, 3)),
    (3, (512, 1024), (3, 3)),
    (1, (512, 1024, 2048), (1, 3, 1)),
    (1, (1024, 2048, 4096), (1, 3, 1)),
)
LIMITS = {"list_ms": 50.0, "load_ratio": 1.0, "peak_ratio": 1.1}

# Run in a process of its own: peak resident bytes, after the imports and after the load. On Linux
# the peak that `getrusage` gives starts from the parent's, so the kernel's own count is read.
PEAK = """
import re, sys
import numpy
from ademx.params import load
def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s*(\\d+)", status.read()).group(1)) * 1024
if sys.argv[1:]:
    loaded = load(sys.argv[1])
sys.stdout.write(str(peak()))
"""


def a1_shapes() -> dict[str, tuple[int, ...]]:
    """Return stand-in names -> shapes with A1's number of weights (109 million)."""
    shapes: dict[str, tuple[int, ...]] = {"conv1a_weight": (64, 3, 3, 3)}
    channels = 64
    for level, (blocks, widths, kernels) in enumerate(LEVELS, start=2):
        for block in range(blocks):
            unit = f"{level}{block}"
            if block == 0:
                shapes[f"res{unit}_branch1_weight"] = (widths[-1], channels, 1, 1)
            for stage, (width, kernel) in enumerate(zip(widths, kernels)):
                for part in ("gamma", "beta", "moving_mean", "moving_var"):
                    shapes[f"bn{unit}_{stage}_{part}"] = (channels,)
                shapes[f"res{unit}_{stage}_weight"] = (width, channels, kernel, kernel)
                channels = width
    for part in ("gamma", "beta", "moving_mean", "moving_var"):
        shapes[f"bn7_{part}"] = (channels,)
    return {**shapes, "linear1000_weight": (1000, channels), "linear1000_bias": (1000,)}


def make_file(path: Path) -> None:
    """Write random weights of A1's shapes."""
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.standard_normal(shape, np.float32) for name, shape in a1_shapes().items()
    }
    aux_names = {name for name in arrays if name.endswith(("moving_mean", "moving_var"))}
    params_format.save(
        path,
        {name: array for name, array in arrays.items() if name not in aux_names},
        {name: arrays[name] for name in aux_names},
    )


def list_file(path: Path) -> int:
    """Open a file, list names, shapes and dtypes; return the number of arrays."""
    with params_format.open_params(path) as file:
        return len([(name, entry.shape, entry.dtype) for name, entry in file.entries.items()])


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_bytes(*arguments: str) -> int:
    """Return the peak memory of a process that imports the reader and loads what is given."""
    command = [sys.executable, "-c", PEAK, *arguments]
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
    ours, theirs, listing = [], [], []
    for _ in range(repeats):
        listing.append(seconds(lambda: list_file(path)))
        ours.append(seconds(lambda: params_format.load(path)))
        theirs.append(seconds(with_mxnet))
    size = path.stat().st_size
    return {
        "file_mb": size / 1e6,
        "arrays": list_file(path),
        "list_ms": 1e3 * statistics.median(listing),
        "load_ms": 1e3 * statistics.median(ours),
        "mxnet_ms": 1e3 * statistics.median(theirs),
        "load_ratio": statistics.median(ours) / statistics.median(theirs),
        "peak_ratio": (peak_bytes(str(path)) - peak_bytes()) / size,
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
    for name, value in figures.items():
        limit = f"   at most {LIMITS[name]:g}" if name in LIMITS else ""
        click.echo(f"{name:12}{value:10.3f}{limit}")
    if json_file:
        write_json(json_file, figures)


if __name__ == "__main__":
    params()
