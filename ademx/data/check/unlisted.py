"""What lies in a dataset's folders beside the files that its splits list."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from iters.images import SUFFIXES
from iters.samples import Sample


class Folders:
    """The folders of a dataset's images and labels; each is looked into when it is asked for."""

    def __init__(self, splits: Mapping[str, Sequence[Sample]]) -> None:
        """Take the samples of all splits that are there, those that are not checked among them."""
        self._splits = splits
        self._names: dict[Path, list[str]] = {}
        self._bare_names: dict[Path, dict[str, str]] = {}

    def unlisted(self, folder: Path, ending: str = "") -> list[str]:
        """Return the names of image files in a folder that no split lists, sorted.

        Args:
            folder: the folder; one that is not there has none.
            ending: how the names end, beside a suffix of an image.
        """
        if folder not in self._names:
            names = os.listdir(folder) if folder.is_dir() else []
            self._names[folder] = sorted(
                name
                for name in names
                if name.lower().endswith(SUFFIXES) and folder / name not in self._listed
            )
        return [name for name in self._names[folder] if name.endswith(ending)]

    def other_spelling(self, path: Path) -> str | None:
        """Return the unlisted file beside `path` that is called so but for case and suffixes."""
        if path.parent not in self._bare_names:
            names = self.unlisted(path.parent)
            self._bare_names[path.parent] = {_bare_name(name): name for name in names}
        return self._bare_names[path.parent].get(_bare_name(path.name))

    @cached_property
    def _listed(self) -> set[Path]:
        return {
            path
            for samples in self._splits.values()
            for sample in samples
            for path in (sample.image, sample.label)
            if isinstance(path, Path)
        }


def label_ending(sample: Sample) -> str:
    """Return what a label's name has after what its image's name begins with too."""
    if not isinstance(sample.label, Path):
        return ""
    shared = os.path.commonprefix([sample.image.name, sample.label.name])  # noqa: RUF071 - letter by letter
    return sample.label.name[len(shared) :]


def _bare_name(name: str) -> str:
    """Return a name in lower case, without any suffix of an image."""
    name = name.lower()
    while name.endswith(SUFFIXES):
        name = name[: name.rindex(".")]
    return name
