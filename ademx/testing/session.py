"""What testing a classifier and testing a segmentation network share."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm import tqdm

from ademx.compat import usable_cores
from ademx.convert.files import NetworkWeights, read_weights
from ademx.engines.backends import default_devices, predictor_class, resolve_backend
from ademx.engines.mxnet.predict import Predictor
from ademx.errors import InputError
from ademx.files import locked, md5
from ademx.iteration import grouped, prefetched
from ademx.labels import Label, chosen_label
from ademx.networks.graph import input_normalization
from ademx.options import chosen, deciding
from ademx.published import Result, find_result, release_state
from ademx.testing import run_folder as runs
from ademx.testing.checks import check_averageable, find_dataset, finite
from ademx.testing.memory import state_memory
from ademx.testing.options import EvaluationOptions
from ademx.testing.record import LeftOut, Report, RunRecord, RunSettings, WeightsRead
from ademx.text import first_few
from ademx.versions import versions
from iters import exif, transforms
from iters.decode import BrokenImage, Size
from iters.images import Loaded, load_sample
from iters.lists import find_samples
from iters.samples import Sample
from iters.variants import explain_count, warn_of_labels

if TYPE_CHECKING:
    from ademx.engines.torch.predict import TorchPredictor


T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger(__name__)

# Compiling takes 20 to 40 s for a size and saves about a tenth of the time, which is 5 (A1) to 9 µs
# (at output stride 8) for a pixel on two cores: for so many pixels a core it is won back.
_PIXELS_TO_COMPILE = 50_000_000


class RunInputs:
    """What a test is made of, before anything is computed or written.

    Attributes:
        options: how to test, with the backend that computes.
        labels: of the weights.
        dataset: what is tested on.
        samples: the split's.

    Raises:
        ValueError: options that do not fit each other or the weights.
        FileNotFoundError: weights or data are missing.
    """

    def __init__(self, options: EvaluationOptions) -> None:
        backend = resolve_backend(
            options.backend, options.devices, precision=options.precision, task=options.task
        )
        if options.compile and backend != "torch":
            raise InputError("--compile: MXNet compiles nothing: add --backend torch or leave it")
        self.options = replace(options, backend=backend)
        self.labels = tuple(_checked_label(options, path) for path in options.weights)
        check_averageable(self.labels)
        self.dataset = find_dataset(self.labels[0], options.dataset)
        self.samples = find_samples(
            self.dataset, options.data_root, options.split, list_file=options.list_file
        )

    @cached_property
    def weights(self) -> list[WeightsRead]:
        """The files of the weights; none is read but for its MD5."""
        return [WeightsRead(str(path), md5(path)) for path in self.options.weights]

    @property
    def has_labels(self) -> bool:
        """Whether the truth of the split is known."""
        return self.samples[0].label is not None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the results, as a run's folder keeps it, "command" first."""
        options = self.options
        names = "\n".join(f"{sample}\t{sample.label}" for sample in self.samples)
        return {
            "command": f"evaluate {options.task}",
            "labels": [str(label) for label in self.labels],
            "weights_md5": [weights.md5 for weights in self.weights],
            "dataset": self.dataset.settings,
            "split": options.split,
            "samples_md5": hashlib.md5(names.encode(errors="surrogateescape")).hexdigest(),
            **deciding(options),
            **options.reading.settings(),
        }


