"""`bench.py params` and `bench.py convert`: reading and converting a file of A1's size.

Reading needs MXNet (the `cpu` extra), 1 GB of disk, 1.5 GB of memory and half a minute. Expected:
listing under 50 ms; reading at most 1.0 of MXNet's time; peak memory at most 1.1 of the file's
size. Converting needs PyTorch too, 2 GB of disk, 2 GB of memory and two minutes. Expected: at most
twice the time of the bytes alone (both wait until they are on the disk); memory less than 1.3 of
the file's size above what the imports take.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from bench_process import in_own_process, peak_of
from bench_rows import json_option, seconds_in_turns

from ademx import params as params_format
from ademx.compat import import_mxnet
from ademx.convert import import_torch
from ademx.convert.writing import Writing
from ademx.convert.writing import convert as convert_file
from ademx.files import replacing, write_json
from ademx.logs import logged_from
from ademx.networks.graph import parameter_shapes
from ademx.training.initial import initial_values

LABEL = "ilsvrc-cls_rna-a1_cls1000"
READING_LIMITS = {"list_ms": 50.0, "load_ratio": 1.0, "peak_ratio": 1.1}
CONVERTING_LIMITS = {
    "params_to_safetensors_ratio": 2.0,
    "params_to_pth_ratio": 2.0,
    "safetensors_to_params_ratio": 2.0,
    "pth_to_params_ratio": 2.0,
    "safetensors_peak_ratio": 1.3,
    "pth_peak_ratio": 1.3,
}


@click.command()
@click.option("--repeats", default=7, show_default=True, help="Runs of each reader.")
@json_option
def params(repeats: int, json_file: Path | None) -> None:
    """Reading a .params file of A1's size, beside MXNet."""
    with weights_file() as path:
        report_figures(measure_reading(path, repeats), READING_LIMITS, json_file)


@click.command()
@click.option("--repeats", default=5, show_default=True, help="Runs of each way.")
@json_option
def convert(repeats: int, json_file: Path | None) -> None:
    """Converting weights of A1's size, beside MXNet and PyTorch."""
    # The warnings of layouts are not what is measured, here and in the process of its own.
    with logged_from(logging.ERROR, "ademx"), weights_file() as path:
        report_figures(measure_converting(path, repeats), CONVERTING_LIMITS, json_file)


@contextmanager
def weights_file() -> Iterator[Path]:
    """Give a file of random weights of A1, 437 MB, in a temporary folder."""
    values = initial_values(parameter_shapes(LABEL), task="classification", seed=0)
    aux = {name: values.pop(name) for name in list(values) if "_moving_" in name}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{LABEL}_ep-0001.params"
        params_format.save(path, values, aux)
        yield path


def measure_reading(path: Path, repeats: int) -> dict[str, float]:
    """Return the figures for a file: medians of `repeats` alternating runs.

    Times are in milliseconds, `load_ratio` is ours over MXNet's, `peak_ratio` is memory above what
    the imports take, over the file's size.
    """
    mx = import_mxnet()
    ways = {
        "list": lambda: list_file(path),
        "load": lambda: params_format.load(path),
        "mxnet": lambda: {name: a.asnumpy() for name, a in mx.nd.load(str(path)).items()},
    }
    medians = seconds_in_turns(ways, repeats, warm_up=True)
    size = path.stat().st_size
    return {
        "file_mb": size / 1e6,
        "arrays": list_file(path),
        **{f"{name}_ms": 1e3 * value for name, value in medians.items()},
        "load_ratio": medians["load"] / medians["mxnet"],
        "peak_ratio": in_own_process(peak_of, partial(params_format.load, path)) / size,
    }


def list_file(path: Path) -> int:
    """Open a file, list names, shapes and dtypes; return the number of arrays."""
    with params_format.open_params(path) as file:
        return len([(name, entry.shape, entry.dtype) for name, entry in file.entries.items()])


def measure_converting(source: Path, repeats: int) -> dict[str, float]:
    """Return the figures for a file: medians of `repeats` alternating runs.

    Times are in milliseconds; a `_ratio` is over the time of the bytes alone, and of a peak over
    the file's size.
    """
    folder = source.parent
    paths = {kind: folder / f"a1.{kind}" for kind in ("safetensors", "pth", "params")}
    ways = {
        "bytes": lambda: copy_bytes(source, folder / "copy"),
        "mxnet": lambda: convert_with_mxnet(source, folder / "mxnet.pth"),
        "params_to_safetensors": lambda: _to_torch(source, paths["safetensors"]),
        "params_to_pth": lambda: _to_torch(source, paths["pth"]),
        "safetensors_to_params": lambda: convert_file(paths["safetensors"], paths["params"]),
        "pth_to_params": lambda: convert_file(paths["pth"], paths["params"]),
    }
    medians = seconds_in_turns(ways, repeats, warm_up=True)
    size = source.stat().st_size
    return {
        "file_mb": size / 1e6,
        **{f"{name}_ms": 1e3 * value for name, value in medians.items()},
        **{f"{n}_ratio": v / medians["bytes"] for n, v in medians.items() if n != "bytes"},
        **{
            f"{kind}_peak_ratio": in_own_process(_peak_of_converting, source, paths[kind]) / size
            for kind in ("safetensors", "pth")
        },
    }


def copy_bytes(source: Path, target: Path) -> None:
    """Read a file and write its bytes to another, onto the disk."""
    content = source.read_bytes()
    with replacing(target) as file:
        file.write(content)


def convert_with_mxnet(source: Path, target: Path) -> None:
    """Convert in the plain way: MXNet's reader, PyTorch's writer, onto the disk as well."""
    torch = import_torch()
    arrays = import_mxnet().nd.load(str(source))
    state = {name: torch.from_numpy(array.asnumpy()) for name, array in arrays.items()}
    with replacing(target) as file:
        torch.save(state, file)


def _to_torch(source: Path, target: Path) -> None:
    convert_file(source, target, writing=Writing(layout="resnet38d", with_head=True))


def _peak_of_converting(source: Path, target: Path) -> int:
    import_torch()
    with logged_from(logging.ERROR, "ademx"):
        return peak_of(partial(_to_torch, source, target))


def report_figures(
    figures: Mapping[str, float], limits: Mapping[str, float], json_file: Path | None
) -> None:
    """Print figures and what they may be at most, and write them to a file if one is given."""
    width = max(map(len, figures)) + 2
    for name, value in figures.items():
        limit = f"   at most {limits[name]:g}" if name in limits else ""
        click.echo(f"{name:{width}}{value:10.3f}{limit}")
    if json_file is not None:
        write_json(json_file, figures)
