"""`bench.py iterators`: how fast training images are decoded and augmented, in images per second.

Each row times ours and a reference in turns, on the same files in memory with the same draws, in
one process and one thread. To add a row, write a function from the number of runs to a
:class:`Row`, or to None where it cannot be measured here, and list it in `MEASUREMENTS`.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import click
import numpy as np
from bench_rows import Row, compare, json_option, report, seconds_in_turns
from numpy.typing import NDArray
from PIL import Image
from plain_augmentation import (
    STD,
    plain_classification,
    plain_decode,
    plain_normalize,
    plain_segmentation,
)

from ademx.errors import MissingDependency
from iters.augment_classification import ClassificationAugmentation
from iters.augment_segmentation import SegmentationAugmentation
from iters.datasets import DATASETS, decode_label
from iters.decode import decode_image, decode_stored_ids, image_size
from iters.samples import Sample
from iters.transforms import RNA

PHOTO = (375, 500)  # height and width of an ILSVRC or VOC photograph
STREET = (1024, 2048)  # and of a Cityscapes one
CROP = 224
NUM_PHOTOS = 64
NUM_STREETS = 6
WHAT = f"ILSVRC training, crop {CROP} of {PHOTO[1]}x{PHOTO[0]} JPEG"


@click.command()
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(min=1), help="Runs.")
@json_option
def iterators(repeat: int, json_file: Path | None) -> None:
    """Time the training augmentations."""
    rates = [rate for measure in MEASUREMENTS if (rate := measure(repeat)) is not None]
    report(rates, json_file)


def measure_classification(repeat: int) -> Row:
    """Time the whole pipeline of a classifier, against the same written plainly."""
    difference = (augment_photos() - augment_photos_plainly()) * STD.reshape(3, 1, 1)
    error = np.abs(difference).max() * 255
    return compare(
        *(WHAT, augment_photos, augment_photos_plainly, repeat),
        count=NUM_PHOTOS,
        target_ratio=2.5,
        note=f"Pillow and float64 step by step; they differ by {error:.1g}/255; mark to beat: 4x",
    )


def measure_against_decoding(repeat: int) -> Row:
    """Time the whole pipeline of a classifier, against the bare decoding of the same files."""
    return compare(
        *(WHAT, augment_photos, decode_photos, repeat),
        count=NUM_PHOTOS,
        target_ratio=0.5,
        note=f"Pillow decoding the whole of them, {mean_kilobytes(photos()):.0f} KB each",
    )


def measure_torch_loader(repeat: int) -> Row | None:
    """Time PyTorch's DataLoader over the plain pipeline, one worker, beside ours in one process."""
    try:
        import torch.utils.data
    except ImportError:
        click.echo("PyTorch is not installed: its DataLoader is left out", err=True)
        return None

    loader = torch.utils.data.DataLoader(
        PlainPhotos(), batch_size=16, num_workers=1, persistent_workers=True
    )
    return compare(
        *(WHAT, augment_photos, lambda: list(loader), repeat + 1),
        count=NUM_PHOTOS,
        note=f"torch {torch.__version__} DataLoader over the plain pipeline, 1 worker process",
    )


def measure_streets(repeat: int) -> Row:
    """Time crops of Cityscapes' size, against the same written plainly."""
    augmentation = SegmentationAugmentation(500, 2048, (0.7, 1.3), 8, RNA, DATASETS["cityscapes"])
    return measure_segmentation(augmentation, streets(), "2048x1024 PNG", repeat)


def measure_voc(repeat: int) -> Row:
    """Time crops of VOC's size, against the same written plainly."""
    augmentation = SegmentationAugmentation(500, 500, (0.7, 1.3), 8, RNA, DATASETS["voc"])
    return measure_segmentation(augmentation, photos()[:24], "500x375 JPEG", repeat)


def measure_two_workers(repeat: int) -> Row | None:
    """Time two worker processes that feed a classifier, against one."""
    with tempfile.TemporaryDirectory() as folder:
        samples = write_photos(Path(folder))
        try:
            turns = [(feed(samples, 2), feed(samples, 1)) for _ in range(repeat)]
        except MissingDependency as error:
            click.echo(f"two workers are left out: {error}", err=True)
            return None
    two, one = (statistics.median(rates) for rates in zip(*turns))
    return Row(
        what=f"TrainingIter, 2 worker processes, crop {CROP} of {PHOTO[1]}x{PHOTO[0]} JPEG",
        ours_s=1 / two,
        reference_s=1 / one,
        target_ratio=1.7,
        note=f"1 worker process; {os.cpu_count()} cores, which have to be idle",
        is_rate=True,
    )


MEASUREMENTS: tuple[Callable[[int], Row | None], ...] = (
    measure_classification,
    measure_against_decoding,
    measure_torch_loader,
    measure_streets,
    measure_voc,
    measure_two_workers,
)


def measure_segmentation(
    augmentation: SegmentationAugmentation, images: Sequence[bytes], what: str, repeat: int
) -> Row:
    """Time segmentation crops of these images, against the same written plainly."""
    height, width = image_size(images[0])
    label = encode_label_image(height, width)
    size, cells = augmentation.sample_size, augmentation.sample_size // augmentation.stride
    out, out_label = np.empty((3, size, size), np.float32), np.empty(cells**2, np.float32)

    def ours() -> None:
        for seed, image in enumerate(images):
            augmentation.apply(image, label, np.random.default_rng(seed), out, out_label)

    def plain() -> None:
        for seed, image in enumerate(images):
            augment_plainly(augmentation, image, label, seed)

    def decode() -> None:
        for image in images:
            decode_image(image)
            decode_stored_ids(label)

    seconds = seconds_in_turns({"ours": ours, "plain": plain, "decode": decode}, repeat)
    return Row(
        what=f"segmentation, crop {size} of {what}",
        ours_s=seconds["ours"] / len(images),
        reference_s=seconds["plain"] / len(images),
        target_ratio=None,
        note="Pillow and float64; whole decoding alone takes "
        f"{seconds['decode'] / seconds['ours']:.0%} of our time, "
        f"{mean_kilobytes(images):.0f} KB each",
        is_rate=True,
    )


