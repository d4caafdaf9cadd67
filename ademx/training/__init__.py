"""Training: options, the run and its checkpoints, progress, curves, several workers."""

from __future__ import annotations

import importlib
from typing import Any

# The modules that other rooms may import.
__all__ = ["checkpoints", "curves", "launch", "options", "progress", "resume", "run", "saving"]

_NAMES = {
    "ClassificationTrainOptions": "options",
    "SegmentationTrainOptions": "options",
    "start_trainer": "start",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _NAMES:
        return getattr(importlib.import_module(f"ademx.training.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'ademx.training' has no attribute {name!r}")
