"""Folders, FIFOs and unreadable files for files, files cut while they are read, odd lists."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from faults_base import (
    ROOT,
    Bench,
    Ended,
    Fault,
    Loss,
    Trial,
    about,
    must_be_equal,
    must_run,
    results,
    run,
)
from faults_work import LABEL, RELEASED, evaluation, trained, training, voc

_PR_CAPBSET_DROP = 24
_MEMORY = 8 << 30  # bytes of addresses, most of which are no memory
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


def _unreadable(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    path.chmod(0)


_KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "FIFO": os.mkfifo,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/null": lambda path: path.symlink_to("/dev/null"),
    "unreadable": _unreadable,
    "circular link": lambda path: path.symlink_to(path.name),
    "empty file": Path.touch,
    "zeros": lambda path: path.write_bytes(bytes(10_000)),
}


@dataclass(frozen=True)
class _Place:
    """An argument for a file, or a file that a list names; `{}` in the arguments stands for it."""

    name: str
    file: str
    arguments: Callable[[Bench, Path, Path], list[object]]


def _in_list(bench: Bench, folder: Path, path: Path, *, column: int) -> Path:
    """Return a list of four samples, one of which names the file."""
    lines = [[f"{voc(bench)}/{name}" for name in line.split("\t")] for line in _plain_lines(bench)]
    lines[2][column] = str(path)
    (folder / "odd.lst").write_text("".join("\t".join(line) + "\n" for line in lines))
    return folder / "odd.lst"


def _photos(bench: Bench) -> Path:
    return voc(bench) / "VOCdevkit/VOC2012/JPEGImages"


def _coco(bench: Bench, folder: Path, path: Path) -> list[object]:
    (folder / "coco" / "annotations").mkdir(parents=True)
    (folder / "coco" / "val2017").mkdir()
    path.rename(folder / "coco" / "annotations" / "instances_val2017.json")
    return ["data", "lists", "coco", "--root", folder / "coco"]


_PLACES = [
    _Place("convert", "w.params", lambda b, f, p: ["convert", p, f / "w.pth"]),
    _Place("convert", "w.safetensors", lambda b, f, p: ["convert", p, f / "w2.params"]),
    _Place("convert", "w.pth", lambda b, f, p: ["convert", p, f / "w3.params"]),
    _Place(
        "weights verify", f"{RELEASED}_ep-0001.params", lambda b, f, p: ["weights", "verify", p]
    ),
    _Place("weights show", "w.params", lambda b, f, p: ["weights", "show", p]),
    _Place(
        "predict, weights",
        f"{LABEL}_ep-0001.params",
        lambda b, f, p: ["predict", _photos(b), "--weights", p, "--output", f / "out"],
    ),
    _Place(
        "predict, image",
        "a.jpg",
        lambda b, f, p: ["predict", p, "--weights", trained(b), "--output", f / "out"],
    ),
    _Place(
        "evaluate, weights",
        f"{LABEL}_ep-0001.params",
        lambda b, f, p: evaluation(b, f / "out", weights=p),
    ),
    _Place("evaluate, list", "a.lst", lambda b, f, p: evaluation(b, f / "out", "--list-file", p)),
    _Place("evaluate, dataset", "a.yaml", lambda b, f, p: evaluation(b, f / "out", "--dataset", p)),
    _Place(
        "evaluate, image",
        "a.jpg",
        lambda b, f, p: evaluation(b, f / "out", "--list-file", _in_list(b, f, p, column=0)),
    ),
    _Place(
        "evaluate, label",
        "a.png",
        lambda b, f, p: evaluation(b, f / "out", "--list-file", _in_list(b, f, p, column=1)),
    ),
    _Place(
        "train, weights",
        f"{LABEL}_ep-0001.params",
        lambda b, f, p: training(b, f / "out", "--weights", p),
    ),
    _Place("train, list", "a.lst", lambda b, f, p: training(b, f / "out", "--list-file", p)),
    _Place(
        "train, image",
        "a.jpg",
        lambda b, f, p: training(
            *(b, f / "out", "--list-file", _in_list(b, f, p, column=0), "--max-broken", 0)
        ),
    ),
    _Place("data lists, annotations", "a.json", _coco),
    _Place("compare", "a", lambda b, f, p: ["compare", p, p]),
    _Place("plot", "a", lambda b, f, p: ["plot", p, "--output", f / "a.png"]),
]
_PAIRS = [(place, kind) for place in _PLACES for kind in _KINDS]
random.Random(0).shuffle(_PAIRS)


def _odd_kind(trial: Trial) -> None:
    place, kind = _PAIRS[trial.number % len(_PAIRS)]
    path = trial.folder / place.file
    _KINDS[kind](path)
    before = {"unreadable": _obey_permissions, "/dev/zero": _little_memory}.get(kind)
    with about(f"{place.name}, {path.suffix or 'file'}, {kind}"):
        arguments = place.arguments(trial.bench, trial.folder, path)
        ended = run(trial.folder, arguments, before=before)
        name = "instances_val2017.json" if place.name.startswith("data lists") else path
        if place.name == "compare" and kind == "folder":
            name = "scores.json"
        ended.must_explain(name, path.name)


def _obey_permissions() -> None:
    """Take from root, in the program to be started, the right to read what it may not."""
    if not os.geteuid():
        prctl = ctypes.CDLL(None).prctl
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _little_memory() -> None:
    """Keep what reads without end from the memory of everyone."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


