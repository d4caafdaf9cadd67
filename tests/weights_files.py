"""What files of weights hold, whatever their kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ademx.convert.files import open_weights


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays in a file of any kind by the names in it, and its metadata."""
    with open_weights(path) as file:
        return {entry.name: file[name] for name, entry in file.entries.items()}, file.metadata
