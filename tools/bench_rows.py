"""What the benchmarks share: options, a row of two timings, and the table of rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from ademx.cli.options import INTEGERS
from ademx.cli.tables import aligned
from ademx.compat import import_mxnet
from ademx.devices import Devices
from ademx.files import write_json
from ademx.gpus import gpus_without_mxnet_code


def _checked_gpus(_: object, __: object, gpus: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the GPUs, found to be there before anything is measured."""
    from ademx.engines.torch.predict import torch_devices

    if gpus:
        torch_devices(Devices(gpus=gpus))
    return gpus or ()


gpus_option = click.option(
    "--gpus",
    type=INTEGERS,
    callback=_checked_gpus,
    help="Compute on these GPUs, such as 0.  [default: the CPU]",
)
json_option = click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))


def runs_mxnet(devices: Devices) -> bool:
    """Return whether MXNet is installed and has code for the devices."""
    if not find_spec("mxnet") or gpus_without_mxnet_code(devices.gpus):
        return False
    return not devices.gpus or import_mxnet().context.num_gpus() > max(devices.gpus)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: what was measured, on what.
        ours_s: median seconds of ours.
        reference_s: median seconds of the reference.
        target_ratio: how many times as fast as the reference ours should be; None where the
            reference is only shown beside ours.
        note: what the reference is, and how well the results agree.
        is_rate: it is shown as how many a second.
    """

    what: str
    ours_s: float
    reference_s: float
    target_ratio: float | None
    note: str
    is_rate: bool = False

    @property
    def ratio(self) -> float:
        """How many times as fast as the reference ours is."""
        return self.reference_s / self.ours_s

    @property
    def verdict(self) -> str:
        """One of "met", "missed" and, without a target, "–"."""
        if self.target_ratio is None:
            return "–"
        return "met" if self.ratio >= self.target_ratio else "missed"


def compare(
    what: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    repeat: int,
    *,
    note: str,
    target_ratio: float | None = None,
    count: int | None = None,
    warm_up: bool = False,
) -> Row:
    """Return the row of ours and a reference, run in turns.

    Args:
        what: is measured, on what.
        ours: makes one run.
        reference: makes one, too.
        repeat: runs of each.
        note: see :class:`Row`.
        target_ratio: see :class:`Row`.
        count: images of a run, whose rate is shown; None where the time is.
        warm_up: see :func:`seconds_in_turns`.
    """
    ways = {"ours": ours, "reference": reference}
    seconds = seconds_in_turns(ways, repeat, warm_up=warm_up)
    each = (value / (count or 1) for value in seconds.values())
    return Row(what, *each, target_ratio, note, is_rate=count is not None)


def seconds_in_turns(
    ways: Mapping[str, Callable[[], object]], repeat: int, *, warm_up: bool = False
) -> dict[str, float]:
    """Return the median seconds of each way, run in turns so that all see the same machine.

    Args:
        ways: name -> what makes one run.
        repeat: runs of each.
        warm_up: run each once before.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat + warm_up):
        for name, function in ways.items():
            start = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[warm_up:]) for name, values in taken.items()}


def report(rows: Sequence[Row], json_file: Path | None) -> None:
    """Print the table of the rows, and write them to a file if one is given."""
    cells = [("what", "ours", "reference", "ratio", "target", "verdict", "note")]
    cells += [
        (
            row.what,
            *(_speed_text(row, seconds) for seconds in (row.ours_s, row.reference_s)),
            f"{row.ratio:.2f}x" if row.ratio < 10 else f"{row.ratio:.0f}x",
            "–" if row.target_ratio is None else f"{row.target_ratio:g}x",
            row.verdict,
            row.note,
        )
        for row in rows
    ]
    click.echo(aligned(cells, num_texts=7))
    if json_file is not None:
        table = [{**asdict(row), "ratio": row.ratio, "verdict": row.verdict} for row in rows]
        write_json(json_file, table)


def _speed_text(row: Row, seconds: float) -> str:
    return f"{1 / seconds:.0f}/s" if row.is_rate else f"{seconds * 1e3:.1f} ms"
