"""From any images and any file of weights to labels that a person can look at."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ademx import options as declare
from ademx.convert.files import NetworkWeights, Reading, read_weights
from ademx.convert.onnx import read_onnx
from ademx.devices import Devices
from ademx.engines.backends import (
    BACKENDS,
    default_devices,
    predictor_class,
    resolve_backend,
)
from ademx.engines.onnx.predict import OnnxPredictor, default_onnx_devices
from ademx.errors import FileInTheWay, InputError, MissingFile
from ademx.files import locked, write_json
from ademx.labels import Label, chosen_label, parse_label
from ademx.networks.graph import input_normalization
from ademx.options import option
from ademx.pictures import class_colours, label_image, save_png
from ademx.prediction.legend import ClassShare, draw_classes
from ademx.testing.checks import check_names, find_dataset, finite
from ademx.testing.options import default_test_scale
from ademx.testing.score_maps import best_class
from ademx.testing.scorer import Scaled, Scorer
from iters import palettes, transforms
from iters.datasets import Dataset
from iters.decode import BrokenImage, Size
from iters.exif import RULES
from iters.find_dataset import get_dataset
from iters.images import MAX_PIXELS, SUFFIXES, load_image

_RANKS = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionOptions:
    """How to predict.

    Without devices it is the first GPU that the backend finds, else the CPU.
    """

    weights: Path = option(help=".params, .pth, .safetensors or .onnx file.", path="file")
    output: Path = option(help="Folder for the results.", path="output")
    backend: str | None = option(
        None,
        "What computes.  [default: onnx for an .onnx file, else MXNet if it is "
        "installed and has code for the devices, else PyTorch]",
        choices=(*BACKENDS, "onnx"),
    )
    compile: bool = option(
        False,
        "By --backend torch: compile for each size of image, which takes tens of seconds and pays "
        "for hundreds of images of one size.",
    )
    label: str | None = option(None, "Model label of the weights.  [default: from the file]")
    dataset: str | None = declare.dataset()
    test_scales: tuple[int, ...] | None = option(
        None,
        "Lengths of the shorter side (classification, default 320) or the longer side "
        "(segmentation, default 500, Cityscapes 2048), or what fits an .onnx file's fixed input; "
        "the results of several are averaged.",
    )
    test_flipping: bool = declare.test_flipping()
    tile: tuple[int, int] | None = declare.tile()
    overlap: int | None = declare.overlap()
    exif: str = option(
        "turn",
        "Turn an image as its EXIF orientation says, or take it as it is stored.",
        choices=RULES[1:],  # there is no label to tell by
    )
    max_pixels: int = option(
        MAX_PIXELS,
        "Pixels of the largest image that is taken; a damaged file may promise any.",
        least=1,
    )
    pool: str = declare.pool("; an .onnx file has its own")
    reading: Reading = field(default_factory=Reading)
    devices: Devices | None = None
    overwrite: bool = option(False, "Replace results in the output folder.")

    def __post_init__(self) -> None:
        declare.check(self)
        declare.check_tile(self)
        if self.test_scales is not None and (not self.test_scales or min(self.test_scales) < 1):
            raise InputError(f"--test-scales {self.test_scales}: expected lengths above 0")


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        image: the file.
        classes: the five best classes, or those with a pixel, highest value first.
        error: why the image could not be used; "" if it could.
    """

    image: Path
    classes: tuple[ClassShare, ...] = ()
    error: str = ""


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files as :func:`list_images` does, each of whose results has a name of its own.

    Raises:
        FileNotFoundError: see there.
        ValueError: two files would have results of the same name.
    """
    images = list_images(paths)
    (stem, count), *_ = Counter(path.stem for path in images).most_common(1)
    if count > 1:
        same = ", ".join(str(path) for path in images if path.stem == stem)
        raise InputError(
            f"{same}: their results would have the same name, {stem}: give them one at a time, "
            "each with its own --output"
        )
    return images


def list_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and the image files of the folders among them in order of their names.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no image.
    """
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
            found = [file for file in files if file.suffix.lower() in SUFFIXES]
            if not found:
                raise MissingFile(f"{path}: no image in this folder ({', '.join(SUFFIXES)})")
            others = Counter(
                file.suffix or "without a suffix"
                for file in files
                if file.suffix.lower() not in SUFFIXES
            )
            if others:
                _log.info(
                    "%s: passed over %d of %d files, whose names are not those of images: %s; an "
                    "image among them can be named itself",
                    *(path, len(files) - len(found), len(files)),
                    ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(9)),
                )
            images += found
        elif path.exists():
            images.append(path)
        else:
            raise MissingFile(f"{path}: no such file or folder")
    return images


