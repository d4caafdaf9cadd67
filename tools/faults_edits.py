"""Edits of valid files, read in a process with little memory: refused, or read as they are.

As a script it is that process: KIND SEED COUNT FOLDER; the first loss goes to stdout.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from faults_base import Fault, Loss, Trial, must_run

_Make = Callable[[Path, random.Random], None]
_Read = Callable[[Path], None]

_EACH = 1000  # edits of a process
_MEMORY = 1 << 29  # bytes that a process may take beyond what it has when it begins to read
_SECONDS = 10.0  # of the processor, for one file

# Numbers at which a reader may go wrong.
_TELLING = [0, 1, 2, 3, 4, 7, 8, 12, 32, 33, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**60, 2**61]
_TELLING += [2**62, 2**63 - 1, 2**63, 2**64 - 1, 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA]
_TEXTS = [*"\0\r\n\t \ufeff\u2028\u0085{}[]\"':%\\/", "&a", "*a", "<<: *a", "!!int ''", "!!bool x"]
_TEXTS += ["..", "nan", "-1", "1e400", "999999999999999999999"]
_WORDS = [b"\xff", *(text.encode() for text in _TEXTS)]


def edit(content: bytes, draw: random.Random) -> bytes:
    """Return content with one to three edits."""
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(0, len(content))
        kind = draw.choice(["number", "byte", "cut", "insert", "delete", "repeat", "word"])
        if kind == "number":
            width = draw.choice([4, 8])
            at -= at % 4
            number = draw.choice(_TELLING) % (1 << 8 * width)
            content = content[:at] + number.to_bytes(width, "little") + content[at + width :]
        elif kind == "byte":
            content = content[:at] + draw.randbytes(1) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "word":
            word = draw.choice(_WORDS)
            content = content[:at] + word + content[at + draw.choice([0, len(word)]) :]
        elif kind == "insert":
            content = content[:at] + draw.randbytes(draw.randint(1, 9)) + content[at:]
        else:
            end = min(len(content), at + draw.randint(1, 40))
            times = 2 if kind == "repeat" else 0
            content = content[:at] + content[at:end] * times + content[end:]
    return content


def _arrays(draw: random.Random) -> dict[str, np.ndarray]:
    dtypes = ["<f4", "<f8", "<f2", "u1", "i1", "<i4", "<i8"]
    return {
        f"layer{number}_weight": np.frombuffer(draw.randbytes(6), np.uint8)
        .reshape(draw.choice([(2, 3), (6,), (1, 6, 1)]))
        .astype(draw.choice(dtypes))
        for number in range(draw.randint(1, 4))
    }


def _make_params(path: Path, draw: random.Random) -> None:
    from ademx import params

    params.save(path, _arrays(draw), {}, version=draw.choice([0, 1, 2]))


def _read_params(path: Path) -> None:
    """Read a file; each array has to be found again at its place."""
    from ademx import params

    content = path.read_bytes()
    with params.open_params(path) as file:
        for name, entry in file.entries.items():
            array = file[name]
            if entry.dtype == "bfloat16":
                array = (array.view(np.uint32) >> 16).astype("<u2")
            data = array.tobytes()
            if content[entry.offset : entry.offset + len(data)] != data:
                raise Loss(f"{name} is not what the file holds at byte {entry.offset}")
            key = name.encode()
            if struct.pack("<Q", len(key)) + key not in content:
                raise Loss(f"{name!r} is no name in the file")


def _make_safetensors(path: Path, draw: random.Random) -> None:
    from safetensors.numpy import save_file

    save_file(_arrays(draw), path, {"format": "pt"} if draw.random() < 0.5 else None)


def _read_safetensors(path: Path) -> None:
    from ademx.convert.files import open_weights

    with open_weights(path) as file:
        arrays = dict(file)
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    if set(header) != set(arrays):
        raise Loss(f"read {sorted(arrays)}, the header names {sorted(header)}")
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        data = content[8 + length + start : 8 + length + end]
        if entry["dtype"] == "BF16":
            data = (np.frombuffer(data, "<u2").astype("<u4") << 16).tobytes()
        if np.ascontiguousarray(arrays[name]).tobytes() != data:
            raise Loss(f"{name} is not what the file holds")
        if list(arrays[name].shape) != entry["shape"]:
            raise Loss(f"{name} has shape {arrays[name].shape}, the header says {entry['shape']}")


def write_rec(path: Path, images: Sequence[tuple[int, int, bytes]]) -> None:
    """Write a `.rec` file of keys, classes and images, and its index."""
    from iters.sources import write_records

    with path.open("wb") as file, path.with_suffix(".idx").open("wb") as index:
        write_records(images, record_file=file, index_file=index)


def _make_records(path: Path, draw: random.Random) -> None:
    write_rec(
        path, [(n, draw.randint(0, 9), draw.randbytes(draw.randint(1, 40))) for n in range(4)]
    )


def _read_records(path: Path) -> None:
    """Read the images; each must lie as it is in the file, behind the record's frame."""
    from iters.sources import read_bytes, read_record_file

    content = path.read_bytes()
    for record in read_record_file(path):
        encoded = read_bytes(path, record.offset)
        (value,) = struct.unpack_from("<I", content, record.offset + 4)
        start, size = record.offset + 8, value & ~(7 << 29)
        whole = content[start : start + size]
        if value >> 29 == 0 and (not whole.endswith(encoded) or len(whole) - len(encoded) < 24):
            raise Loss(f"record {record.key} is not what the file holds")