# Cut short while it is read: the program reads the first part, then the file shrinks.
_CUT = """
import os, sys
from pathlib import Path
kind, path, size, root = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
sys.path.insert(0, str(root))
try:
    if kind == "params":
        from ademx.params import open_params
        with open_params(path) as file:
            os.truncate(path, size)
            for name in file:
                file[name]
    else:
        from iters.sources import read_bytes, read_record_file
        records = read_record_file(path)
        os.truncate(path, size)
        for record in records:
            read_bytes(path, record.offset)
except ValueError as error:
    sys.exit(0 if str(path) in str(error) else f"the file is not named: {error}")
sys.exit("a file that is too short was read whole")
"""


def _cut_between(trial: Trial, *, kind: str) -> None:
    if kind == "params":
        content = trained(trial.bench).read_bytes()
        path = trial.folder / "w.params"
        path.write_bytes(content)
    else:
        from iters.sources import write_records

        path = trial.folder / "a.rec"
        images = [(n, 0, trial.random.randbytes(5000)) for n in range(100)]
        with path.open("wb") as file, path.with_suffix(".idx").open("wb") as index:
            write_records(images, record_file=file, index_file=index)
    # The last record's padding may go.
    size = trial.random.randrange(path.stat().st_size - 3000)
    program = [sys.executable, "-c", _CUT]
    ended = run(trial.folder, [kind, path, size, ROOT], program=program)
    ended.must_succeed()


def _cut_during(trial: Trial) -> None:
    """Cut a large file at any moment of a command: it is refused, or was read whole before."""
    from ademx import params

    def make(folder: Path) -> Path:
        draw = np.random.default_rng(0)
        arrays = {f"l{n}_weight": draw.random((256, 1024), np.float32) for n in range(50)}
        path = folder / "w.params"
        params.save(path, arrays, {})
        return path

    source = trial.bench.once("large weights", make)
    path = trial.folder / source.name
    path.write_bytes(source.read_bytes())
    size = trial.random.randrange(path.stat().st_size)
    timer = threading.Timer(trial.random.uniform(0.1, 0.6), os.truncate, (path, size))
    timer.start()
    ended = run(trial.folder, ["weights", "show", path])
    timer.join()
    if ended.status:
        ended.must_explain(path)


def _cut_images(trial: Trial, *, command: str) -> None:
    """Cut images at any moment of a command: each is used whole, told of, or ends the run."""
    expected, seconds = _of_plain_list(trial.bench, command)
    shutil.copytree(voc(trial.bench), trial.folder / "voc")
    (trial.folder / "a.lst").write_text("\n".join(_plain_lines(trial.bench)) + "\n")
    arguments = _list_command(trial.bench, trial.folder, command)
    root = trial.folder / "voc"
    arguments = [root if one == voc(trial.bench) else one for one in arguments]
    names = [line.split("\t")[0] for line in _plain_lines(trial.bench)]
    cut = trial.random.sample(names, 2)
    timers = [
        threading.Timer(trial.random.random() * seconds, _cut, (trial.folder / "voc" / name, share))
        for name, share in zip(cut, (trial.random.random(), trial.random.random()))
    ]
    for timer in timers:
        timer.start()
    try:
        ended = run(trial.folder, arguments)
    finally:
        for timer in timers:
            timer.join()
    told = ended.stdout + ended.stderr
    told += "".join(path.read_text() for path in trial.folder.glob("out/*.json*"))
    if ended.status:
        ended.must_explain(*(Path(name).name for name in cut))
        return
    ended.must_be_plain()
    if any(Path(name).name in told for name in cut):
        return
    must_be_equal(_of_list(trial.folder), expected)