def predict(images: Sequence[Path], options: PredictionOptions) -> Iterator[Prediction]:
    """Predict images one after the other and write the results under `options.output`.

    For every image: classification `classes/<image>.json` with the five best; segmentation
    `labels/<image>.png` in the dataset's own label ids, `overlays/<image>.png` and
    `shares/<image>.json`. An image that cannot be read has its error in place of classes.

    Raises:
        ValueError: weights or options that do not fit; a network whose output is not finite.
        FileExistsError: a result is there already, and `overwrite` is off.
        ademx.compat.MissingDependency: the backend is not installed.
    """
    network = _open_network(options)
    task = _Classifier if network.label.task == "classification" else _Segmenter
    worker = task(network, options)
    with locked(options.output, "--output"):
        outputs = [file for image in images for file in worker.files(image).values()]
        existing = [file for file in outputs if os.path.lexists(file)]
        if existing and not options.overwrite:
            raise FileInTheWay(f"{existing[0]} exists: choose another --output or add --overwrite")
        for folder in {file.parent for file in outputs}:
            folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            try:
                check_names(image, worker.files(image).values())
                pixels = load_image(
                    image,
                    turned=options.exif == "turn",
                    over_white=True,
                    max_pixels=options.max_pixels,
                )
            except (BrokenImage, OSError) as error:
                yield Prediction(image, error=str(error))
                continue
            yield Prediction(image, worker.predict(image, pixels))


@dataclass(frozen=True)
class _Network:
    """A network that is ready to run.

    Attributes:
        label: which one it is.
        dataset: names, colours and label ids of the classes.
        run: (N, 3, H, W) float32, batch=… -> probabilities, as the predictors do.
        input_size: height and width of its input, pixels; None: any.
        source: the file.
    """

    label: Label
    dataset: Dataset
    run: Callable[..., np.ndarray]
    input_size: Size | None
    source: Path

    def predict(self, inputs: Iterable[np.ndarray]) -> np.ndarray:
        """Return the output, (N, ...) float32, for (3, H, W) float32 inputs, one at a time."""
        return finite(self.run(np.stack(list(inputs)), batch=1), self.source)


class _Classifier:
    """Predicts the class of an image from its central square."""

    def __init__(self, network: _Network, options: PredictionOptions) -> None:
        self._network = network
        self._options = options
        if options.tile is not None:
            raise InputError("--tile: a classifier sees its image whole: leave it out")
        size = network.input_size
        scale = size[0] if size else default_test_scale(network.label)
        self._scales = options.test_scales or (scale,)

    def files(self, image: Path) -> dict[str, Path]:
        return {"classes": self._options.output / "classes" / f"{image.stem}.json"}

    def predict(self, image: Path, pixels: np.ndarray) -> tuple[ClassShare, ...]:
        outputs = []
        for scale in self._scales:
            crop = transforms.center_crop(transforms.resize_shorter(pixels, scale), scale)
            inputs = transforms.normalize(crop, input_normalization(self._network.label))
            both = (inputs, inputs[:, :, ::-1])
            outputs.append(self._network.predict(both[: 1 + self._options.test_flipping]).mean(0))
        probabilities = np.mean(outputs, axis=0)
        best = _ranked(self._network, probabilities)[:_RANKS]
        _write_shares(self.files(image)["classes"], image, self._network, best)
        return best


class _Segmenter:
    """Predicts the class of every pixel of an image."""

    def __init__(self, network: _Network, options: PredictionOptions) -> None:
        self._network = network
        self._options = options
        self._scorer = Scorer(
            network.predict,
            network.label,
            network.input_size or network.dataset.canvas,
            flip=options.test_flipping,
            tile=options.tile,
            overlap=options.overlap,
        )
        self._is_warned = False

    def files(self, image: Path) -> dict[str, Path]:
        kinds = {"labels": ".png", "overlays": ".png", "shares": ".json"}
        return {
            folder: self._options.output / folder / f"{image.stem}{suffix}"
            for folder, suffix in kinds.items()
        }

    def predict(self, image: Path, pixels: np.ndarray) -> tuple[ClassShare, ...]:
        scales = self._scales(pixels)
        if not self._is_warned:
            self._is_warned = self._scorer.tiles_are_idle(pixels.shape[:2], scales)
        classes = best_class(self._scorer.score([self._scaled(pixels, one) for one in scales]))
        num_classes = self._network.label.num_classes
        counts = sum(np.bincount(row, minlength=num_classes) for row in classes)
        ranked = _ranked(self._network, counts / classes.size)
        shares = tuple(share for share in ranked if share.value > 0)
        files, dataset = self.files(image), self._network.dataset
        save_png(files["labels"], label_image(dataset, classes))
        drawn = draw_classes(pixels, classes, class_colours(dataset), shares)
        save_png(files["overlays"], drawn)
        _write_shares(files["shares"], image, self._network, shares)
        return shares

    def _scales(self, pixels: np.ndarray) -> tuple[int, ...]:
        """Return the lengths of the longer side; what fits, where the network's input is fixed."""
        if self._options.test_scales:
            return self._options.test_scales
        room = self._scorer.room
        if room is None:
            return (self._network.dataset.origin_size,)
        rate = min(room[0] / pixels.shape[0], room[1] / pixels.shape[1])
        return (max(1, int(rate * max(pixels.shape[:2]) + 1e-6)),)

    def _scaled(self, pixels: np.ndarray, scale: int) -> Scaled:
        """Return an image made ready for the network at one scale."""
        scaled, room = self._scorer.prepare(pixels, scale), self._scorer.room
        height, width = scaled.size
        if room is not None and (height > room[0] or width > room[1]):
            raise InputError(
                f"--test-scales {scale}: {self._network.source} takes images of up to "
                f"{room[0]}×{room[1]} pixels, and one would have {height}×{width}: leave the "
                "option out, or convert with --input free"
            )
        return scaled