def write_photos(folder: Path) -> list[Sample]:
    """Write all photographs to files."""
    samples = []
    for index, photo in enumerate(photos()):
        path = folder / f"{index}.jpg"
        path.write_bytes(photo)
        samples.append(Sample(index, path, 0, path.stem))
    return samples


def feed(samples: Sequence[Sample], num_workers: int) -> float:
    """Return how many images a second come from these workers once they are at work."""
    from iters.iterators import TrainingIter

    batch_size, num_batches = 16, 48
    with TrainingIter(
        samples,
        augmentation=ClassificationAugmentation(CROP, RNA),
        batch_size=batch_size,
        num_workers=num_workers,
    ) as iterator:
        for number in range(4 + num_batches):
            if number == 4:  # from here to the end, the same number of batches is ahead
                start = time.perf_counter()
            iterator.seek(*divmod(number, iterator.num_batches))
            iterator.next()
        return batch_size * num_batches / (time.perf_counter() - start)


def augment_photos() -> NDArray[np.float32]:
    """Return the samples of all photographs, (N, 3, CROP, CROP), by our pipeline."""
    augmentation = ClassificationAugmentation(CROP, RNA)
    samples = sample_memory()
    for seed, (photo, out) in enumerate(zip(photos(), samples)):
        augmentation.apply(photo, np.random.default_rng(seed), out)
    return samples


@lru_cache(maxsize=1)
def sample_memory() -> NDArray[np.float32]:
    """Return the memory that our samples are written to, as a worker's: the same every time."""
    return np.zeros((NUM_PHOTOS, 3, CROP, CROP), np.float32)


def augment_photos_plainly() -> NDArray[np.float32]:
    """Return the same samples by the plain pipeline."""
    return np.stack([PlainPhotos()[index] for index in range(NUM_PHOTOS)])


class PlainPhotos:
    """The plain pipeline over all photographs, as a dataset that PyTorch's DataLoader reads."""

    def __len__(self) -> int:
        """Return the number of photographs."""
        return NUM_PHOTOS

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return a sample, (3, CROP, CROP) float32."""
        image = plain_decode(photos()[index])
        rng = np.random.default_rng(index)
        draws = ClassificationAugmentation(CROP, RNA).draw(rng, image.shape[:2])
        return plain_normalize(plain_classification(image, draws, CROP)).astype(np.float32)


def augment_plainly(
    augmentation: SegmentationAugmentation, encoded: bytes, encoded_label: bytes, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return one segmentation sample by the plain pipeline."""
    image = plain_decode(encoded)
    stored = np.array(Image.open(io.BytesIO(encoded_label)))
    picture, label = plain_segmentation(
        image,
        decode_label(augmentation.dataset, stored),
        augmentation.draw(np.random.default_rng(seed), image.shape[:2]),
        crop_size=augmentation.crop_size,
        stride=augmentation.stride,
        frame=2 * max(image.shape),
    )
    return plain_normalize(picture).astype(np.float32), label


def decode_photos() -> None:
    """Decode all photographs and do nothing with them."""
    for photo in photos():
        plain_decode(photo)


@lru_cache(maxsize=1)
def photos() -> tuple[bytes, ...]:
    """Return JPEG files of photographs' size, in pixels and in bytes."""
    return tuple(encode_picture(PHOTO, seed, "JPEG") for seed in range(NUM_PHOTOS))


@lru_cache(maxsize=1)
def streets() -> tuple[bytes, ...]:
    """Return PNG files of Cityscapes' size."""
    return tuple(encode_picture(STREET, seed, "PNG") for seed in range(NUM_STREETS))


def encode_picture(size: tuple[int, int], seed: int, kind: str) -> bytes:
    """Return a file of a drawn picture: blots of all sizes, small ones fainter, and grain."""
    rng = np.random.default_rng(seed)
    height, width = size
    picture = np.full((height, width, 3), 120, np.float32)
    for blots in (3, 8, 20, 60, 150):
        coarse = rng.standard_normal((max(2, blots * height // width), blots, 3), np.float32)
        for channel in range(3):
            blot = Image.fromarray(coarse[:, :, channel]).resize((width, height), Image.BICUBIC)
            picture[:, :, channel] += np.asarray(blot) * 40 / blots**0.35
    grain = 6 if kind == "JPEG" else 1.5
    picture += grain * rng.standard_normal((height, width, 1), np.float32)
    return _encoded(np.clip(picture, 0, 255).astype(np.uint8), kind)


def encode_label_image(height: int, width: int) -> bytes:
    """Return a PNG file of square regions of stored ids 0 to 20."""
    regions = np.random.default_rng(0).integers(21, size=(height // 32 + 1, width // 32 + 1))
    label = regions.astype(np.uint8).repeat(32, axis=0).repeat(32, axis=1)[:height, :width]
    return _encoded(label, "PNG")


def _encoded(pixels: NDArray[np.uint8], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90)
    return buffer.getvalue()


def mean_kilobytes(files: Sequence[bytes]) -> float:
    """Return the mean size of files."""
    return sum(map(len, files)) / len(files) / 1e3
