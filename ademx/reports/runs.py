"""What a report is made of: runs, and rows of the published table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ademx.published import Result
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
        published: the row of the published table.
        verdict: "reproduced", "differs", "not run", "unverified" or "".
        ours: measure -> our score, percent, as far as it was run.
        detail: such as what is missing; what stands between backticks is shown as code.
        findings: what may have made ours another score, the most likely first; the same.
    """

    published: Result
    verdict: str
    ours: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""
    findings: Sequence[str] = ()
