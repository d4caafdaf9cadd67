"""Array files."""

import io
import subprocess
import sys

import numpy as np

from ademx.files import write_npz


def test_numpy_reads_what_is_written_and_equal_arrays_are_equal_bytes():
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "names": np.array(["é", "x"])}
    for compressed in (False, True):
        files = [io.BytesIO(), io.BytesIO()]
        for file in files:
            write_npz(file, arrays, compressed=compressed)
        assert files[0].getvalue() == files[1].getvalue()
        found = np.load(io.BytesIO(files[0].getvalue()))
        assert found.files == ["a", "names"]
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_a_full_disk_is_one_error(tmp_path):
    """A limit on the size of files stands for it; `np.savez` adds a traceback of its archive."""
    script = """
import resource, signal, sys
import numpy as np
from ademx.files import write_npz
from ademx.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with replacing(sys.argv[1]) as file:
        write_npz(file, {"a": np.random.default_rng(0).random(1 << 16)}, compressed=True)
except OSError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "File too large; nothing was replaced" in result.stdout and "a.npz" in result.stdout
    assert result.stderr == ""
    assert list(tmp_path.iterdir()) == []
