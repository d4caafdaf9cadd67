"""What the benchmarks' servers take, packed from a run on a test split and checked by their rules.

The truth of these splits is not public: the servers alone can score them, and most let a user
send only a few files a month. So a file is read back and checked before it gets its name.
"""

from __future__ import annotations

import io
import logging
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from ademx.errors import InputError, MissingFile
from ademx.files import replacing
from ademx.iteration import progress_bar
from ademx.text import first_few
from iters.datasets import DATASETS, Dataset
from iters.decode import BrokenImage, Size, decode_stored_ids, sample_size
from iters.samples import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_SHOWN = 10  # faults in a message
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
_PNG = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {"P": 3, "L": 0}  # as a PNG's header has them
_KINDS = {"P": "an indexed PNG of 8 bits a pixel", "L": "a grey PNG of 8 bits a pixel"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """A file that is ready for a benchmark's server.

    Attributes:
        path: of the file.
        server: name and address of the server.
        content: what the file holds, in words: the rules that it was found to keep.
        warnings: why the server would not take it, or would score it too low, all the same:
            what a file's form cannot show.
    """

    path: Path
    server: str
    content: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Server:
    """What a server for segmentations takes.

    Attributes:
        address: its name and where it is.
        archive: name of the file to send; its suffix says of which kind.
        folder: of the pictures in it.
        pattern: what a picture's name in the archive matches; the group names the image.
        example: such a name, for messages.
        mode: "P" for a picture with a palette, "L" for one without, each of 8 bits a pixel.
        values: the least and the greatest number that a pixel may hold.
        meaning: what those numbers are.
        num_images: of the test set; None where no number is published.
        size: height and width of all of its images, pixels; None where they differ.
    """

    address: str
    archive: str
    folder: str
    pattern: re.Pattern[str]
    example: str
    mode: str
    values: tuple[int, int]
    meaning: str
    num_images: int | None
    size: Size | None = None

    def image(self, member: str) -> str | None:
        """Return which image a file of the archive is for; None where its name does not say."""
        found = self.pattern.search(member)
        return found.group(1) if found else None

    def member(self, sample: Sample) -> str:
        """Return the name in the archive of an image's result."""
        return f"{self.folder}{sample.image.stem}.png"


_VOC = _Server(
    address="PASCAL VOC 2012 (segmentation, comp6), http://host.robots.ox.ac.uk:8080/",
    archive="results.tar",
    folder="results/VOC2012/Segmentation/comp6_test_cls/",
    pattern=re.compile(r"^results/VOC2012/Segmentation/comp6_test_cls/(\d{4}_\d{6})\.png$"),
    example="results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png",
    mode="P",
    values=(0, 20),
    meaning="class ids",
    num_images=DATASETS["voc"].splits["test"],
)
_CITYSCAPES = _Server(
    address="Cityscapes (pixel-level semantic labeling), https://www.cityscapes-dataset.com/submit/",
    archive="results.zip",
    folder="",
    pattern=re.compile(r"(?:^|/)([A-Za-z-]+_\d{6}_\d{6})[^/]*\.png$"),
    example="berlin_000000_000019_leftImg8bit.png",
    mode="L",
    values=(0, 33),
    meaning="label ids",
    num_images=DATASETS["cityscapes"].splits["test"],
    size=DATASETS["cityscapes"].max_shape,
)
_ADE20K = _Server(
    address="ADE20K SceneParsing, http://sceneparsing.csail.mit.edu/eval/",
    archive="results.zip",
    folder="",
    pattern=re.compile(r"(?:^|/)(ADE_test_\d{8})\.png$"),
    example="ADE_test_00000001.png",
    mode="L",
    values=(1, 150),
    meaning="classes",
    num_images=DATASETS["ade20k"].splits["test"],
)
_SERVERS = {
    "voc": _VOC,
    "voc-sbd": _VOC,
    "cityscapes": _CITYSCAPES,
    "cityscapes-coarse": _CITYSCAPES,
    "ade20k": _ADE20K,
}

_ILSVRC = "ILSVRC 2012 (classification), https://image-net.org/challenges/LSVRC/eval_server.php"
_ILSVRC_GUESSES = 5
_ILSVRC_CLASSES = 1000


# ---- segmentation ------------------------------------------------------------------------------


def pack_labels(
    dataset: Dataset, samples: Sequence[Sample], output: Path, *, rule: str = "auto"
) -> Submission | None:
    """Pack a run's label images as the dataset's server takes them, and check the file.

    The same labels always make the same bytes. The file gets its name once it is checked.

    Args:
        dataset: what was tested on.
        samples: all of its test split.
        output: folder of the run, with `labels/<name>.png` for each sample; the file is written
            to its folder `submission`.
        rule: when images were set upright, see :func:`iters.decode.is_turned`.

    Returns:
        The file; None where there is nothing to pack: the dataset has no server, or the images
        are not named as its test set's are. The log says which.

    Raises:
        FileNotFoundError: a label image is missing.
        ValueError: the file does not keep the server's rules.
    """
    server = None if dataset.lists else _SERVERS.get(dataset.name)
    if server is None:
        _log.info("%s has no server: the label images are the result", dataset.name)
        return None
    members = {server.member(sample): sample for sample in samples}
    strange = [name for name in members if server.image(name) is None]
    if strange or len(members) < len(samples):
        _log.warning(
            "nothing is packed for the server: its images have one name each, such as %s; found %s",
            Path(server.example).stem,
            Path(strange[0]).stem if strange else "a name twice",
        )
        return None
    missing = [sample for sample in samples if not _label(output, sample).is_file()]
    if missing:
        raise MissingFile(
            f"{output / 'labels'}: nothing is packed for the server: {len(missing)} of "
            f"{len(samples)} images have no label image: "
            f"{first_few(missing, shown=_MOST_SHOWN)}; make them by --resume"
        )
    (output / "submission").mkdir(exist_ok=True)
    path = output / "submission" / server.archive
    with replacing(path) as file:
        _write_archive(file, _pictures(members, output, server), server.archive)
        file.flush()
        check_archive(Path(file.name), samples, dataset.name, rule=rule, named=path)
    least, greatest = server.values
    content = (
        f"{len(samples)} images, for each {_KINDS[server.mode]}, as large as the image, "
        f"{server.meaning} {least} to {greatest}"
    )
    return Submission(path, server.address, content, _warnings(samples, server, rule))


def check_archive(
    path: Path,
    samples: Sequence[Sample],
    dataset: str,
    *,
    rule: str = "auto",
    named: Path | None = None,
) -> None:
    """Check a file for a dataset's server.

    The archive has one PNG of 8 bits a pixel for each image of the test set, as large as the
    image, and no other files. The rest differs:

    - PASCAL VOC 2012: a tar archive; the files are called
      `results/VOC2012/Segmentation/comp6_test_cls/<image>.png` and are indexed, of class ids 0
      to 20. ("comp6" is the competition of networks that saw more than VOC's own training
      images; all of these did.)
    - Cityscapes: a zip archive; the files are in any folder, their names begin with
      `<city>_<sequence>_<frame>`. They have one channel, of label ids, 0 to 33, not the 19 train
      ids.
    - ADE20K: a zip archive; the files have the image's name, `ADE_test_<number>.png`. They have
      one channel, of classes 1 to 150: 0 is no class.

    Args:
        path: the archive.
        samples: the test set.
        dataset: its name; one that has a server.
        rule: when images were set upright, see :func:`iters.decode.is_turned`.
        named: what messages call the file.

    Raises:
        ValueError: a rule is broken; the message names the files, ten at most, and what was
            expected of them.

    Source: the development kit of VOC 2012, "Submission of Results" of the segmentation task;
        the benchmark's submission page and cityscapesScripts, evalPixelLevelSemanticLabeling; the
        development kit of the Scene Parsing benchmark of ADE20K, "Submission format".
    """
    _raise_faults(named or path, _archive_faults(path, samples, _SERVERS[dataset], rule))


def _warnings(samples: Sequence[Sample], server: _Server, rule: str) -> tuple[str, ...]:
    warnings = _count_warnings(len(samples), server.num_images)
    if server.size is not None:
        others = [sample for sample in samples if _size(sample.image, rule) != server.size]
        if others:
            warnings += (
                f"{len(others)} of the images, such as {others[0].image.name}, have not the "
                f"{server.size[1]}×{server.size[0]} pixels of the test set",
            )
    return warnings


def _count_warnings(found: int, expected: int | None) -> tuple[str, ...]:
    if expected in (None, found):
        return ()
    return (f"found {found} images, but the test set has {expected}",)


def _pictures(
    members: dict[str, Sample], output: Path, server: _Server
) -> Iterator[tuple[str, bytes]]:
    """Yield names in the archive, in sorted order, with the bytes of their files."""
    for name, sample in progress_bar(
        iterable=sorted(members.items(), key=lambda item: item[0]),
        unit="image",
        desc="packing",
    ):
        encoded = _label(output, sample).read_bytes()
        yield name, encoded if server.mode == "P" else _without_palette(encoded)


def _label(output: Path, sample: Sample) -> Path:
    return output / "labels" / f"{sample.name}.png"


def _without_palette(encoded: bytes) -> bytes:
    """Return a label image as a grey one of the same numbers."""
    file = io.BytesIO()
    Image.fromarray(decode_stored_ids(encoded)).save(file, "PNG")
    return file.getvalue()


def _write_archive(file: BinaryIO, members: Iterator[tuple[str, bytes]], name: str) -> None:
    """Write a tar or zip archive, as its name says, with neither times nor owners."""
    if name.endswith(".tar"):
        with tarfile.open(fileobj=file, mode="w") as tar:
            for member, content in members:
                header = tarfile.TarInfo(member)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
        return
    with zipfile.ZipFile(file, "w") as archive:  # stored: a PNG is compressed
        for member, content in members:
            info = zipfile.ZipInfo(member)
            info.create_system, info.external_attr = 3, 0o644 << 16  # Unix, anyone may read
            archive.writestr(info, content)


def _read_archive(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the names and the content of an archive's files."""
    if name.endswith(".tar"):
        with tarfile.open(path, "r:") as tar:
            for header in tar:
                content = tar.extractfile(header) if header.isfile() else None
                if content is not None:
                    yield header.name, content.read()
        return
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, archive.read(info)


def _archive_faults(path: Path, samples: Sequence[Sample], server: _Server, rule: str) -> list[str]:
    """Return what keeps the server from taking an archive, a sentence each."""
    missing = {server.image(server.member(sample)): sample for sample in samples}
    done: set[str | None] = set()
    faults = []
    bar = progress_bar(total=len(samples), unit="image", desc="checking")
    try:
        for name, encoded in _read_archive(path, server.archive):
            image = server.image(name)
            if image in missing:
                found = list(_faults(encoded, missing.pop(image), server, rule))
                done.add(image)
                bar.update()
            elif image in done:
                found = ["a second file for its image, expected one"]
            else:
                found = [f"no image of the test set, expected names like {server.example}"]
            faults += [f"{name}: {fault}" for fault in found]
    except _DAMAGED as error:
        kind = Path(server.archive).suffix[1:]
        faults.append(f"cannot be read as a {kind} archive: {error}")
    finally:
        bar.close()
    faults += [f"{image}: no file, expected one for each image" for image in missing]
    return faults


def _faults(encoded: bytes, sample: Sample, server: _Server, rule: str) -> Iterator[str]:
    """Yield what is wrong with a picture, which is one number a pixel."""
    header = (8, _COLOUR_TYPES[server.mode])
    if encoded[: len(_PNG)] != _PNG or tuple(encoded[24:26]) != header:
        yield f"expected {_KINDS[server.mode]}"
        return
    try:
        pixels = decode_stored_ids(encoded)
        size = _size(sample.image, rule)
    except BrokenImage as error:
        yield str(error)
        return
    if pixels.shape != size:
        yield (
            f"{pixels.shape[1]}×{pixels.shape[0]} pixels, expected {size[1]}×{size[0]} as its image"
        )
    least, greatest = server.values
    strange = np.unique(pixels[(pixels < least) | (pixels > greatest)])
    if strange.size:
        found = first_few(strange.tolist(), shown=_MOST_SHOWN)
        yield f"values {found}, expected {server.meaning} {least} to {greatest}"


def _size(path: Path, rule: str) -> Size:
    """Return height and width of an image without a label as it is tested."""
    try:
        return sample_size(path.read_bytes(), None, rule)[0]
    except OSError as error:
        raise BrokenImage(f"{path}: cannot be used as an image: {error}") from error
    except BrokenImage as error:
        raise BrokenImage(f"{path}: {error}") from error


def _raise_faults(path: Path, faults: Sequence[str]) -> None:
    if faults:
        told = first_few(faults, shown=_MOST_SHOWN, separator="; ")
        raise InputError(f"{path}: the server would refuse it: {told}")


# ---- classification ----------------------------------------------------------------------------


def write_guesses(
    dataset: Dataset,
    samples: Sequence[Sample],
    output: Path,
    *,
    guesses: NDArray[np.integer],
    are_numbered: bool,
) -> Submission | None:
    """Write the guesses for each image, one line each, and check them where the rules are known.

    Args:
        dataset: what was tested on.
        samples: all of its test split.
        output: folder of the run; the file is its `submission.txt`.
        guesses: (N, 5) the server's numbers of the likeliest classes, the likeliest first.
        are_numbered: whether the numbers are known to be the server's.

    Returns:
        The file; None where nothing is known of a server for the dataset.

    Raises:
        ValueError: the file does not keep the server's rules.
    """
    path = output / "submission.txt"
    is_ilsvrc = dataset.name == "ilsvrc-cls" and not dataset.lists
    with replacing(path) as file:
        file.writelines(" ".join(map(str, row)).encode() + b"\n" for row in guesses.tolist())
        file.flush()
        if is_ilsvrc:
            check_ilsvrc(Path(file.name), len(samples), named=path)
    if not is_ilsvrc:
        _log.info("%s: no server is known for %s", path, dataset.name)
        return None
    warnings = _count_warnings(len(samples), dataset.splits["test"])
    if not are_numbered:
        warnings += (
            "the classes are numbered in the order of their synsets, but the server has numbers "
            "of its own: give them by --class-ids, in a file that `ademx data lists ilsvrc-cls` "
            "makes from the development kit",
        )
    names = [sample.name for sample in samples]
    if names != sorted(names):
        warnings += ("the lines are in the order of the list, expected that of the images' names",)
    content = f"{len(samples)} lines of {_ILSVRC_GUESSES} numbers, 1 to {_ILSVRC_CLASSES}"
    return Submission(path, _ILSVRC, content, warnings)


def check_ilsvrc(path: Path, num_images: int, *, named: Path | None = None) -> None:
    """Check a file for the server of ILSVRC's classification task.

    Its rules: a text file with one line for each image of the test set, in the order of the
    images' names; in a line five numbers of classes, 1 to 1000 and all different, the likeliest
    first. (It takes fewer than five too; whoever can have five guesses gives five.)

    Args:
        path: the text file.
        num_images: of the test set.
        named: what messages call the file.

    Raises:
        ValueError: as :func:`check_archive`.

    Source: the development kit of ILSVRC 2012, "Submission format".
    """
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    faults = []
    if len(lines) != num_images:
        faults.append(f"{len(lines)} lines, expected {num_images}, one for each image")
    for number, line in enumerate(lines, start=1):
        guesses = line.split()
        known = {text for text in guesses if _is_class(text)}
        if len(guesses) != _ILSVRC_GUESSES or len(known) != _ILSVRC_GUESSES:
            faults.append(
                f"line {number}: {line[:40]!r}, expected {_ILSVRC_GUESSES} different whole "
                f"numbers from 1 to {_ILSVRC_CLASSES}"
            )
    _raise_faults(named or path, faults)


def _is_class(text: str) -> bool:
    return re.fullmatch(r"[1-9]\d{0,3}", text) is not None and int(text) <= _ILSVRC_CLASSES
