"""How a training gets on: a bar on the terminal, `metrics.jsonl`, and TensorBoard if wanted."""

from __future__ import annotations

import importlib
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ademx.compat import MissingDependency
from ademx.files import replacing

METRICS_FILE = "metrics.jsonl"

_log = logging.getLogger(__name__)

_WRITERS = ("tensorboardX", "torch.utils.tensorboard")
_LINES_PER_EPOCH = 50
_SECONDS_PER_LINE = 10  # of a log that is no terminal


@dataclass
class _Tally:
    """Sums over some updates."""

    sums: dict[str, float] = field(default_factory=dict)
    count: float = 0
    images: int = 0
    wait: float = 0
    start: float = field(default_factory=time.monotonic)

    def values(self) -> dict[str, float]:
        """Return means over the labels, images a second, and the share of time spent waiting."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        means = {name: total / max(self.count, 1) for name, total in self.sums.items()}
        return {
            **means,
            "images_per_second": self.images / seconds,
            "data_wait": min(self.wait / seconds, 1.0),
        }


class Progress:
    """Shows and writes the progress of one run; a context manager.

    `metrics.jsonl` gains a line (kind "update") about fifty times an epoch, means since the line
    before, and one (kind "epoch") at its end, means over the epoch; both hold label, epoch
    (from 1), update (from 1), lr, the metrics, images_per_second, data_wait (fraction of the
    time) and seconds (since the run began).

    Args:
        folder: where `metrics.jsonl` is.
        label: the model label.
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
    ) -> None:
        self._writer = _summary_writer(tensorboard) if tensorboard else None
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
        self._start = time.monotonic()
        self.begin_epoch()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def begin_epoch(self) -> None:
        """Count time from here: what a checkpoint took says nothing about speed."""
        self._recent, self._epoch = _Tally(), _Tally()

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
        for tally in (self._recent, self._epoch):
            for name, value in sums.items():
                tally.sums[name] = tally.sums.get(name, 0.0) + value
            tally.count += count
            tally.images += images
            tally.wait += wait
        epoch_ends = update % self._num_batches == 0
        self._bar.update()
        if update % self._every == 0 or epoch_ends:
            self._write("update", update, lr, self._recent.values())
            self._recent = _Tally()
        if epoch_ends:
            self._write("epoch", update, lr, self._epoch.values())

    def _write(self, kind: str, update: int, lr: float, values: dict[str, float]) -> None:
        epoch = (update - 1) // self._num_batches + 1
        line = {
            "kind": kind,
            "label": self._label,
            "epoch": epoch,
            "update": update,
            "lr": lr,
            **{name: round(value, 6) for name, value in values.items()},
            "seconds": round(time.monotonic() - self._start, 3),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if kind == "update":
            self._show(epoch, update, lr, values)
        if self._writer is not None:
            for name, value in {"lr": lr, **values}.items():
                self._writer.add_scalar(f"{kind}/{name}", value, update)

    def _show(self, epoch: int, update: int, lr: float, values: dict[str, float]) -> None:
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


def open_metrics(folder: Path, *, keep: int) -> Any:
    """Return `metrics.jsonl`, open for more lines, without the updates that will come again.

    Args:
        folder: where it is, or will be.
        keep: updates whose lines stay.
    """
    path = folder / METRICS_FILE
    lines = [line for line in _whole_lines(path) if line["update"] <= keep]
    with replacing(path) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
    return open(path, "a", encoding="utf-8")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return a file's lines; one that was cut off by a crash is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            lines.append({**line, "update": int(line["update"])})
        except (ValueError, KeyError, TypeError):
            _log.warning("%s: left out a broken line", path)
    return lines


def _summary_writer(folder: Path) -> Any:
    for name in _WRITERS:
        try:
            return importlib.import_module(name).SummaryWriter(str(folder))
        except ImportError:
            continue
    raise MissingDependency(
        f"--tensorboard {folder}: no writer is installed: run `pip install 'ademx[tensorboard]'`"
    )
