"""The Wider or Deeper networks (ResNet-38, arXiv:1611.10080) on MXNet 1.9.

`import ademx` makes numpy ready for MXNet and loads nothing else; the names below resolve when
they are asked for, so that whatever needs no MXNet works without it.
"""

from __future__ import annotations

import importlib
from typing import Any

from ademx.compat import prepare_numpy

__version__ = "0.1.0"

prepare_numpy()

_FUNCTIONS = {"build_symbol": "ademx.networks.graph"}
_MODULES = (
    "compat",
    "convert",
    "labels",
    "metrics",
    "optimizer",
    "params",
    "published",
    "schedule",
)

__all__ = ["__version__", *_FUNCTIONS, *_MODULES]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"ademx.{name}")
    raise AttributeError(f"module 'ademx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
