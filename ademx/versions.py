"""The versions of what is installed, and of everything that decides the numbers."""

from __future__ import annotations

import platform
from importlib import metadata

import ademx


def installed_version(package: str) -> str:
    """Return the version of an installed package by its name on PyPI; "" if it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers."""
    packages = ("mxnet", "mxnet-cu112", "torch", "numpy", "pillow", "pydensecrf2")
    found = {name: installed_version(name) for name in (*packages, "cityscapesscripts")}
    found = {"ademx": ademx.__version__, "python": platform.python_version(), **found}
    return {name: version for name, version in found.items() if version}
