"""The networks: tables, their list of layers (neither loads MXNet), and that as an MXNet graph."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["ohem_softmax"]


def __getattr__(name: str) -> Any:
    """Load the loss, and MXNet with it, on first use."""
    if name in __all__:
        return getattr(importlib.import_module("symbols.losses"), name)
    raise AttributeError(f"module 'symbols' has no attribute {name!r}")
