"""How the published networks are trained: a row for each recipe, in stages.

How they are tested stands in :data:`ademx.published.RESULTS`. Where the release or the paper
states a recipe its origin is "release". The others are "ours": a plausible way to such a network,
which nobody has shown to reach the published number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ademx.errors import InputError
from ademx.published import RESULTS, Result
from ademx.training.options import (
    ClassificationTrainOptions,
    SegmentationTrainOptions,
    TrainOptions,
)

UNKNOWN = "unknown"
_LATER = Path()  # where the data are is said when a stage is planned


@dataclass(frozen=True)
class Stage:
    """One training of a recipe.

    Attributes:
        options: of the training; those that say where data and weights are say nothing yet.
        weights: label of what it starts from: of an earlier stage, else of a file in the folder
            of models; None draws all values.
        num_devices: devices that share the batch; None where the source names no number.
    """

    options: TrainOptions
    weights: str | None
    num_devices: int | None

    @property
    def label(self) -> str:
        """Label of the network, and of the checkpoints."""
        return str(self.options.label)

    @property
    def dataset(self) -> str:
        """Key of :data:`iters.datasets.DATASETS`."""
        return self.options.dataset or self.options.label.dataset

    @property
    def file_name(self) -> str:
        """Name of the checkpoint that the stage ends with."""
        return f"{self.label}_ep-{self.options.to_epoch:04d}.params"


@dataclass(frozen=True)
class Recipe:
    """How a published network is trained.

    Attributes:
        name: of the row that its weights are for, or of its own.
        origin: "release" where the release or the paper states it, else "ours".
        source: what states it, and what of it is our choice.
        stages: in order; the last one's weights are the recipe's.
        hardware: what it was trained on, "unknown" where nothing says so.
        time: how long that took, "unknown" where nothing says so.
    """

    name: str
    origin: str
    source: str
    stages: tuple[Stage, ...]
    hardware: str = UNKNOWN
    time: str = UNKNOWN

    @property
    def label(self) -> str:
        """Label of the weights that it ends with."""
        return self.stages[-1].label


def _classifier(
    label: str, weights: str | None, *, num_devices: int | None = None, **options: Any
) -> Stage:
    """Return a stage as in the release's ILSVRC recipes, with other options than by default."""
    chosen = {"lr_type": "linear", **options}
    return Stage(
        ClassificationTrainOptions(data_root=_LATER, model=label, **chosen), weights, num_devices
    )


def _cityscapes_way(
    label: str,
    weights: str,
    *,
    epochs: tuple[int, int],
    last_split: str | None = None,
    origin_size: int = 500,
    **options: Any,
) -> tuple[Stage, Stage]:
    """Return two stages as in the release's Cityscapes recipe: a fixed rate, half of it falling.

    Args:
        label: of the first stage; that of the second says how long the first was, as there.
        weights: label of what the first starts from.
        epochs: of each stage.
        last_split: that of the second stage, where it is another one.
        origin_size: longer side of an image at scale 1, pixels.
        options: other ones of both stages.
    """
    first = SegmentationTrainOptions(
        data_root=_LATER, model=label, to_epoch=epochs[0], origin_size=origin_size, **options
    )
    second = replace(
        first,
        model=f"{label}_x1-{epochs[0]}",
        split=last_split or first.split,
        to_epoch=epochs[1],
        lr_type="linear",
        base_lr=0.0008,
    )
    return Stage(first, weights, 4), Stage(second, label, 4)


def _resnet(row: Result) -> Recipe:
    """Return the recipe of a row of the ResNet paper: 600,000 updates, to the nearest epoch."""
    stage = _classifier(
        str(row.label),
        None,
        num_devices=8,
        to_epoch=120,
        lr_type="step",
        lr_steps=(150_000, 300_000, 450_000),
        base_lr=0.1,
        pool="full",
    )
    return Recipe(
        name=row.name,
        origin="ours",
        source="arXiv:1512.03385, §3.4: batch 256, rate 0.1, a tenth of it where the error stops "
        "falling, up to 600,000 updates, weight decay 0.0001, momentum 0.9; its authors' README: 8 "
        "GPUs; ours: the updates at which the rate falls, Torch's Nesterov momentum, and the "
        "augmentation of the Wider or Deeper release, where the paper's draws a shorter side from "
        "256 to 480 pixels",
        stages=(stage,),
        hardware="eight GPUs",
    )


