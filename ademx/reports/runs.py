"""What a report is made of: runs, and rows of the published table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ademx.testing.record import RunRecord
from iters.datasets import Dataset
from iters.samples import Sample


@dataclass(frozen=True)
class RunToShow:
    """A test run to show.

    Attributes:
        title: heading of its section; a row of the table with the same name links there.
        folder: what `ademx evaluate` wrote: `scores.json`, `images.npz`, `labels/`, ….
        record: of its `scores.json`.
        dataset: what was tested on.
        samples: the split's.
    """

    title: str
    folder: Path
    record: RunRecord
    dataset: Dataset
    samples: Sequence[Sample]

    @property
    def has_labels(self) -> bool:
        """Whether the truth of the split is known."""
        return bool(self.samples) and self.samples[0].label is not None


@dataclass(frozen=True)
class TableRow:
    """A published result beside ours.

    Attributes:
        name: of the row, as `ademx reproduce` takes it.
        task: what is tested, such as "VOC 2012 val".
        setting: how it was tested.
        source: where the published values stand.
        published: value of each measure, percent; the keys are those of
            :class:`ademx.published.Result`.
        ours: the same, as far as it was run; None where it was not.
        verdict: "reproduced", "differs", "not run", "unverified" or "".
        detail: such as what is missing; what stands between backticks is shown as code.
        decimals: digits that the source prints after the point.
    """

    name: str
    task: str
    setting: str
    source: str
    published: Mapping[str, float]
    ours: Mapping[str, float] | None
    verdict: str
    detail: str
    decimals: int = 2
