"""The versions of everything that decides the numbers."""

from __future__ import annotations

import platform
from importlib import metadata

import ademx


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers."""
    found = {"ademx": ademx.__version__, "python": platform.python_version()}
    for name in (
        "mxnet",
        "mxnet-cu112",
        "torch",
        "numpy",
        "pillow",
        "pydensecrf2",
        "cityscapesscripts",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
