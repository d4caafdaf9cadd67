"""Makes the golden files' own `fill` importable, and what several files of tests need."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

import ademx  # noqa: F401  (before MXNet, in whatever file a run begins)

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default="mxnet", help="What the golden tests compute by.")


def pytest_configure(config: pytest.Config) -> None:
    """Hear signals as a terminal's programs do, and make the folder of `filled`.

    Behind `&` and `nohup` some signals are ignored, and what a test starts would ignore them too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Else PyTorch's compiler starts a process for each core, for the little that is compiled here.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if not hasattr(config, "workerinput"):  # else the process that started this one has done it
        folder = tempfile.mkdtemp(prefix="ademx-tests-")
        os.environ["ADEMX_TEST_ARRAYS"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests, so that no process is left alone with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("full_width") is None)


@pytest.fixture(scope="session")
def backend(request) -> str:
    """Return what `ademx evaluate` is to compute by."""
    return request.config.getoption("--backend")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of numbers that the release computed."""
    return GOLDEN


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Return narrow weights of VOC's A1; do not write into their folder."""
    pytest.importorskip("mxnet")
    from narrow import VOC, write_weights

    return write_weights(tmp_path_factory.mktemp("weights"), VOC)


@pytest.fixture(scope="session")
def gluon_data():
    """Return gluoncv's datasets, whose own tables are a referee."""
    from gluoncv_beside_torch import import_gluoncv

    from ademx.errors import MissingDependency

    try:
        return import_gluoncv().data
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.fixture
def nothing_left():
    """Check that a test leaves no process, no named shared memory, no file."""
    from fake_workers import wait_until, worker_processes

    shared, files = set(os.listdir("/dev/shm")), len(os.listdir("/proc/self/fd"))
    yield
    if len(os.listdir("/proc/self/fd")) > files:
        gc.collect()  # what hangs on a traceback
    assert worker_processes() == []
    # Other processes of tests have theirs for a while.
    wait_until(lambda: set(os.listdir("/dev/shm")) <= shared)
    assert len(os.listdir("/proc/self/fd")) <= files
