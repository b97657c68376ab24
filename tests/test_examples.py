"""The example scripts, run as a user runs them, on little work."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments, **options):
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


def test_quickstart(tmp_path):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    done = run("quickstart.py", "--epochs", 2, "--out", tmp_path, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    errors = {" ".join(line[:-5]): float(line[-5]) for line in lines if "±" in line}
    assert set(errors) == {
        "mean of the training set",
        "without the encoder",
        "with the encoder",
    }
    # Two epochs learn something already.
    assert errors["with the encoder"] < errors["mean of the training set"]
    picture = (tmp_path / "quickstart.svg").read_text()
    assert picture.count("<ellipse") > 10
    assert "training" in done.stderr and "100%" in done.stderr


def test_quickstart_draws_weights_on_the_atoms_that_they_are_of(tmp_path, monkeypatch):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    monkeypatch.syspath_prepend(EXAMPLES)
    quickstart = importlib.import_module("quickstart")

    def weights_of_nitrogen(x, layout, return_attention_weights):
        return None, x.unsqueeze(1)

    class Model(torch.nn.Module):
        encoder = staticmethod(weights_of_nitrogen)
        atoms = staticmethod(lambda batch: (batch.z == 7).float())

    # The canonical SMILES starts with a carbon, and ends with the nitrogen.
    data = quickstart.from_smiles("N1(C)CCC1")
    data.name = "a molecule"
    assert data.smiles != data.given_smiles
    quickstart.draw(Model(), data, tmp_path / "picture.svg", "cpu")
    picture = (tmp_path / "picture.svg").read_text()
    atoms = re.findall(r"<ellipse .*class='(atom-\d+)'.*fill:(#\w+);", picture)
    coloured = [atom for atom, colour in atoms if colour != "#FFFFFF"]
    # Letters are drawn for what is no carbon.
    letters = set(re.findall(r"<path class='(atom-\d+)'", picture))
    assert len(atoms) == 5 and coloured == ["atom-0"] and letters == {"atom-0"}


def read(path):
    safetensors = pytest.importorskip("safetensors", reason="safetensors is missing")
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, {k: json.loads(v) for k, v in file.metadata().items()}


def test_encode_structure_without_a_file(tmp_path):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    out = tmp_path / "new" / "tokens.safetensors"
    done = run("encode_structure.py", "--out", out, "--device", "cpu", check=True)
    tensors, names = read(out)
    peptide = [name.split(":")[-1] for name in names["token_names"][:6]]
    assert peptide == ["GLY1", "ALA2", "VAL3", "LEU4", "LYS5", "PHE6"]
    assert tensors["tokens"].shape == (len(names["token_names"]), 128)
    assert tensors["token_batch"].unique().tolist() == [0, 1]
    assert "| paracetamol" in done.stdout


def test_encode_structure_files(tmp_path, structures):
    files = [structures / name for name in ("1l2y.bcif", "3o5r.pdb", "1aki.cif")]
    outs = [tmp_path / "one.safetensors", tmp_path / "all.safetensors"]
    for out, size in zip(outs, (1, 3), strict=True):
        run("encode_structure.py", *files, "--out", out, "--batch-size", size,
            "--device", "cpu", check=True)  # fmt: skip
    (one, names), (all_, _) = map(read, outs)
    assert names["structures"] == ["1l2y.bcif", "3o5r.pdb", "1aki.cif"]
    assert names["token_names"][0] == "A:ASN1"
    assert len(one["tokens"]) == 20 + 416 + 207
    assert one["token_batch"].equal(all_["token_batch"])
    assert one["tokens"].allclose(all_["tokens"], atol=1e-5)


def test_encode_structure_with_other_tokens(tmp_path, structures):
    out = tmp_path / "tokens.safetensors"
    for tokenizer, count in [("atom", 304), ("af3", 20)]:
        run("encode_structure.py", structures / "1l2y.bcif", "--out", out,
            "--tokenizer", tokenizer, "--device", "cpu", check=True)  # fmt: skip
        assert len(read(out)[0]["tokens"]) == count


def test_encode_structure_says_what_is_wrong(tmp_path):
    pytest.importorskip("biotite", reason="biotite is not installed")
    done = run("encode_structure.py", tmp_path / "nothing.cif")
    assert done.returncode == 1
    assert done.stderr.endswith("nothing.cif: does not exist. Check the path.\n")


def test_benchmark_reading():
    pytest.importorskip("biotite", reason="biotite is not installed")
    done = run("benchmarks/reading.py", "--atoms", 200, "--rounds", 1, check=True)
    rows = [line for line in done.stdout.splitlines() if "| protein." in line]
    head = done.stdout.splitlines()[0]
    assert len(rows) == 3 and all(row.count("|") == head.count("|") for row in rows)
    assert all(" ms |" in row and " × |" in row for row in rows)


def test_boltz_encoder(tmp_path):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    from pyg_atomenc.checkpoints import to_boltz_state_dict
    from pyg_atomenc.nn import BoltzAtomEncoder, BoltzConfig

    out, path = tmp_path / "tokens.safetensors", tmp_path / "boltz.ckpt"
    arguments = ("--out", out, "--device", "cpu")
    done = run("boltz_encoder.py", *arguments, check=True)
    assert "RANDOM weights" in done.stdout
    random = read_tensors(out)
    config = BoltzConfig.boltz1("trunk", token_channels=24)
    torch.save({"state_dict": to_boltz_state_dict(BoltzAtomEncoder(config))}, path)
    done = run("boltz_encoder.py", *arguments, "--checkpoint", path, check=True)
    assert "weights of Boltz-1" in done.stdout and "RANDOM" not in done.stdout
    tokens = read_tensors(out)
    assert {name: len(t) for name, t in tokens.items()} == {
        name: len(t) for name, t in random.items()
    }
    assert tokens["aspirin"].shape[1] == 24
    done = run("boltz_encoder.py", "--checkpoint", tmp_path / "none.ckpt")
    assert done.returncode == 1 and "there is no such file" in done.stderr


def read_tensors(path):
    return pytest.importorskip("safetensors.torch").load_file(path)


def test_benchmark_dataset():
    pytest.importorskip("biotite", reason="biotite is not installed")
    done = run("benchmarks/dataset.py", "--count", 12, "--workers", 1, check=True)
    assert "12 files" in done.stdout and "1 process: " in done.stdout
    assert "filled to" in done.stdout and done.stdout.rstrip().endswith("has 12")


@pytest.mark.parametrize("mode", ["infer", "train", "attend infer", "attend train"])
def test_a_measurement_of_the_benchmark(mode):
    contender = "pyg_atomenc dense"
    done = run(
        "benchmarks/attention.py", "--one", "residues-300", contender, mode, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] > 0 and found["difference"] < 1e-5
    assert ("share" if "attend" in mode else "floor") in found


def test_the_benchmark_counts_the_bytes_of_attention_alone(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    contenders = pytest.importorskip("contenders")
    problem = contenders.Projected("size-10-1000", "cpu", torch.bfloat16)
    # q, k, v of 1,000 atoms, 128 channels of two bytes; a hundred tokens.
    rows, tokens = 1000 * 128 * 2, 100 * 128 * 2
    assert problem.bytes(False) == (3 * rows + tokens,) * 2
    read = (3 * rows + tokens) + (3 * rows + tokens) + 3 * rows
    assert problem.bytes(True) == (read, 6 * rows + 2 * tokens)
