import os
import sys
from pathlib import Path

# Names in this variable are hidden from every import, as if not installed.
for _name in os.environ.get("PYG_ATOMENC_TEST_WITHOUT", "").split():
    sys.modules[_name] = None

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# Without a GPU, Triton's kernels are tested by its interpreter, which has to be asked
# for before anything imports Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(12345)


@pytest.fixture(params=["torch_scatter", "pyg"])
def scatter(request, monkeypatch):
    """Runs a test with torch_scatter's operators, and with PyG's own."""
    from pyg_atomenc.attention import edges

    if request.param == "torch_scatter" and not edges.HAS_TORCH_SCATTER:
        pytest.skip("torch_scatter is not installed; PyG's own scatters are tested")
    monkeypatch.setattr(edges, "HAS_TORCH_SCATTER", request.param == "torch_scatter")
    return request.param


@pytest.fixture(scope="session")
def structures():
    """The folder of real PDB entries beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "structures"
    if not folder.is_dir():
        pytest.skip(f"no real PDB entries at {folder}")
    return folder
