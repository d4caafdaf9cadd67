"""The errors that a user can cause, which a command tells in one line, without a traceback.

All else that is raised is a fault of ours, or the system's word on a file, which is an OSError
with an errno. `symbols` and `iters` find the types in :mod:`ademx.compat`.
"""

from __future__ import annotations


class UserError(Exception):
    """What was asked for cannot be done, and the message says what would do."""


class InputError(UserError, ValueError):
    """An argument, an option or a file's contents are not what is needed."""


class MissingFile(UserError, FileNotFoundError):
    """A file or folder is not where it is looked for."""


class FileInTheWay(UserError, FileExistsError):
    """A file or folder that must not be overwritten is where something is to be written."""


class SystemFault(UserError, OSError):
    """The machine refuses something that the request needs."""


class MissingDependency(UserError, ImportError):
    """A package that the request needs is absent, or present in a version that cannot work."""