def _ranked(network: _Network, values: np.ndarray) -> tuple[ClassShare, ...]:
    """Return all classes with their values, highest first; of equal ones the lower class."""
    order = np.argsort(-values, kind="stable")
    return tuple(
        ClassShare(int(index), network.dataset.class_name(int(index)), float(values[index]))
        for index in order
    )


def _write_shares(
    path: Path, image: Path, network: _Network, classes: Sequence[ClassShare]
) -> None:
    facts = {"image": str(image), "label": str(network.label)}
    write_json(path, {**facts, "classes": [dataclasses.asdict(one) for one in classes]})


def _open_network(options: PredictionOptions) -> _Network:
    """Return the network of a file of weights on the chosen backend."""
    path = options.weights
    backend = options.backend or _default_backend(path, options.devices)
    if options.compile and backend != "torch":
        raise InputError(f"--compile: {backend} compiles nothing: add --backend torch or leave it")
    devices = options.devices or _default_devices(backend)
    _log.info("%s computes on %s", backend, ", ".join(devices.names()))
    if backend == "onnx" and path.suffix == ".onnx":
        stored = OnnxPredictor.from_onnx(path, devices=devices)
        label = parse_label(options.label or stored.metadata["label"])
        _check_pool(options, stored.metadata)
        dataset = _dataset(label, options.dataset)
        return _Network(label, dataset, stored, stored.input_size, path)
    weights = _read(options)
    chosen_label(options.label or weights.metadata.get("label"), path, option="--label")
    _check_pool(options, weights.metadata)
    dataset = _dataset(weights.label, options.dataset)
    predictor = (OnnxPredictor if backend == "onnx" else predictor_class(backend))(
        weights,
        devices=devices,
        pool=weights.metadata.get("pool", options.pool),
        **({"compiled": True} if options.compile else {}),
    )
    return _Network(weights.label, dataset, predictor, None, path)


def _check_pool(options: PredictionOptions, metadata: Mapping[str, str]) -> None:
    """Raise if an .onnx file, which has a geometry of its own, has not the one asked for."""
    own = metadata.get("pool", options.pool)
    if options.pool not in ("pad", own):
        raise InputError(
            f"--pool {options.pool}: {options.weights} has the geometry {own}: convert the weights "
            f"again, by --pool {options.pool}, or leave the option out"
        )


def _dataset(label: Label, name: str | None) -> Dataset:
    """Return names, colours and label ids of the classes; plain numbers for a new set of classes.

    Raises:
        ValueError: there is no dataset of this name, or it does not fit the label.
    """
    if name:
        return find_dataset(label, name)
    dataset = get_dataset(label.dataset)
    if dataset.num_classes == label.num_classes:
        return dataset
    return dataclasses.replace(
        dataset,
        num_classes=label.num_classes,
        class_names=(),
        stored_ids=None,
        palette=dataset.palette and palettes.VOC,
    )


def _default_devices(backend: str) -> Devices:
    return default_onnx_devices() if backend == "onnx" else default_devices(backend)


def _read(options: PredictionOptions) -> NetworkWeights:
    """Return the weights in a file of any kind."""
    label = parse_label(options.label) if options.label else None
    if options.weights.suffix == ".onnx":
        return read_onnx(options.weights, label=label)
    return read_weights(options.weights, label=label, reading=options.reading, complete=False)


def _default_backend(path: Path, devices: Devices | None) -> str:
    """Return onnx for an ONNX file, else what the others' "auto" takes, else what is installed."""
    has_onnx = find_spec("onnxruntime") is not None
    if has_onnx and (path.suffix == ".onnx" or not (find_spec("mxnet") or find_spec("torch"))):
        return "onnx"
    return resolve_backend("auto", devices)  # whose absence has an error of its own
