"""Other published rows than the papers', for a test."""

from collections.abc import Iterable

import pytest

from ademx import published
from ademx.cli import reproduce
from ademx.convert import genuine
from ademx.reproduction import options, outcomes, recipes

# All that hold the rows by name: what was imported later would hold a test's.
_MODULES = (published, reproduce, genuine, options, outcomes, recipes)


def publish_rows(monkeypatch: pytest.MonkeyPatch, rows: Iterable[published.Result]) -> None:
    """Have the product take these rows for the published ones until the test ends."""
    results = tuple(rows)
    for module in _MODULES:
        monkeypatch.setattr(module, "RESULTS", results)