def _make_list(path: Path, draw: random.Random) -> None:
    lines = []
    segmentation = draw.random() < 0.5
    for number in range(draw.randint(1, 5)):
        fields = [f"images/{number} é.jpg", f"labels/{number}.png"]
        if not segmentation:
            fields = [str(number), str(draw.randint(0, 12)), fields[0]]
        lines.append("\t".join(fields) + draw.choice(["\n", "\r\n"]))
    path.write_bytes("".join(lines).encode())


def _read_list(path: Path) -> None:
    """Read the samples by both tasks; each must be a line's words."""
    from iters.lists import read_list_file

    errors = []
    lines = [line for line in _text(path.read_bytes()).split("\n") if line.strip()]
    for task in ("segmentation", "classification"):
        try:
            samples = read_list_file(path, task=task, root="/root")
        except ValueError as error:
            errors.append(error)
            continue
        if len(samples) != len(lines):
            raise Loss(f"{len(samples)} samples of {len(lines)} lines")
        for sample, line in zip(samples, lines):
            fields = [field.strip() for field in line.rstrip().split("\t")]
            if task == "segmentation":
                image, label = (*fields, None)[:2]
                label = label and Path("/root", label)
            else:
                _, label, image = fields
                label = int(label.partition(".")[0])
            if (sample.image, sample.label) != (Path("/root", image), label):
                raise Loss(f"{sample.image} with label {sample.label} is not {line!r}")
    if len(errors) == 2:
        raise errors[0]


def _text(content: bytes) -> str:
    """Return text as Unicode tells it, by its byte order mark; without one it is UTF-8."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    return content.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")


def _make_yaml(path: Path, draw: random.Random) -> None:
    (path.parent / "train.lst").write_text("a.png\ta_label.png\n")
    names = ["background", "triangle", "square", "ellipse"][: draw.randint(2, 4)]
    fields: dict[str, Any] = {"name": "shapes", "classes": names, "lists": {"train": "train.lst"}}
    if draw.random() < 0.5:
        fields["stored_ids"] = draw.sample(range(255), len(names))
        fields["palette"] = [[draw.randint(0, 255) for _ in range(3)] for _ in names]
    if draw.random() < 0.3:
        fields["void"] = 255
    path.write_text(yaml.safe_dump(fields, default_flow_style=draw.choice([None, True, False])))


def _read_yaml(path: Path) -> None:
    from iters.find_dataset import read_dataset

    dataset = read_dataset(path)
    fields = yaml.safe_load(path.read_bytes())
    if list(dataset.class_names or ()) != fields["classes"] or dataset.name != fields["name"]:
        raise Loss(f"read {dataset}, the file says {fields}")


# What is edited -> for the table, trials, the file's name, what makes it and what reads it.
_KINDS: dict[str, tuple[str, int, str, _Make, _Read]] = {
    "params": ("`.params` file", 25, "file.params", _make_params, _read_params),
    "safetensors": (
        "`.safetensors` file",
        25,
        "a.safetensors",
        _make_safetensors,
        _read_safetensors,
    ),
    "rec": ("`.rec` file", 20, "file.rec", _make_records, _read_records),
    "idx": ("`.rec` file's index", 5, "file.rec", _make_records, _read_records),
    "list": ("list", 15, "file.lst", _make_list, _read_list),
    "yaml": ("dataset's YAML file", 10, "file.yaml", _make_yaml, _read_yaml),
}


def _too_long(number: int, frame: Any) -> None:
    raise Loss(f"reading takes more than {_SECONDS} s")


def try_edits(kind: str, seed: str, count: int, folder: Path) -> str | None:
    """Return what was lost at the first of many edits that is not read as it must be."""
    *_, name, make, read = _KINDS[kind]
    draw, path = random.Random(f"{kind} {seed}"), folder / name
    edited = path.with_suffix(".idx") if kind == "idx" else path
    _limit_memory(path, make, read)
    signal.signal(signal.SIGPROF, _too_long)
    for number in range(count):
        if number % 50 == 0:
            make(path, draw)
            valid = edited.read_bytes()
            read(path)
        edited.write_bytes(edit(valid, draw))
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        problem = _problem(path, read)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if problem:
            return f"{problem}; the file's bytes: {edited.read_bytes()[:1500].hex()}"
        edited.write_bytes(valid)
    return None


def _limit_memory(path: Path, make: _Make, read: _Read) -> None:
    """Load everything that is needed, then forbid the process much more memory."""
    make(path, random.Random(0))
    read(path)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, resource.RLIM_INFINITY))


def _problem(path: Path, read: _Read) -> str | None:
    try:
        read(path)
    except Loss as loss:
        return str(loss)
    except (ValueError, OSError) as error:
        named = str(path.parent) in str(error)
        return None if named else f"the message does not name the file: {_name(error)}"
    except BaseException as error:
        return f"{_name(error)}: {traceback.format_exc(limit=-1)}"
    return None


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _trial(trial: Trial, *, kind: str) -> None:
    seed = f"{trial.bench.seed}-{trial.number}"
    program = [sys.executable, __file__]
    ended = must_run(trial.folder, [kind, seed, _EACH, trial.folder], program=program)
    if ended.stdout.strip():
        raise Loss(ended.stdout.strip())


FAULTS = [
    Fault(
        f"edits-{kind}",
        f"edits of a {what}, under a memory limit",
        trials,
        partial(_trial, kind=kind),
        _EACH,
    )
    for kind, (what, trials, *_) in _KINDS.items()
]

if __name__ == "__main__":
    lost = try_edits(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    sys.stdout.write(lost or "")
