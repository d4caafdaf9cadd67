"""How a training gets on: a bar on the terminal, `metrics.jsonl`, and TensorBoard if wanted."""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ademx.errors import InputError, MissingDependency
from ademx.files import replacing

METRICS_FILE = "metrics.jsonl"

_log = logging.getLogger(__name__)

_WRITERS = ("tensorboardX", "torch.utils.tensorboard")
_LINES_PER_EPOCH = 50
_SECONDS_PER_LINE = 10  # of a log that is no terminal
_TOO_MANY = 2**63  # updates


@dataclass
class _Tally:
    """Sums over some updates; a checkpoint has them as JSON, so that means go on."""

    sums: dict[str, float] = field(default_factory=dict)
    count: float = 0
    images: int = 0
    wait: float = 0
    seconds: float = 0

    def values(self) -> dict[str, float]:
        """Return means over the labels, images a second, and the share of time spent waiting."""
        seconds = max(self.seconds, 1e-9)
        means = {name: total / max(self.count, 1) for name, total in self.sums.items()}
        return {
            **means,
            "images_per_second": self.images / seconds,
            "data_wait": min(self.wait / seconds, 1.0),
        }


class Progress(AbstractContextManager["Progress"]):
    """Shows and writes the progress of one run; a context manager.

    `metrics.jsonl` gains a line (kind "update") about fifty times an epoch, means since the line
    before, and one (kind "epoch") at its end, means over the epoch; both hold label, epoch
    (from 1), update (from 1), lr, the metrics, images_per_second, data_wait (fraction of the
    time) and seconds (since the run began). A test of the val split has a line of kind "val".

    Args:
        folder: where `metrics.jsonl` is.
        label: the model label.
        state: what `state` gave when a training that goes on was stopped.
        first_update: updates that were done before this run.
        last_update: updates that will have been done at its end.
        num_batches: updates in an epoch.
        num_epochs: epochs of the whole training.
        tensorboard: folder for TensorBoard's files.

    Raises:
        MissingDependency: TensorBoard is wanted and no writer for it is installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        label: str,
        first_update: int,
        last_update: int,
        num_batches: int,
        num_epochs: int,
        tensorboard: Path | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._writer = None
        if tensorboard:  # it drops what it has of the updates that it will write
            writer = writer_class(tensorboard)
            self._writer = writer(str(tensorboard), purge_step=first_update + 1)
        self._label, self._num_batches, self._num_epochs = label, num_batches, num_epochs
        self._first, self._last = first_update, last_update
        self._every = max(1, num_batches // _LINES_PER_EPOCH)
        self._next_line = 0.0
        self._file = open_metrics(folder, keep=first_update)
        self._bar = tqdm(
            initial=first_update,
            total=last_update,
            unit="update",
            smoothing=0.05,
            disable=None,  # where there is no terminal, the log has the lines
        )
        self._recent, self._epoch = (
            _Tally(**(state or {}).get(name, {})) for name in ("recent", "epoch")
        )
        self._start = self._clock = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def start_clock(self) -> None:
        """Count time from here: what a checkpoint took says nothing about speed."""
        self._clock = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Return, as JSON has it, what the means of this epoch consist of so far."""
        return {"recent": asdict(self._recent), "epoch": asdict(self._epoch)}

    def update(
        self,
        update: int,
        *,
        lr: float,
        sums: dict[str, float],
        count: float,
        images: int,
        wait: float,
    ) -> None:
        """Count an update.

        Args:
            update: its number, from 1.
            lr: its rate.
            sums: metrics, summed over the labels.
            count: valid labels.
            images: images of the batch, of all workers.
            wait: seconds that its data was waited for.
        """
        now = time.monotonic()
        passed, self._clock = now - self._clock, now
        for tally in (self._recent, self._epoch):
            for name, value in sums.items():
                tally.sums[name] = tally.sums.get(name, 0.0) + value
            tally.count += count
            tally.images += images
            tally.wait += wait
            tally.seconds += passed
        epoch_ends = update % self._num_batches == 0
        self._bar.update()
        if update % self._every == 0 or epoch_ends:
            self.write("update", update, self._recent.values(), lr=lr)
            self._recent = _Tally()
        if epoch_ends:
            self.write("epoch", update, self._epoch.values(), lr=lr)
            self._epoch = _Tally()

    def write(self, kind: str, update: int, values: Mapping[str, float], **facts: Any) -> None:
        """Write a line, and its numbers to TensorBoard.

        Args:
            kind: "update", "epoch" or "val".
            update: updates that were done before.
            values: what was measured, by name.
            facts: what is written beside: the rate `lr`, of "val" `broken`, why images could not
                be read, or `error`, why there are no scores.
        """
        epoch = (update - 1) // self._num_batches + 1
        line = {
            "kind": kind,
            "label": self._label,
            "epoch": epoch,
            "update": update,
            **facts,
            **{name: round(value, 6) for name, value in values.items()},
            "seconds": round(time.monotonic() - self._start, 3),
        }
        self._append(json.dumps(line) + "\n")
        if kind == "update":
            self._show(epoch, update, facts["lr"], values)
        if self._writer is not None:
            rate = {"lr": facts["lr"]} if "lr" in facts else {}
            for name, value in {**rate, **values}.items():
                self._writer.add_scalar(f"{kind}/{name}", value, update)

    def _append(self, text: str) -> None:
        data = text.encode()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:  # it does not say which file
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def _show(self, epoch: int, update: int, lr: float, values: Mapping[str, float]) -> None:
        values = dict(values)
        speed, wait = values.pop("images_per_second"), values.pop("data_wait")
        shown = [f"lr {lr:.3g}", *(f"{name} {value:.4g}" for name, value in values.items())]
        text = ", ".join([*shown, f"{speed:.3g} images/s", f"data wait {100 * wait:.0f} %"])
        if self._bar.disable:
            now = time.monotonic()
            if now < self._next_line and update < self._last:
                return
            self._next_line = now + _SECONDS_PER_LINE
            left = (time.monotonic() - self._start) / (update - self._first)
            left *= self._last - update
            _log.info(
                "epoch %d/%d, update %d, %s, %.0f s left",
                *(epoch, self._num_epochs, update, text, left),
            )
            return
        self._bar.set_description(f"epoch {epoch}/{self._num_epochs}", refresh=False)
        self._bar.set_postfix_str(text)


