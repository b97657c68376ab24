"""What tests of the benchmarks share."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Gives a script of the benchmarks as a module that finds what lies beside it."""
    monkeypatch.syspath_prepend(FOLDER)
    # Folders of tests may have the names of what lies there.
    names = [path.stem for path in FOLDER.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
