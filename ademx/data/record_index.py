"""The index of a RecordIO file that came without one."""

from __future__ import annotations

from pathlib import Path

from ademx.errors import FileInTheWay, InputError
from ademx.files import replacing
from ademx.iteration import progress_bar
from iters.sources import walk_records


def write_index(path: Path, output: Path | None = None, *, overwrite: bool = False) -> int:
    """Write where each record of a RecordIO file begins, and return their number.

    The records are numbered in the order of the file, as MXNet's rec2idx.py does.

    Args:
        path: the file, `.rec`.
        output: the index; None is the same name with `.idx`, which readers look for.
        overwrite: replace one that is there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else than images of one class each.
        FileExistsError: an index is there.
    """
    output = path.with_suffix(".idx") if output is None else output
    if output == path:
        raise InputError(f"{path}: expected a name that does not end in .idx, such as train.rec")
    if output.exists() and not overwrite:
        raise FileInTheWay(f"{output} exists: add --overwrite, or name another by --output")
    number = 0
    size = path.stat().st_size if path.exists() else 0
    with (
        replacing(output) as file,
        progress_bar(total=size, desc=path.name, unit="B", unit_scale=True) as bar,
    ):
        for record, end in walk_records(path):
            file.write(f"{record.key}\t{record.offset}\n".encode())
            bar.update(end - record.offset)
            number += 1
    return number
