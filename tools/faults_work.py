"""The commands that the campaign disturbs, on drawn data, and what they leave."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
from faults_base import Bench, Loss, must_run

LABEL = "voc_rna-224-0-1-1-1-1-1-1_cls21_s8"
RELEASED = "voc_rna-a1_cls21_s8"

# Commands of `ademx`. What the names with $ stand for: `command_line`.
_SMALL = "--width 0.0625 --crop-size 32 --origin-size 64 --batch-statistics --gpus="
TRAIN = (
    f"train segmentation --model {LABEL} --data-root $data/voc --output $out {_SMALL} "
    "--batch-images 2 --lr-type linear --to-epoch 20 --check-step 5"
)
EVALUATE = (
    "evaluate segmentation --weights $weights --data-root $data/voc --output $out --cpus 1 "
    "--test-scales 64,96,128 --test-flipping --save-predictions"
)
CONVERT = f"convert $models/{RELEASED}_ep-0001.params $out/weights"
REPRODUCE = "--data $data --models $models --output $out --unverified --cpus 1"

# What differs from one run to the next by its nature.
_VOLATILE = {"date", "versions", "images_per_second", "seconds", "command", "resumed_from"}
_VOLATILE |= {"first_update", "data_wait", "images_per_second_total", "kept"}
_UNREAD = {".html", ".md"}  # pages with the date in them: made from the files that are compared


def _data(bench: Bench, folder: Path) -> Path:
    """Make a folder of data, in which `voc` has eight drawn images for each split."""
    must_run(folder, ["data", "make", "voc", "--root", folder / "data" / "voc"])
    return folder / "data"


def _coco(bench: Bench, folder: Path) -> Path:
    must_run(folder, ["data", "make", "coco", "--root", folder / "coco", "--images", 40])
    return folder / "coco"


def _models(bench: Bench, folder: Path) -> Path:
    """Make a folder with narrow weights under the names of two released files."""
    train = f"train segmentation --model {RELEASED} --data-root $data/voc --to-epoch 1 {_SMALL}"
    must_run(folder, command_line(f"{train} --output $folder", bench, folder))
    file = folder / f"{RELEASED}_ep-0001.params"
    shutil.copy(file, folder / f"{RELEASED}_coco_ep-0001.params")
    return folder


def _weights(epoch: int) -> Callable[[Bench, Path], Path]:
    def find(bench: Bench, folder: Path) -> Path:
        return TRAINING.undisturbed(bench).out / f"{LABEL}_ep-{epoch:04d}.params"

    return find


_MADE_ONCE = {
    "data": _data,
    "models": _models,
    "weights": _weights(20),  # that the undisturbed training leaves
    "early": _weights(6),
}


def command_line(line: str, bench: Bench, folder: Path, **others: object) -> list[str]:
    """Return the words of a line: $folder, $out, which is in it, and what is made once.

    Args:
        line: arguments of `ademx`, with names such as $data, see `_MADE_ONCE`.
        bench: has what is made once.
        folder: to write to.
        others: what names stand for here, instead or besides.
    """
    meanings = {"folder": folder, "out": folder / "out", **others}
    for name in {found["named"] for found in Template.pattern.finditer(line)} - meanings.keys():
        meanings[name] = bench.once(_MADE_ONCE[name])
    return [Template(word).substitute(meanings) for word in line.split()]


class Undisturbed(NamedTuple):
    """What an undisturbed run leaves: where, a digest of each file, and the seconds it took."""

    out: Path
    files: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Work:
    """A command that can be disturbed, gone on with and compared.

    Attributes:
        name: for the table.
        line: its arguments, see :func:`command_line`.
        going_on: the option with which it goes on.
        prepare: fills the folder before the first call.
        kept: how the files end that are compared.
        is_refused_again: it refuses to run where it has run to its end.
    """

    name: str
    line: str
    going_on: str = ""
    prepare: Callable[[Bench, Path], None] = lambda bench, folder: None
    kept: tuple[str, ...] = ("",)
    is_refused_again: bool = False

    def also(self, options: str) -> Work:
        """Return the same with further options."""
        return replace(self, name=f"{self.name} {options}", line=f"{self.line} {options}")

    def written(self, folder: Path) -> dict[str, str]:
        """Return what the work has written by now."""
        return {k: v for k, v in results(folder / "out").items() if k.endswith(self.kept)}

    def command(
        self, bench: Bench, folder: Path, *, again: bool = False, **others: object
    ) -> list[str]:
        """Return the arguments, those to go on with where it ran before."""
        return command_line(f"{self.line} {self.going_on * again}", bench, folder, **others)

    def undisturbed(self, bench: Bench) -> Undisturbed:
        """Return what an undisturbed run leaves."""
        found: Undisturbed = bench.once(self._run)
        return found

    def _run(self, bench: Bench, folder: Path) -> Undisturbed:
        self.prepare(bench, folder)
        ended = must_run(folder, self.command(bench, folder))
        return Undisturbed(folder / "out", self.written(folder), ended.seconds)


def _make_out(bench: Bench, folder: Path) -> None:
    (folder / "out").mkdir()


def _draw_coco(bench: Bench, folder: Path) -> None:
    shutil.copytree(bench.once(_coco), folder / "out")


TRAINING = Work("train", TRAIN, "--resume")
EVALUATION = Work("evaluate", EVALUATE, "--resume")
LISTS = Work(
    "data lists",
    "data lists coco20 --root $out --jobs 2 --min-pixels 50",
    "--overwrite",
    prepare=_draw_coco,
)
CONVERSION = Work("convert", f"{CONVERT}.safetensors", "--overwrite", prepare=_make_out)
CONVERSION_PTH = Work("convert to .pth", f"{CONVERT}.pth", "--overwrite", prepare=_make_out)
REPRODUCTION = Work("reproduce", f"reproduce voc-a1 {REPRODUCE}")
DRAWING = Work("data make", "data make voc --root $out --images 40", is_refused_again=True)
WORKS = (TRAINING, EVALUATION, LISTS, CONVERSION, CONVERSION_PTH, REPRODUCTION, DRAWING)


def results(folder: Path) -> dict[str, str]:
    """Return a digest of each file below a folder, of what does not differ by its nature."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): _digest(path, folder)
        for path in files
        if not path.name.startswith((".stdout-", ".stderr-"))
    }


