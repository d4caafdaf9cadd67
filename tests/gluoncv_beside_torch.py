"""The `gluoncv` package, another implementation to compare with."""

from __future__ import annotations

import sys
from types import ModuleType

from ademx.compat import import_mxnet, import_optional


def import_gluoncv() -> ModuleType:
    """Return the `gluoncv` module, which otherwise refuses to load beside torch 2.

    gluoncv looks for torch and rejects versions that it does not know; while it is imported,
    torch is hidden. Modules that were imported before stay imported.

    Raises:
        MissingDependency: gluoncv or MXNet is not installed.
    """
    import_mxnet()
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_torch(name)}
    sys.modules["torch"] = None  # makes `import torch` fail
    try:
        return import_optional(
            "gluoncv",
            "this needs gluoncv, which is not installed: run `pip install gluoncv==0.10.5.post0`",
        )
    finally:
        del sys.modules["torch"]
        sys.modules.update(hidden)


def _is_torch(name: str) -> bool:
    return name == "torch" or name.startswith("torch.")
