"""Makes the golden files' own `fill` importable, and keeps one MXNet for the whole run."""

import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of numbers that the release computed."""
    return GOLDEN
