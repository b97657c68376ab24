"""The benchmark of GPUs, on a CPU and on little work."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    # Folders of tests may have the names of what lies beside the script.
    beside = [path.stem for path in FOLDER.glob("*.py")]
    kept = {name: sys.modules.pop(name) for name in beside if name in sys.modules}
    spec = importlib.util.spec_from_file_location("benchmark_gpu", FOLDER / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ON_A_CPU", ("drug-2", "residues-40"))
    monkeypatch.setattr(sys.modules["device_clock"], "CALLS", 4)
    # Which the script sets.
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    yield module
    for name in beside:
        sys.modules.pop(name, None)
    sys.modules.update(kept)


def test_tells_every_contender_and_goes_on_after_an_error(tool, tmp_path, monkeypatch):
    def break_down(problem):
        raise RuntimeError("it | broke")

    kept = {name: tool.PEERS[name] for name in ("edges", "SetTransformerAggregation")}
    monkeypatch.setattr(tool, "PEERS", {"broken": break_down, **kept})
    monkeypatch.delitem(tool.OURS, "triton")
    tool.main(["--device", "cpu", "--profile", "--output", str(tmp_path / "new")])
    found = json.loads((tmp_path / "new" / "gpu.json").read_text())["rows"]
    names = {(row["size"], row["name"], row["grad"]) for row in found}
    for name in (*tool.OURS, *tool.PEERS):
        for size in ("drug-2", "residues-40"):
            assert {(size, name, False), (size, name, True)} <= names
    for row in found:
        if row["name"] in ("floor", "dense", "edges", "to_dense_batch + SDPA"):
            assert row["ms"] > 0 and row["host"] > 0
            assert row.get("gap", 0) < (3e-2 if row["dtype"] == "bfloat16" else 1e-4)
        if row["name"] == "broken":
            assert row["error"] == "RuntimeError: it | broke"
    table = (tmp_path / "new" / "gpu.md").read_text().splitlines()
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    assert "dense, drug-2" in (tmp_path / "new" / "profile.txt").read_text()


def test_leaves_out_what_the_time_does_not_allow(tool, tmp_path):
    tool.main(["--device", "cpu", "--budget", "0", "--output", str(tmp_path)])
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows and all("time was over" in row["error"] for row in rows)


def test_small_chunks_are_for_their_row_alone(tool):
    before = tool.plan.ACCELERATOR
    with pytest.raises(KeyError), tool.chunks("dense, small chunks"):
        assert tool.plan.ACCELERATOR.atoms < before.atoms
        raise KeyError
    assert tool.plan.ACCELERATOR == before
    with tool.chunks("dense"):
        assert tool.plan.ACCELERATOR == before


def test_drugs_are_as_many_as_asked(tool):
    problem = tool.Problem("drug-7", "cpu", torch.float32)
    assert problem.num_tokens == 7 and 20 <= min(problem.sizes) <= 36
