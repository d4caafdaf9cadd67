"""How the published networks are trained: a row for each recipe, in stages.

How they are tested stands in :data:`ademx.published.RESULTS`. Where the release or the paper
states a recipe its origin is "release". The others are "ours": a plausible way to such a network,
which nobody has shown to reach the published number.
"""

from __future__ import annotations

from dataclasses import dataclass

from ademx.labels import Label, parse_label
from ademx.published import RESULTS, Result

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Stage:
    """One training of a recipe; what it does not hold are the defaults of `ademx train`.

    Attributes:
        label: of the network, and of the checkpoints.
        weights: label of what it starts from: of an earlier stage, else of a file in the folder
            of models; None draws all values.
        dataset: key of :data:`iters.datasets.DATASETS`.
        split: such as "train".
        epochs: of the whole stage, which the learning rate is planned for.
        lr_type: "fixed" or "linear".
        base_lr: learning rate at the start.
        batch_images: images of an update, over all devices.
        crop_size: side of a sample, pixels.
        num_devices: devices that share the batch; None where the source names no number.
        origin_size: longer side of an image at scale 1, pixels; None in classification.
        scale_rate_range: smallest and largest scale; None in classification.
        loss: "ohem" or "softmax"; None in classification.
        pool: geometry of max pooling.
    """

    label: str
    weights: str | None
    dataset: str
    split: str
    epochs: int
    lr_type: str
    base_lr: float
    batch_images: int
    crop_size: int
    num_devices: int | None
    origin_size: int | None = None
    scale_rate_range: tuple[float, float] | None = None
    loss: str | None = None
    pool: str = "pad"

    @property
    def parsed(self) -> Label:
        """The label, parsed."""
        return parse_label(self.label)

    @property
    def file_name(self) -> str:
        """Name of the checkpoint that the stage ends with."""
        return f"{self.label}_ep-{self.epochs:04d}.params"


@dataclass(frozen=True)
class Recipe:
    """How a published network is trained.

    Attributes:
        name: of the row that it aims at, or of its own.
        rows: names of the rows of :data:`ademx.published.RESULTS` that its weights are for.
        origin: "release" where the release or the paper states it, else "ours".
        source: what states it, and what of it is our choice.
        stages: in order; the last one's weights are the recipe's.
        hardware: what it was trained on, "unknown" where nothing says so.
        time: how long that took, "unknown" where nothing says so.
    """

    name: str
    rows: tuple[str, ...]
    origin: str
    source: str
    stages: tuple[Stage, ...]
    hardware: str = UNKNOWN
    time: str = UNKNOWN

    @property
    def label(self) -> str:
        """Label of the weights that it ends with."""
        return self.stages[-1].label


def _cityscapes_way(
    label: str,
    weights: str,
    *,
    data: tuple[str, str],
    epochs: tuple[int, int],
    last_data: tuple[str, str] | None = None,
    origin_size: int = 500,
) -> tuple[Stage, Stage]:
    """Return two stages as in the release's Cityscapes recipe: a fixed rate, half of it falling.

    Args:
        label: of the first stage; that of the second says how long the first was, as there.
        weights: label of what the first starts from.
        data: dataset and split.
        epochs: of each stage.
        last_data: dataset and split of the second stage, where they are others.
        origin_size: longer side of an image at scale 1, pixels.
    """

    def stage(
        label: str, weights: str, data: tuple[str, str], epochs: int, *, rate: tuple[str, float]
    ) -> Stage:
        return Stage(
            label=label,
            weights=weights,
            dataset=data[0],
            split=data[1],
            epochs=epochs,
            lr_type=rate[0],
            base_lr=rate[1],
            batch_images=16,
            crop_size=500,
            num_devices=4,
            origin_size=origin_size,
            scale_rate_range=(0.7, 1.3),
            loss="ohem",
        )

    first = stage(label, weights, data, epochs[0], rate=("fixed", 0.0016))
    name = f"{label}_x1-{epochs[0]}"
    second = stage(name, label, last_data or data, epochs[1], rate=("linear", 0.0008))
    return first, second


# Of the recipes that are ours: as many updates in each stage as on Cityscapes, 140 and 64 times
# 186, to the nearest whole epoch.
_OURS = (
    "the published settings are unknown; ours: the Cityscapes recipe with as many updates in each "
    "stage, to the nearest epoch"
)

