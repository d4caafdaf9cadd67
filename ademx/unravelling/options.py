"""How to unravel: options by their command-line names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ademx import options as declare
from ademx.convert.files import Reading
from ademx.devices import Devices
from ademx.engines.backends import CHOICES
from ademx.errors import InputError
from ademx.options import option


@dataclass(frozen=True)
class UnravelOptions:
    """How to unravel; without devices it is the first GPU that the backend finds, else the CPU.

    Attributes:
        label: of the network.
    """

    label: str
    weights: Path = option(help=".params, .pth or .safetensors file.", path="file")
    data_root: Path | None = option(
        None, "Folder of a dataset, whose labels are used where it has them.", path="folder"
    )
    pictures: tuple[Path, ...] = option(
        (), "In place of a dataset: pictures of your own, a folder or a file; may be repeated."
    )
    dataset: str | None = declare.dataset()
    split: str = option("val", '"test" has no labels.')
    list_file: Path | None = declare.list_file()
    images: int = option(4, "How many, drawn by --seed; the time grows with them.", least=1)
    paths: int = option(
        8,
        "Single paths to walk, drawn by --seed, of each length, for the mean norm of one.  0 for "
        "none: half of the time or less.",
        least=0,
    )
    seed: int = option(0, "Draws other images and paths.", least=0)
    crop_size: int | None = option(
        None,
        "Side of the square in the middle of an image that is looked at, pixels.  [default: 224, "
        "or what the network was designed to be trained at]",
        least=1,
    )
    origin_size: int | None = option(
        None,
        "Length of an image's shorter side (classification; default: the crop's) or longer side "
        "(segmentation; default: 2048 for Cityscapes, else 500), pixels.",
        least=1,
    )
    lesion: bool = option(
        False, "Also leave out each unit's branch in turn, and exchange neighbours."
    )
    choose_interp_method: bool = declare.choose_interp_method()
    exif: str = declare.exif()
    pool: str = declare.pool()
    backend: str = option(
        "auto",
        "What computes; auto: MXNet if it is installed and has code for the device, else PyTorch.",
        choices=CHOICES,
    )
    devices: Devices | None = None
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        declare.check(self)
        if bool(self.pictures) == (self.data_root is not None):
            found = "both" if self.pictures else "none"
            raise InputError(
                f"expected --data-root of a dataset or --pictures of your own, found {found}: "
                "give one of them"
            )
        if self.pictures and (self.list_file or self.dataset):
            raise InputError("--list-file and --dataset are for --data-root: leave them out")
        if self.devices and self.devices.count > 1:
            raise InputError(
                f"{', '.join(self.devices.names())}: one device unravels a network: give one"
            )