# Of the recipes that are ours: as many updates in each stage as on Cityscapes, 140 and 64 times
# 186, to the nearest whole epoch.
_OURS = (
    "the published settings are unknown; ours: the Cityscapes recipe with as many updates in each "
    "stage, to the nearest epoch"
)


def _own_recipe(name: str, label: str, weights: str, **data: Any) -> Recipe:
    """Return a recipe of ours for a published row; see :func:`_cityscapes_way`."""
    return Recipe(name, "ours", _OURS, _cityscapes_way(label, weights, **data))


_RECIPES = (
    Recipe(
        name="ilsvrc-a",
        origin="release",
        # Deviation: the release's own graphs cannot pool without padding as Model A's training
        # did, so its command pads; a network trained so would not fit its test ("caffe").
        source="ademxapp README; pooling as the released Model A was trained with (--pool full)",
        stages=(
            _classifier(
                "ilsvrc-cls_rna-a_cls1000",
                None,
                to_epoch=90,
                base_lr=0.1,
                pool="full",
                num_devices=4,
            ),
        ),
        hardware="four GPUs of 11 GB",
        time="over 40 days on four Maxwell Titans",
    ),
    Recipe(
        name="ilsvrc-a1",
        origin="release",
        source="ademxapp README: 9 epochs (45k updates) from Model A, rate 0.01",
        stages=(
            _classifier(
                "ilsvrc-cls_rna-a1_cls1000", "ilsvrc-cls_rna-a_cls1000", to_epoch=9, base_lr=0.01
            ),
        ),
    ),
    Recipe(
        name="places-a2",
        origin="ours",
        source="ademxapp README: Model A tuned for 45k updates on Places365; ours: rate, schedule "
        "and batch as for A1, and 6 whole epochs, which are 42,270 updates",
        stages=(
            _classifier(
                "places_rna-a2_cls365", "ilsvrc-cls_rna-a_cls1000", to_epoch=6, base_lr=0.01
            ),
        ),
    ),
    Recipe(
        name="cityscapes-a1",
        origin="release",
        source="ademxapp README",
        stages=_cityscapes_way(
            "cityscapes_rna-a1_cls19_s8",
            "ilsvrc-cls_rna-a1_cls1000",
            epochs=(140, 64),
            origin_size=2048,
        ),
        hardware="four GPUs",
    ),
    _own_recipe(
        "voc-a-1conv",
        "voc_rna-a_cls21_s8_1conv",
        "ilsvrc-cls_rna-a_cls1000",
        dataset="voc-sbd",
        split="train+",
        epochs=(39, 18),
        pool="full",
        head="1conv",
    ),
    _own_recipe(
        "voc-a1",
        "voc_rna-a1_cls21_s8",
        "ilsvrc-cls_rna-a1_cls1000",
        dataset="voc-sbd",
        split="train+",
        epochs=(39, 18),
    ),
    Recipe(
        name="voc-a1-coco",
        origin="ours",
        source="the release names its split train++ (VOC, SBD and COCO) and no more; ours: 8 "
        "epochs on train++, then the last stage of voc-a1, on train+",
        stages=_cityscapes_way(
            "voc_rna-a1_cls21_s8_coco",
            "ilsvrc-cls_rna-a1_cls1000",
            dataset="voc-sbd",
            split="train++",
            epochs=(8, 18),
            last_split="train+",
        ),
    ),
    _own_recipe(
        "ade20k-a1",
        "ade20k_rna-a1_cls150_s8",
        "ilsvrc-cls_rna-a1_cls1000",
        epochs=(21, 9),
    ),
    _own_recipe(
        "ade20k-a2",
        "ade20k_rna-a2_cls150_s8",
        "places_rna-a2_cls365",
        epochs=(21, 9),
    ),
    _own_recipe(
        "context-a2",
        "pascal-context_rna-a2_cls60_s8",
        "places_rna-a2_cls365",
        epochs=(83, 38),
    ),
    *(_resnet(row) for row in RESULTS if row.network.startswith("rn-")),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}


def get_recipe(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name in RECIPES:
        return RECIPES[name]
    known = any(row.name == name for row in RESULTS)
    what = f"no recipe for {name!r}" if known else f"unknown recipe {name!r}"
    raise InputError(f"{what}: expected one of {', '.join(RECIPES)}")