RECIPES: dict[str, Recipe] = {
    "ilsvrc-a": Recipe(
        name="ilsvrc-a",
        rows=("ilsvrc-a",),
        origin="release",
        # Deviation: the release's own graphs cannot pool without padding as Model A's training
        # did, so its command pads; a network trained so would not fit its test ("caffe").
        source="ademxapp README; pooling as the released Model A was trained with (--pool full)",
        stages=(
            Stage(
                label="ilsvrc-cls_rna-a_cls1000",
                weights=None,
                dataset="ilsvrc-cls",
                split="train",
                epochs=90,
                lr_type="linear",
                base_lr=0.1,
                batch_images=256,
                crop_size=224,
                num_devices=4,
                pool="full",
            ),
        ),
        hardware="four GPUs of 11 GB",
        time="over 40 days on four Maxwell Titans",
    ),
    "ilsvrc-a1": Recipe(
        name="ilsvrc-a1",
        rows=("ilsvrc-a1",),
        origin="release",
        source="ademxapp README: 9 epochs (45k updates) from Model A, rate 0.01",
        stages=(
            Stage(
                label="ilsvrc-cls_rna-a1_cls1000",
                weights="ilsvrc-cls_rna-a_cls1000",
                dataset="ilsvrc-cls",
                split="train",
                epochs=9,
                lr_type="linear",
                base_lr=0.01,
                batch_images=256,
                crop_size=224,
                num_devices=None,
            ),
        ),
    ),
    "places-a2": Recipe(
        name="places-a2",
        rows=(),
        origin="ours",
        source="ademxapp README: Model A tuned for 45k updates on Places365; ours: rate, schedule "
        "and batch as for A1, and 6 whole epochs, which are 42,270 updates",
        stages=(
            Stage(
                label="places_rna-a2_cls365",
                weights="ilsvrc-cls_rna-a_cls1000",
                dataset="places",
                split="train",
                epochs=6,
                lr_type="linear",
                base_lr=0.01,
                batch_images=256,
                crop_size=224,
                num_devices=None,
            ),
        ),
    ),
    "cityscapes-a1": Recipe(
        name="cityscapes-a1",
        rows=("cityscapes-a1",),
        origin="release",
        source="ademxapp README",
        stages=_cityscapes_way(
            "cityscapes_rna-a1_cls19_s8",
            "ilsvrc-cls_rna-a1_cls1000",
            data=("cityscapes", "train"),
            epochs=(140, 64),
            origin_size=2048,
        ),
        hardware="four GPUs",
    ),
    "voc-a1": Recipe(
        name="voc-a1",
        rows=("voc-a1",),
        origin="ours",
        source=_OURS,
        stages=_cityscapes_way(
            "voc_rna-a1_cls21_s8",
            "ilsvrc-cls_rna-a1_cls1000",
            data=("voc-sbd", "train+"),
            epochs=(39, 18),
        ),
    ),
    "voc-a1-coco": Recipe(
        name="voc-a1-coco",
        rows=("voc-a1-coco",),
        origin="ours",
        source="the release names its split train++ (VOC, SBD and COCO) and no more; ours: 8 "
        "epochs on train++, then the last stage of voc-a1, on train+",
        stages=_cityscapes_way(
            "voc_rna-a1_cls21_s8_coco",
            "ilsvrc-cls_rna-a1_cls1000",
            data=("voc-sbd", "train++"),
            epochs=(8, 18),
            last_data=("voc-sbd", "train+"),
        ),
    ),
    "ade20k-a1": Recipe(
        name="ade20k-a1",
        rows=("ade20k-a1",),
        origin="ours",
        source=_OURS,
        stages=_cityscapes_way(
            "ade20k_rna-a1_cls150_s8",
            "ilsvrc-cls_rna-a1_cls1000",
            data=("ade20k", "train"),
            epochs=(21, 9),
        ),
    ),
    "ade20k-a2": Recipe(
        name="ade20k-a2",
        rows=("ade20k-a2",),
        origin="ours",
        source=_OURS,
        stages=_cityscapes_way(
            "ade20k_rna-a2_cls150_s8",
            "places_rna-a2_cls365",
            data=("ade20k", "train"),
            epochs=(21, 9),
        ),
    ),
    "context-a2": Recipe(
        name="context-a2",
        rows=("context-a2",),
        origin="ours",
        source=_OURS,
        stages=_cityscapes_way(
            "pascal-context_rna-a2_cls60_s8",
            "places_rna-a2_cls365",
            data=("pascal-context", "train"),
            epochs=(83, 38),
        ),
    ),
}


def get_recipe(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name in RECIPES:
        return RECIPES[name]
    known = any(row.name == name for row in RESULTS)
    what = f"no recipe for {name!r}" if known else f"unknown recipe {name!r}"
    raise ValueError(f"{what}: expected one of {', '.join(RECIPES)}")


def find_recipe(row: Result) -> Recipe | None:
    """Return the recipe whose weights are for a row, if there is one."""
    return next((recipe for recipe in RECIPES.values() if row.name in recipe.rows), None)