class Session(RunInputs):
    """The samples, networks and folder of one test run; what a task does with them is below it.

    Nothing is written before :meth:`in_folder`, so that a caller can check the rest of its
    options first.
    """

    def __init__(self, options: EvaluationOptions) -> None:
        super().__init__(options)
        options = self.options
        self._devices = options.devices or default_devices(options.backend)
        self.weights: list[WeightsRead] = []
        self._networks: list[tuple[str, float, str]] = []
        self._predictors: list[Predictor | TorchPredictor] = []
        for path, label in zip(options.weights, self.labels):
            network = read_weights(path, label=label, reading=options.reading, complete=False)
            self._predictors.append(self._predictor(network))
            self.weights.append(WeightsRead(str(path), network.md5))
            self._networks.append((str(label), network.width, network.head))
        self._broken: dict[Sample, str] = {}  # why it could not be tested
        self._tested: set[Sample] = set()  # in this run, not in one that it resumes
        self._exif = exif.Watch()
        self._start = time.monotonic()

    def test(self) -> Report:
        """Test, write what is found into the output folder, and return the report."""
        raise NotImplementedError

    @contextmanager
    def in_folder(self) -> Iterator[None]:
        """Make the output folder ready, log what is tested, and keep other runs out of it.

        Raises:
            ValueError, OSError: options do not fit the first image; see also
                :func:`ademx.files.locked` and :func:`ademx.testing.run_folder.open_folder`.
        """
        options = self.options
        sizes, maps_bytes = self._first_image()  # refuses what does not fit it
        with locked(options.output, "--output"):
            runs.open_folder(self.settings, options)
            self._describe()
            sizes = sizes or [(scale, scale) for scale in options.test_scales]
            state_memory(options, self._networks, sizes, self._devices, maps_bytes=maps_bytes)
            for folder in self.folders:
                (options.output / folder).mkdir(exist_ok=True)
            yield

    def _first_image(self) -> tuple[list[Size], int]:
        """Return what the network sees of it at each scale, and the bytes of its score maps.

        No sizes stand for squares of the test scales.
        """
        return [], 0

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders under the output that hold what is found in images."""
        return self.options.folders(has_labels=self.has_labels)

    @property
    def label(self) -> Label:
        """The label of the first weights."""
        return self.labels[0]

    @property
    def normalization(self) -> transforms.Normalization:
        """The input normalisation of the network's family."""
        return input_normalization(self.label)

    def predict(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Return the networks' mean output, (N, …) float32, for (3, H, W) float32 images.

        The images are taken as they are needed, a batch for every device at a time.

        Raises:
            ValueError: an output is not finite.
        """
        outputs = []
        for group in grouped(images, self.group_images):
            batch, size = np.stack(group), self.options.batch_images
            networks = zip(self._predictors, self.options.weights)
            found = (finite(model(batch, batch=size), path) for model, path in networks)
            outputs.append(sum(found) / len(self._predictors))
        return np.concatenate(outputs)

    def load(
        self,
        samples: Sequence[Sample],
        function: Callable[[Sample], R],
        *,
        bar: tqdm[Any],
        ahead: int | None = None,
    ) -> Iterator[tuple[Sample, R]]:
        """Yield samples with what `function` makes of them, read ahead by threads.

        A broken or missing image is logged, listed in the record, counted by the progress bar
        and left out.
        """

        def attempt(sample: Sample) -> R | Exception:
            try:
                return function(sample)
            except (BrokenImage, OSError) as error:
                return error

        threads = self.options.prefetch_threads
        for sample, result in prefetched(samples, attempt, threads=threads, ahead=ahead):
            if isinstance(result, Exception):
                _log.error("left out: %s", result)
                self._broken[sample] = str(result)
                bar.update()
            else:
                self._tested.add(sample)
                yield sample, result

    def load_sample(self, sample: Sample) -> Loaded:
        """Return a sample's image and label; see :func:`iters.images.load_sample`.

        The first image that the default rule for EXIF orientations decides on is logged.
        """
        loaded = load_sample(sample, rule=self.options.exif)
        if loaded.orientation != 1 and self.options.exif == "auto":
            self._exif.note(str(sample), loaded.orientation, turned=loaded.turned)
        return loaded

    @property
    def group_images(self) -> int:
        """Images to predict together: a batch for every device."""
        return self.options.batch_images * self._devices.count

    def published(self) -> Result | None:
        """Return the published result with the same label, split and options, if any.

        Beside scores of part of the split or of broken images there is none.
        """
        num_tested = len(self.samples) - len(self._broken)
        is_the_same = (
            self.dataset.name == self.label.dataset
            and num_tested == self.dataset.splits.get(self.options.split)
            and len(self.options.weights) == 1
        )
        if not is_the_same:
            return None
        options = {**chosen(self.options), "split": self.options.split}
        options["test_scales"] = tuple(sorted(self.options.test_scales))
        for name in ("backend", "exif"):  # which may be anything
            options.pop(name, None)
        return find_result(str(self.label), **options)

    def submission_is_due(self) -> bool:
        """Return whether a test split has a result for every image; log which ones have none."""
        if self.options.split == "test" and self._broken:
            _log.error(
                "nothing is packed for a server: %d of %d images have no result: %s; go on by "
                "--resume once they are repaired",
                *(len(self._broken), len(self.samples), first_few(self._broken)),
            )
        return self.options.split == "test" and not self._broken

    def write_scores(self, **of_task: Any) -> Report:
        """Write the record of the run, `scores.json`, and return its report.

        Images per second are those of this run, without what a run that it resumes had done.

        Args:
            of_task: what the task found.
        """
        seconds = time.monotonic() - self._start
        record = RunRecord(
            **of_task,
            dataset=self.dataset.name,
            num_images=len(self.samples),
            num_broken=len(self._broken),
            broken=[LeftOut(str(sample), error) for sample, error in self._broken.items()],
            exif=self._exif.counts,
            weights=self.weights,
            settings=RunSettings.from_json(self.settings),
            seconds=round(seconds, 3),
            images_per_second=round(len(self._tested) / seconds, 3),
            devices=self._devices.names(),
            versions=versions(),
            published=self.published(),
        )
        record.write(self.options.output)
        return Report(self.options.output, record, self.dataset, self.samples)

    def _predictor(self, network: NetworkWeights) -> Predictor | TorchPredictor:
        options = self.options
        return predictor_class(options.backend)(
            network,
            devices=self._devices,
            pool=options.pool,
            precision=options.precision,
            **({"compiled": self._is_compiled()} if options.backend == "torch" else {}),
        )

    def _is_compiled(self) -> bool:
        """Return whether PyTorch is to compile: as asked, or where it pays."""
        options, cores = self.options, usable_cores() or 1
        if options.compile is not None or self._devices.gpus:
            return bool(options.compile)
        inputs = 10 if getattr(options, "test_10crops", False) else 1 + options.test_flipping
        pixels = len(self.samples) * inputs * max(options.test_scales) ** 2
        return pixels > _PIXELS_TO_COMPILE * cores

    def _describe(self) -> None:
        names, options = ", ".join(self._devices.names()), self.options
        _log.info("%s computes %s on %s", options.backend, options.precision, names)
        for weights in self.weights:
            name, digest = Path(weights.file).name, weights.md5
            _log.info("%s: MD5 %s, %s", name, digest, release_state(name, digest))
        _log.info(
            "%s %s: %d images, scales %s, writing to %s",
            self.dataset.name,
            self.options.split,
            len(self.samples),
            ", ".join(map(str, self.options.test_scales)),
            self.options.output,
        )
        known = explain_count(self.dataset, options.split, len(self.samples))
        if known is not None:
            _log.warning("%d images: %s", len(self.samples), known.message)
        warn_of_labels(self.dataset, self.samples)


def _checked_label(options: EvaluationOptions, path: Path) -> Label:
    label = chosen_label(options.model, path)
    if label.task != options.task:
        raise InputError(
            f"{options.model or path}: a network for {label.task}; "
            f"use `ademx evaluate {label.task}`"
        )
    return label
