"""The versions of everything that decides the numbers."""

from __future__ import annotations

import platform

import ademx
from ademx.cuda_libraries import installed_version


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers."""
    packages = ("mxnet", "mxnet-cu112", "torch", "numpy", "pillow", "pydensecrf2")
    found = {name: installed_version(name) for name in (*packages, "cityscapesscripts")}
    found = {"ademx": ademx.__version__, "python": platform.python_version(), **found}
    return {name: version for name, version in found.items() if version}
