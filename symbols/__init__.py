"""The networks as MXNet symbols; `symbols.levels` holds their tables and loads no MXNet."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {"build": "symbols.networks", "ohem_softmax": "symbols.losses"}

__all__ = ["build", "ohem_softmax"]


def __getattr__(name: str) -> Any:
    """Load a builder, and MXNet with it, on first use."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'symbols' has no attribute {name!r}")
