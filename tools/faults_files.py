"""Folders, FIFOs and unreadable files for files, files cut while they are read, odd lists."""

from __future__ import annotations

import os
import random
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from faults_base import Bench, Fault, Loss, Trial, about, must_run, run
from faults_edits import write_rec
from faults_work import EVALUATE, LABEL, RELEASED, TRAIN, Work, command_line, must_be_equal

_SCENES, _TRUTHS = (f"VOCdevkit/VOC2012/{name}" for name in ("JPEGImages", "SegmentationClass"))
_PLAIN_LIST = "".join(
    f"{_SCENES}/2007_{n:06}.jpg\t{_TRUTHS}/2007_{n:06}.png\n" for n in range(1, 5)
)

# Root obeys the permissions of files; what reads without end may take 8 GiB of addresses, most of
# which are no memory.
_OBEYING = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
_WITHIN = {"unreadable": _OBEYING, "/dev/zero": ("prlimit", f"--as={8 << 30}")}


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

# Where a file is expected: its name, and a command in which $path stands for it. The lists
# $with_image and $with_label name it among others.
_PLACES = {
    "convert .params": ("w.params", "convert $path $folder/w.pth"),
    "convert .safetensors": ("w.safetensors", "convert $path $folder/w2.params"),
    "convert .pth": ("w.pth", "convert $path $folder/w3.params"),
    "weights verify": (f"{RELEASED}_ep-0001.params", "weights verify $path"),
    "weights show": ("w.params", "weights show $path"),
    "predict, weights": (
        f"{LABEL}_ep-0001.params",
        "predict $data/voc/VOCdevkit/VOC2012/JPEGImages --weights $path --output $out",
    ),
    "predict, image": ("a.jpg", "predict $path --weights $weights --output $out"),
    "evaluate, weights": (f"{LABEL}_ep-0001.params", EVALUATE.replace("$weights", "$path")),
    "evaluate, list": ("a.lst", f"{EVALUATE} --list-file $path"),
    "evaluate, dataset": ("a.yaml", f"{EVALUATE} --dataset $path"),
    "evaluate, image": ("a.jpg", f"{EVALUATE} --list-file $with_image"),
    "evaluate, label": ("a.png", f"{EVALUATE} --list-file $with_label"),
    "train, weights": (f"{LABEL}_ep-0001.params", f"{TRAIN} --weights $path"),
    "train, list": ("a.lst", f"{TRAIN} --list-file $path"),
    "train, image": ("a.jpg", f"{TRAIN} --list-file $with_image --max-broken 0"),
    "data lists, annotations": (
        "coco/annotations/instances_val2017.json",
        "data lists coco --root $folder/coco",
    ),
    "compare": ("odd-run", "compare $path $path"),
    "plot": ("odd-run", "plot $path --output $folder/a.png"),
}
_PAIRS = [(place, kind) for place in _PLACES for kind in _KINDS]
random.Random(0).shuffle(_PAIRS)


def _odd_kind(trial: Trial) -> None:
    place, kind = _PAIRS[trial.number % len(_PAIRS)]
    name, line = _PLACES[place]
    path = trial.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (trial.folder / "coco" / "val2017").mkdir(parents=True, exist_ok=True)
    _KINDS[kind](path)
    lists = {
        name: _list_with(trial.bench, trial.folder / f"{name}.lst", path, column=column)
        for column, name in enumerate(("with_image", "with_label"))
    }
    arguments = command_line(line, trial.bench, trial.folder, path=path, **lists)
    with about(f"{place}, {kind}"):
        ended = run(trial.folder, arguments, within=_WITHIN.get(kind, ()))
        ended.must_explain(path, path.name)


def _list_with(bench: Bench, file: Path, path: Path, *, column: int) -> Path:
    """Write a list of four samples, one of which names the path."""
    data = command_line("$data/voc", bench, file.parent)[0]
    lines = [[f"{data}/{name}" for name in line.split("\t")] for line in _PLAIN_LIST.splitlines()]
    lines[2][column] = str(path)
    file.write_text("".join("\t".join(line) + "\n" for line in lines))
    return file


# Cut short while it is read: the program reads the first part, then the file shrinks.
_CUT = """
import os, sys
path, size = sys.argv[1], int(sys.argv[2])
try:
    if path.endswith(".params"):
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
    sys.exit(0 if path in str(error) else f"the file is not named: {error}")
sys.exit("a file that is too short was read whole")
"""


def _cut_between(trial: Trial, *, kind: str) -> None:
    path = trial.folder / f"a.{kind}"
    if kind == "params":
        shutil.copy(command_line("$weights", trial.bench, trial.folder)[0], path)
    else:
        write_rec(path, [(n, 0, trial.random.randbytes(5000)) for n in range(100)])
    # The last record's padding may go.
    size = trial.random.randrange(path.stat().st_size - 3000)
    must_run(trial.folder, [path, size], program=[sys.executable, "-c", _CUT])


def _large_weights(bench: Bench, folder: Path) -> Path:
    from ademx import params

    draw = np.random.default_rng(0)
    arrays = {f"l{n}_weight": draw.random((256, 1024), np.float32) for n in range(50)}
    params.save(folder / "w.params", arrays, {})
    return folder / "w.params"


def _cut_during(trial: Trial) -> None:
    """Cut a large file at any moment of a command: it is refused, or was read whole before."""
    path = trial.folder / "w.params"
    shutil.copy(trial.bench.once(_large_weights), path)
    with _cut_later(path, trial.random.random(), after=trial.random.uniform(0.1, 0.6)):
        ended = run(trial.folder, ["weights", "show", path])
    ended.has_refused(path)


