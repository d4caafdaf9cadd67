"""Datasets and options so small that a training takes a second, and how to stop it midway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ademx import params
from ademx.training.options import ClassificationTrainOptions, SegmentationTrainOptions

CLASSIFIER = "ilsvrc-cls_rna-224-0-1-1-1-1-1-1_cls4"
SEGMENTER = "voc_rna-224-0-1-1-1-1-1-1_cls21_s8"
# Of a dataset whose YAML file `make_own` writes.
OWN_CLASSIFIER = "own-photos-cls_rna-224-0-1-1-1-1-1-1_cls4"
WIDTH = 1 / 16

COMMON = {"width": WIDTH, "crop_size": 32, "prefetcher": "thread", "check_step": 1}


def make_data(folder: Path, *, task: str, num_images: int = 6, size: int = 48) -> Path:
    """Write images of noise with labels, and the list of a "train" split."""
    folder.mkdir()
    random = np.random.default_rng(0)
    lines = []
    for number in range(num_images):
        image = random.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        lines.append(f"{number}\t{number % 4}\t{number}.png")
        if task == "segmentation":
            label = image[..., 0] // 86
            label[:4] = 255
            Image.fromarray(label).save(folder / f"{number}_label.png")
            lines[-1] = f"{number}.png\t{number}_label.png"
    (folder / "train.lst").write_text("\n".join(lines) + "\n")
    return folder


def make_val(data: Path) -> None:
    """Make a "val" split of the last four samples of six."""
    lines = (data / "train.lst").read_text().splitlines()
    (data / "val.lst").write_text("\n".join(lines[2:]) + "\n")


def make_own(data: Path) -> Path:
    """Make a "val" split, and the YAML file of photographs as a dataset of one's own."""
    make_val(data)
    path = data / "photos.yaml"
    path.write_text(
        "name: photos\ntask: classification\nclasses: [a, b, c, d]\n"
        "lists: {train: train.lst, val: val.lst}\n"
    )
    return path


def segmentation_options(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return keyword arguments of SegmentationTrainOptions."""
    options = {"model": SEGMENTER, "to_epoch": 3, "batch_images": 2, "origin_size": 48, **COMMON}
    return {**options, "data_root": data, "output": output, **changes}


def classification_options(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return keyword arguments of ClassificationTrainOptions."""
    options = {"model": CLASSIFIER, "to_epoch": 2, "batch_images": 2, **COMMON}
    return {**options, "data_root": data, "output": output, **changes}


def segmentation(data: Path, output: Path, **changes: Any) -> SegmentationTrainOptions:
    return SegmentationTrainOptions(**segmentation_options(data, output, **changes))


def classification(data: Path, output: Path, **changes: Any) -> ClassificationTrainOptions:
    return ClassificationTrainOptions(**classification_options(data, output, **changes))


def weights(path: Path) -> dict[str, np.ndarray]:
    args, aux = params.load(path)
    return {**args, **aux}


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of a kind in a folder's `metrics.jsonl`."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def interrupt_at(monkeypatch: Any, call: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal when its iterator is asked for the batch of this number."""
    from ademx.training import run as training

    make = training.make_iterator

    def interrupting(*arguments: Any) -> Any:
        iterator = make(*arguments)
        calls, original = iter(range(10**6)), iterator.read

        def next_batch() -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), number)
            return original()

        iterator.read = next_batch
        return iterator

    monkeypatch.setattr(training, "make_iterator", interrupting)


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from tiny_training import segmentation
from ademx.compat import import_mxnet
from ademx.training.run import train
if __name__ == "__main__":
    import_mxnet()
    print(flush=True)  # it is about to begin
    train(segmentation(Path({data!r}), Path({output!r}), **{changes!r}))
"""


def start(script: Path, **environment: str) -> subprocess.Popen:
    """Start a script with one thread."""
    return subprocess.Popen(
        [sys.executable, str(script)],
        # MKLDNN's sums go by the number of threads; with one they do not crowd this machine.
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def child(folder: Path, data: Path, output: Path, **changes: Any) -> Path:
    """Write a script that trains a segmentation network."""
    script = folder / f"{output.name}.py"
    tests = str(Path(__file__).parent)
    script.write_text(
        CHILD.format(tests=tests, data=str(data), output=str(output), changes=changes)
    )
    return script