def open_metrics(folder: Path, *, keep: int) -> FileIO:
    """Return `metrics.jsonl`, open for more lines, without the updates that will come again.

    Lines that are damaged, as a crash leaves the last one, are logged and left out.

    Args:
        folder: where it is, or will be.
        keep: updates whose lines stay.
    """
    path = folder / METRICS_FILE
    kept = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], 1):
        try:
            if parse_line(line)["update"] <= keep:
                kept.append(line + b"\n")
        except InputError as error:
            _log.warning("%s, line %d: left out: %s", path, number, error)
    with replacing(path) as file:
        file.write(b"".join(kept))
    return open(path, "ab", buffering=0)


def parse_line(text: bytes) -> dict[str, Any]:
    """Return what a line of `metrics.jsonl` holds; its "update" is an int.

    Raises:
        ValueError: it is damaged.
    """
    try:
        line = json.loads(text)
        update = int(line["update"])
        if 0 <= update < _TOO_MANY:
            return {**line, "update": update}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    found = text[:80].decode(errors="replace")
    raise InputError(f'expected a JSON object with "update", found {found!r}')


def writer_class(folder: Path) -> Any:
    """Return the class that writes TensorBoard's files, here to this folder.

    Raises:
        MissingDependency: none is installed.
    """
    for name in _WRITERS:
        with suppress(ImportError):
            return importlib.import_module(name).SummaryWriter
    raise MissingDependency(
        f"--tensorboard {folder}: no writer is installed: run `pip install 'ademx[tensorboard]'`"
    )