def _cut_images(trial: Trial, *, work: Work) -> None:
    """Cut images at any moment of a command: each is used whole, told of, or ends the run."""
    expected = work.undisturbed(trial.bench)
    work.prepare(trial.bench, trial.folder)
    data = trial.folder / "data"
    shutil.copytree(command_line("$data", trial.bench, trial.folder)[0], data)
    cut = trial.random.sample([line.split("\t")[0] for line in _PLAIN_LIST.splitlines()], 2)
    with ExitStack() as stack:
        for name in cut:
            after = trial.random.random() * expected.seconds
            stack.enter_context(_cut_later(data / "voc" / name, trial.random.random(), after=after))
        ended = run(trial.folder, work.command(trial.bench, trial.folder, data=data))
    told = ended.stdout + ended.stderr
    told += "".join(path.read_text() for path in trial.folder.glob("out/*.json*"))
    names = [Path(name).name for name in cut]
    if not ended.has_refused(*names) and not any(name in told for name in names):
        must_be_equal(work.written(trial.folder), expected.files)


@contextmanager
def _cut_later(path: Path, share: float, *, after: float) -> Iterator[None]:
    """Leave a share of a file after some seconds, at the latest when the context ends."""
    timer = threading.Timer(after, os.truncate, (path, int(share * path.stat().st_size)))
    timer.start()
    try:
        yield
    finally:
        timer.join()


_PLAIN = _PLAIN_LIST.encode()
# Forms of a list that have to be read as the plain one is, and forms that are none.
_READ = {
    "CRLF": _PLAIN.replace(b"\n", b"\r\n"),
    "BOM": b"\xef\xbb\xbf" + _PLAIN,
    "blank lines": _PLAIN.replace(b"\n", b"\n \n\n"),
    "blanks around fields": _PLAIN.replace(b"\t", b" \t ").replace(b"\n", b"  \n"),
    "no last line break": _PLAIN.rstrip(),
}
_REFUSED = {
    "UTF-16": _PLAIN_LIST.encode("utf-16"),
    "UTF-16, big endian, no BOM": _PLAIN_LIST.encode("utf-16-be"),
    "NUL": _PLAIN.replace(b"\t", b"\0", 1),
    "NUL in a name": _PLAIN.replace(b".jpg", b"\0.jpg", 1),
    "blanks only": b" \n\n \t \n",
    "cut in a line": _PLAIN[: len(_PLAIN) // 2 - 3],
    "spaces for tabs": _PLAIN.replace(b"\t", b" "),
    "JSON": b'{"a": [1, 2]}\n',
    "an image": bytes(range(256)) * 20,
}
_FORMS = {**_READ, **_REFUSED}


def _write_list(bench: Bench, folder: Path) -> None:
    (folder / "a.lst").write_bytes(_PLAIN)


# Compared but for the record, which has the list's own MD5.
_LISTED = {"prepare": _write_list, "kept": (".png", ".params", ".npz")}
_TESTING = Work("evaluate a list", f"{EVALUATE} --list-file $folder/a.lst", **_LISTED)
_TRAINING = Work("train on a list", f"{TRAIN} --list-file $folder/a.lst --to-epoch 1", **_LISTED)


def _odd_list(trial: Trial, *, work: Work) -> None:
    expected = work.undisturbed(trial.bench).files
    form = list(_FORMS)[trial.number % len(_FORMS)]
    (trial.folder / "a.lst").write_bytes(_FORMS[form])
    with about(form):
        ended = run(trial.folder, work.command(trial.bench, trial.folder))
        if form in _REFUSED:
            ended.must_explain("a.lst")
        else:
            ended.must_succeed()
            must_be_equal(work.written(trial.folder), expected)


def _duplicates(trial: Trial) -> None:
    """A sample twice in a list is tested twice, or refused."""
    lines = _PLAIN_LIST.splitlines(keepends=True)
    (trial.folder / "a.lst").write_text("".join([*lines, lines[0]]))
    ended = run(trial.folder, _TESTING.command(trial.bench, trial.folder))
    if ended.has_refused("a.lst"):
        return
    count = len(list((trial.folder / "out" / "labels").iterdir()))
    if count != len(lines) + 1:
        raise Loss(f"{count} labels for {len(lines) + 1} samples")


_ROWS = (
    (
        *("odd-file", len(_PAIRS), _odd_kind),
        f"{', '.join(_KINDS)} where a file is expected, {len(_PLACES)} places",
    ),
    (
        *("cut-params", 10, partial(_cut_between, kind="params")),
        "a `.params` file cut short between its headers and its data",
    ),
    (
        *("cut-rec", 10, partial(_cut_between, kind="rec")),
        "a `.rec` file cut short between its index and its images",
    ),
    ("cut-during", 20, _cut_during, "a `.params` file of 50 MB cut short at any moment"),
    (
        *("cut-images-evaluate", 6, partial(_cut_images, work=_TESTING)),
        "images cut short at any moment of `evaluate`",
    ),
    (
        *("cut-images-train", 6, partial(_cut_images, work=_TRAINING)),
        "images cut short at any moment of `train`",
    ),
    ("list-evaluate", 14, partial(_odd_list, work=_TESTING), "odd lists in testing"),
    ("list-train", 14, partial(_odd_list, work=_TRAINING), "odd lists in training"),
    ("list-duplicates", 1, _duplicates, "a sample twice in a list"),
)
FAULTS = [Fault(name, what, times, trial) for name, times, trial, what in _ROWS]