def must_be_equal(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise Loss where results are not those of an undisturbed run."""
    missing = sorted(expected.keys() - found.keys())
    further = sorted(found.keys() - expected.keys())
    differ = sorted(key for key in expected.keys() & found.keys() if found[key] != expected[key])
    parts = [("missing", missing), ("left over", further), ("different", differ)]
    words = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in parts if names]
    if words:
        raise Loss(f"not as undisturbed: {'; '.join(words)}")


def must_be_whole(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise Loss where a file has its name already, but not yet its content."""
    partly = [key for key in expected.keys() & found.keys() if found[key] != expected[key]]
    partly = [key for key in partly if not key.endswith((".json", ".jsonl", ".npz", *_UNREAD))]
    if partly:
        raise Loss(f"half-written under its name: {', '.join(sorted(partly)[:3])}")


def _digest(path: Path, folder: Path) -> str:
    if path.suffix in _UNREAD:
        return "there"
    try:
        if path.suffix == ".json":
            return _json(path.read_text(encoding="utf-8"), folder)
        if path.suffix == ".jsonl":
            return "\n".join(_json(line, folder) for line in path.read_text().splitlines())
        if path.suffix in (".npz", ".state"):
            with np.load(path, allow_pickle=False) as file:
                return hashlib.md5(
                    b"".join(
                        f"{name} {file[name].dtype} {file[name].shape}".encode()
                        + file[name].tobytes()
                        for name in sorted(file.files)
                    )
                ).hexdigest()
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        return f"damaged: {error}"
    return hashlib.md5(path.read_bytes()).hexdigest()


def _json(text: str, folder: Path) -> str:
    def steady(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name not in _VOLATILE}

    return json.dumps(
        json.loads(text.replace(str(folder), "."), object_hook=steady), sort_keys=True
    )