def _cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def _list_forms(lines: list[str]) -> dict[str, tuple[bytes, bool]]:
    """Return forms of a list, each with whether it has to be read as the plain one is."""
    text = "\n".join(lines) + "\n"
    plain = text.encode()
    return {
        "CRLF": (text.replace("\n", "\r\n").encode(), True),
        "BOM": (b"\xef\xbb\xbf" + plain, True),
        "blank lines": (text.replace("\n", "\n \n\n").encode(), True),
        "blanks around fields": (text.replace("\t", " \t ").replace("\n", "  \n").encode(), True),
        "no last line break": (plain.rstrip(), True),
        "UTF-16": (text.encode("utf-16"), False),
        "UTF-16, big endian, no BOM": (text.encode("utf-16-be"), False),
        "NUL": (plain.replace(b"\t", b"\0", 1), False),
        "NUL in a name": (plain.replace(b".jpg", b"\0.jpg", 1), False),
        "blanks only": (b" \n\n \t \n", False),
        "cut in a line": (plain[: len(plain) // 2 - 3], False),
        "spaces for tabs": (plain.replace(b"\t", b" "), False),
        "JSON": (b'{"a": [1, 2]}\n', False),
        "an image": (bytes(range(256)) * 20, False),
    }


def _odd_list(trial: Trial, *, command: str) -> None:
    expected, _ = _of_plain_list(trial.bench, command)
    forms = _list_forms(_plain_lines(trial.bench))
    name = list(forms)[trial.number % len(forms)]
    content, is_read = forms[name]
    (trial.folder / "a.lst").write_bytes(content)
    with about(name):
        ended = run(trial.folder, _list_command(trial.bench, trial.folder, command))
        if is_read:
            ended.must_succeed()
            must_be_equal(_of_list(trial.folder), expected)
        else:
            ended.must_explain("a.lst")


def _duplicates(trial: Trial) -> None:
    """A sample twice in a list is tested twice, or refused."""
    lines = _plain_lines(trial.bench)
    (trial.folder / "a.lst").write_text("\n".join([*lines, lines[0]]) + "\n")
    ended: Ended = run(trial.folder, _list_command(trial.bench, trial.folder, "evaluate"))
    if ended.status:
        ended.must_explain("a.lst")
        return
    count = len(list((trial.folder / "out" / "labels").iterdir()))
    if count != len(lines) + 1:
        raise Loss(f"{count} labels for {len(lines) + 1} samples")


def _plain_lines(bench: Bench) -> list[str]:
    base = Path("VOCdevkit/VOC2012")
    folder = voc(bench) / base
    names = (folder / "ImageSets/Segmentation/train.txt").read_text().split()[:4]
    return [f"{base}/JPEGImages/{n}.jpg\t{base}/SegmentationClass/{n}.png" for n in names]


def _list_command(bench: Bench, folder: Path, command: str) -> list[object]:
    make = {"evaluate": evaluation, "train": training}[command]
    changes = ("--to-epoch", 1) if command == "train" else ()
    return make(bench, folder / "out", "--list-file", folder / "a.lst", *changes)


def _of_plain_list(bench: Bench, command: str) -> tuple[dict[str, str], float]:
    """Return the results of a command on the plain list, and the seconds that it takes."""

    def make(folder: Path) -> tuple[dict[str, str], float]:
        (folder / "a.lst").write_text("\n".join(_plain_lines(bench)) + "\n")
        ended = must_run(folder, _list_command(bench, folder, command))
        return _of_list(folder), ended.seconds

    return bench.once(f"plain list of {command}", make)


def _of_list(folder: Path) -> dict[str, str]:
    """Return the results but for the record, which has the list's own MD5."""
    kept = (".png", ".params", ".npz")
    return {k: v for k, v in results(folder / "out").items() if k.endswith(kept)}


FAULTS = [
    Fault(
        "odd-file",
        f"{', '.join(_KINDS)} where a file is expected, {len(_PLACES)} places",
        len(_PAIRS),
        _odd_kind,
    ),
    Fault(
        "cut-params",
        "a `.params` file cut short between its headers and its data",
        10,
        partial(_cut_between, kind="params"),
    ),
    Fault(
        "cut-rec",
        "a `.rec` file cut short between its index and its images",
        10,
        partial(_cut_between, kind="rec"),
    ),
    Fault("cut-during", "a `.params` file of 50 MB cut short at any moment", 20, _cut_during),
    *(
        Fault(
            f"cut-images-{command}",
            f"images cut short at any moment of `{command}`",
            6,
            partial(_cut_images, command=command),
        )
        for command in ("evaluate", "train")
    ),
    Fault("list-evaluate", "odd lists in testing", 14, partial(_odd_list, command="evaluate")),
    Fault("list-train", "odd lists in training", 14, partial(_odd_list, command="train")),
    Fault("list-duplicates", "a sample twice in a list", 1, _duplicates),
]
