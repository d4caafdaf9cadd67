"""How to reproduce: options of testing rows again and of training recipes again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ademx.devices import Devices
from ademx.options import check, option, other_default
from ademx.published import RESULTS, Result, get_result
from ademx.reproduction.inputs import SearchFolders
from ademx.reproduction.recipes import Recipe, Stage, get_recipe
from ademx.testing.options import EvaluationOptions
from ademx.training.options import TrainOptions


@dataclass(frozen=True)
class _Options:
    """What both need to know; what is None is as the row or the recipe says, or as by default."""

    places: SearchFolders = field(default_factory=SearchFolders)
    output: Path = option(
        Path("reproduction"), "Folder for reports, and for what each row writes.", path="output"
    )
    devices: Devices | None = None
    batch_images: int | None = other_default(
        *(EvaluationOptions, "batch_images", None),
        "Testing: network inputs that a device computes at a time.  [default: 1]  "
        "Training: images of an update.  [default: the recipe's]",
    )
    prefetch_threads: int | None = other_default(
        EvaluationOptions, "prefetch_threads", None, "How many read images ahead."
    )
    backend: str = other_default(EvaluationOptions, "backend", "auto")
    unverified: bool = option(
        False, "Use also data and weights that are not known to be the published ones."
    )
    overwrite: bool = option(False, "Do again what is done.")

    def __post_init__(self) -> None:
        check(self)

    def _given_options(self, *names: str) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class ReproduceOptions(_Options):
    """How to test published rows.

    Attributes:
        rows: names of rows as :func:`ademx.published.get_result` takes them; none stands for all.

    Raises:
        ValueError: a row that there is not.
    """

    rows: tuple[str, ...] = ()
    precision: str | None = other_default(
        EvaluationOptions, "precision", None, "Testing.  [default: float32]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.rows:
            get_result(name)

    def chosen(self) -> tuple[Result, ...]:
        """Return the rows in the order of the published table."""
        names = [get_result(name).name for name in self.rows]
        return tuple(row for row in RESULTS if not names or row.name in names)

    def of_results(self) -> dict[str, Any]:
        """Return what the results of a test depend on."""
        return self._given_options("precision", "backend")

    def of_machine(self) -> dict[str, Any]:
        """Return the other options of a test: where, how fast, and what of it is done already."""
        given = self._given_options("devices", "batch_images", "prefetch_threads")
        return {**given, "resume": not self.overwrite, "overwrite": self.overwrite}


@dataclass(frozen=True)
class RecipeOptions(_Options):
    """How to train a recipe; without devices as many GPUs as it has.

    Raises:
        ValueError: a recipe that there is not.
    """

    recipe: str = option(
        "", "Train this row's network by its recipe.", names=("--train",), metavar="ROW"
    )
    crop_size: int | None = other_default(
        TrainOptions, "crop_size", None, "Training: side of a sample."
    )
    base_lr: float | None = other_default(
        TrainOptions, "base_lr", None, "Training: rate of the first stage; others in scale."
    )
    epochs: int | None = option(None, "Training: of each stage, for a trial.", least=1)
    width: float | None = other_default(
        TrainOptions, "width", None, "Training: times all channels, for a trial."
    )
    prefetcher: str | None = other_default(TrainOptions, "prefetcher", None, "Training.")

    def __post_init__(self) -> None:
        super().__post_init__()
        get_recipe(self.recipe)

    @property
    def row(self) -> Recipe:
        """The recipe."""
        return get_recipe(self.recipe)

    def stages(self) -> tuple[Stage, ...]:
        """Return the recipe's stages with what these options change."""
        first = self.row.stages[0].options
        scale = 1.0 if self.base_lr is None else self.base_lr / first.base_lr
        given = self._given_options("batch_images", "crop_size", "width", "backend")
        given |= self._given_options("prefetcher", "prefetch_threads")
        stages = []
        for stage in self.row.stages:
            recipe = stage.options
            epochs = self.epochs or recipe.to_epoch
            # As many epochs before each fall of the rate, of a shorter training as large a part.
            slower = recipe.batch_images / (self.batch_images or recipe.batch_images)
            updates = slower * epochs / recipe.to_epoch
            options = dataclasses.replace(
                recipe,
                output=self.output / "train" / self.recipe / stage.label,
                base_lr=stage.options.base_lr * scale,
                to_epoch=epochs,
                lr_steps=tuple(round(step * updates) for step in recipe.lr_steps),
                devices=self.devices or Devices(gpus=tuple(range(stage.num_devices or 1))),
                resume=not self.overwrite,
                overwrite=self.overwrite,
                **given,
            )
            stages.append(dataclasses.replace(stage, options=options))
        return tuple(stages)
