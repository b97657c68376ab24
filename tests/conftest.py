import importlib
import os
import sys
from pathlib import Path

# One thread a process: tests run in as many as there are cores. Before torch is
# imported, and for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# Names in this variable are hidden from every import, as if not installed.
HIDDEN = os.environ.get("PYG_ATOMENC_TEST_WITHOUT", "").split()
for _name in HIDDEN:
    sys.modules[_name] = None

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)

# Without a GPU, Triton's kernels are tested by its interpreter, which has to be asked
# for before anything imports Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(12345)


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    # Compiled code is kept by function, and torch takes no more than some versions.
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(scope="session")
def structures():
    """The folder of real PDB entries beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "structures"
    if not folder.is_dir():
        pytest.skip(f"no real PDB entries at {folder}")
    return folder


@pytest.fixture
def script(monkeypatch):
    """Gives an example's script as a module."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    return importlib.import_module


@pytest.fixture
def run(script, monkeypatch, capsys):
    """Runs a script in this process; gives what it prints."""

    def main(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        script(name).main()
        return capsys.readouterr().out

    return main
