"""`examples/explain_molecule.py`, and the ways to explain that it uses."""

import csv
import importlib
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_geometric.nn import SimpleConv

from pyg_atomenc.nn import MoleculeEncoder

pytest.importorskip("rdkit", reason="RDKit is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from pyg_atomenc.io import from_smiles  # noqa: E402
from pyg_atomenc.tokenizers import RingsAndChains  # noqa: E402
from pyg_atomenc.transforms import AtomFeatures  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "examples"
PARACETAMOL = "CC(=O)Nc1ccc(O)cc1"


@pytest.fixture
def explanations(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "explanations", raising=False)
    return importlib.import_module("explanations")


@pytest.fixture
def run(explanations, monkeypatch, capsys):
    """Runs the script with arguments, in this process; gives what it prints."""
    monkeypatch.delitem(sys.modules, "explain_molecule", raising=False)
    script = importlib.import_module("explain_molecule")
    quick = partial(explanations.gnn_explainer, runs=1)
    monkeypatch.setattr(explanations, "gnn_explainer", quick)

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
        script.main()
        return capsys.readouterr().out

    return main


@pytest.fixture
def without_captum(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)


def need_captum():
    pytest.importorskip("captum", reason="captum is not installed")


def molecule(smiles=PARACETAMOL):
    return AtomFeatures()(from_smiles(smiles))


def into_encoder(model, data):
    """The atoms' features after the convolutions over bonds."""
    x = model.embed(data)
    for norm, conv in zip(model.norms, model.atom_convs, strict=False):
        x = x + conv(norm(x), data.edge_index, data.edge_attr)
    return x.detach().double().numpy()


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_of_a_token_is_that_of_the_definition(heads, explanations):
    # Fragments of several sizes, one of them of one atom.
    data = molecule("Clc1ccccc1OCC(=O)NC2CC2")
    model = MoleculeEncoder(1, 16, heads).eval()
    x = into_encoder(model, data)
    h = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    encoder, width = model.encoder, 16 // heads
    query, key = (
        (h @ lin.weight.detach().double().numpy().T).reshape(len(h), heads, width)
        for lin in (encoder.lin_query, encoder.lin_key)
    )
    weights = model(data, return_attention_weights=True)[1]
    seen = []
    for token in range(data.num_tokens):
        atoms, alpha = explanations.attention_of_token(model, data, token)
        assert atoms.equal((data.atom_to_token == token).nonzero().flatten())
        wanted = np.zeros((len(atoms), len(atoms), heads))
        for i, a in enumerate(atoms.tolist()):
            for head in range(heads):
                logits = [query[a, head] @ key[b, head] for b in atoms.tolist()]
                share = np.exp(np.array(logits) / np.sqrt(width))
                wanted[i, :, head] = share / share.sum()
        np.testing.assert_allclose(alpha.numpy(), wanted, atol=2e-5)
        torch.testing.assert_close(alpha.mean(0), weights[atoms], atol=1e-5, rtol=0)
        seen.append(len(atoms))
    # Rows and columns are told apart.
    assert 1 in seen and max(seen) > 5
    assert not np.allclose(wanted, wanted.swapaxes(0, 1)) or len(atoms) == 1


class Stub(torch.nn.Module):
    """A model whose reasons are known: one atom's, or what its neighbours send it."""

    def __init__(self, predict):
        super().__init__()
        self.conv = SimpleConv("sum")
        self.atom_convs, self.token_convs, self.metadata = [self.conv], [], {}
        self.predict = predict

    def forward(self, data, x):
        return self.predict(x, self.conv(x, data.edge_index)).reshape(1, 1)


def test_gnn_explainer_finds_the_atom_that_a_prediction_is_made_of(explanations):
    data, x = molecule(), torch.rand(11, 8) + 1
    # Many times the price of keeping an atom.
    stub = Stub(lambda x, messages: 10 * x[3].sum() + 0 * messages.sum())
    explained = explanations.Explained(stub, data)
    atoms, bonds, needed = explanations.gnn_explainer(explained, x, runs=2)
    others = torch.cat([atoms[:3], atoms[4:]])
    assert atoms[3] > 0.9 and others.max() < 0.5
    assert bonds.shape == (2, 11) and needed.shape == (11,)


def test_gnn_explainer_finds_the_bonds_that_a_prediction_is_made_of(explanations):
    data, x = molecule(), torch.rand(11, 8) + 1
    stub = Stub(lambda x, messages: 10 * messages[1].sum())
    explained = explanations.Explained(stub, data)
    _, bonds, needed = explanations.gnn_explainer(explained, x, runs=2)
    of_atom = (bonds == 1).any(0)
    # Those of the carbonyl's carbon, in one of both directions.
    assert of_atom.sum() == 3 and bonds[:, of_atom].tolist() == [[0, 1, 1], [1, 2, 3]]
    assert needed[of_atom].min() > needed[~of_atom].max()
    assert needed[of_atom].min() > 0.4


@pytest.mark.parametrize(
    "smiles, convs", [(PARACETAMOL, 3), ("C", 3), ("[Na+].[Cl-]", 3), ("CCO", 0)]
)
def test_explaining_leaves_the_model_as_it_was(smiles, convs, explanations):
    data, model = molecule(smiles), MoleculeEncoder(2, 16, num_atom_convs=convs).eval()
    with torch.no_grad():
        before = model(data)
        explained = explanations.Explained(model, data, 1)
        x = model.embed(data)
    assert explained(x, data.edge_index).item() == before[0, 1]
    atoms, bonds, needed = explanations.gnn_explainer(explained, x, runs=1)
    assert len(atoms) == data.num_nodes and len(needed) == data.num_edges // 2
    assert bonds.size(1) == len(needed)
    with torch.no_grad():
        assert model(data).equal(before)


def test_integrated_gradients_of_a_linear_model_are_its_terms(explanations):
    need_captum()
    data, x = molecule(), torch.randn(11, 8)
    factors = torch.randn(11, 8)
    stub = Stub(lambda x, messages: (factors * x).sum())
    stub.metadata = {"mean": [7.0], "std": [3.0]}
    explained = explanations.Explained(stub, data)
    atoms, change = explanations.integrated_gradients(explained, x)
    terms = 3 * (factors * (x - x.mean(0))).sum(1)
    torch.testing.assert_close(atoms, terms, atol=1e-4, rtol=1e-4)
    assert change == pytest.approx(terms.sum().item(), abs=1e-4)


def test_integrated_gradients_add_up(explanations):
    need_captum()
    data, model = molecule(), MoleculeEncoder(2, 16).eval()
    model.metadata = {"mean": [0.0, 5.0], "std": [1.0, 2.5]}
    x = model.embed(data).detach()
    explained = explanations.Explained(model, data, 1)
    atoms, change = explanations.integrated_gradients(explained, x, 100)
    with torch.no_grad():
        other = model(data, x.mean(0).repeat(11, 1))[0, 1]
        wanted = 2.5 * (model(data)[0, 1] - other).item()
    assert change == pytest.approx(wanted, abs=1e-5)
    assert atoms.sum().item() == pytest.approx(
        wanted, abs=0.01 * atoms.abs().max().item()
    )


@pytest.mark.parametrize(
    "metadata, names, scale",
    [
        ({}, ["prediction"], (0.0, 1.0)),
        ({"targets": ["a", "b"], "mean": [1, 2], "std": [3, 4]}, ["a", "b"], (2, 4)),
        ({"target": "y", "classes": None, "mean": 1.5, "std": 2.5}, ["y"], (1.5, 2.5)),
        ({"classes": ["H", "E"], "mean": 1.5, "std": 2.5}, ["H", "E"], (0.0, 1.0)),
    ],
)
def test_what_models_note_of_their_targets(metadata, names, scale, explanations):
    model = SimpleNamespace(metadata=metadata, token_convs=[])
    assert explanations.targets_of(metadata) == names
    explained = explanations.Explained(model, None, len(names) - 1)
    assert (explained.mean, explained.std) == scale


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def saved(tmp_path):
    """A folder with a model of two targets."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = MoleculeEncoder(2, 16).eval()
    scale = {"mean": [1.0, -2.0], "std": [0.5, 3.0]}
    model.metadata = {"targets": ["a", "b"], "task": "regression", **scale}
    model.metadata["tokenizer"] = "rings"
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_of_a_molecule(tmp_path, run, saved):
    smiles, out = "CC(=O)Nc1ccccc1", tmp_path / "new" / "out"
    printed = run(smiles, "--model", saved, "--target", "b", "--out", out)
    # A chain and a ring, where BRICS would cut the chain.
    data = AtomFeatures()(from_smiles(smiles, RingsAndChains()))
    assert data.atom_to_token.tolist() == [0] * 4 + [1] * 6
    model = MoleculeEncoder.from_pretrained(saved)
    with torch.no_grad():
        prediction, weights = model(data, return_attention_weights=True)
    found = float(re.search(r"ccccc1: b is (\S+)", printed).group(1))
    assert found == pytest.approx(prediction[0, 1].item() * 3 - 2, abs=1e-3)
    atoms, bonds = read(out / "atoms.csv"), read(out / "bonds.csv")
    assert [row["atom"] for row in atoms] == data.atom_name
    names = [data.token_name[token] for token in data.atom_to_token]
    assert [row["token"] for row in atoms] == names
    relative = weights.mean(1) * torch.tensor([4.0] * 4 + [6.0] * 6)
    wanted = pytest.approx(relative.tolist(), abs=1e-3)
    assert [float(row["weight"]) for row in atoms] == wanted
    assert [row["bond"] for row in bonds][:3] == ["C1-C2", "C2-O1", "C2-N1"]
    assert all(0 <= float(row["gnn_explainer"]) <= 1 for row in atoms + bonds)
    assert f"attention of token 1, {data.token_name[1]}" in printed
    picture = (out / "attention.svg").read_text()
    # Text is drawn as paths, with what they say in comments.
    names = {name for name in data.atom_name if f"<!-- {name} -->" in picture}
    assert names == set(data.atom_name[4:])
    assert all(f"<!-- head {head} -->" in picture for head in range(4))
    assert (out / "weights.svg").read_text().count("<ellipse") >= 10


def test_of_a_molecule_with_captum(tmp_path, run, saved):
    need_captum()
    printed = run("CCO", "--model", saved, "--out", tmp_path)
    found = re.search(r"sum to (\S+), of a change of (\S+): complete", printed)
    total = sum(
        float(row["integrated_gradients"]) for row in read(tmp_path / "atoms.csv")
    )
    assert total == pytest.approx(float(found.group(1)), abs=1e-3)
    assert (tmp_path / "attributions.svg").read_text().count("<ellipse") >= 3
    # One step is not enough, and is not called so.
    printed = run("CCO", "--model", saved, "--out", tmp_path, "--steps", 1)
    assert "NOT complete, raise --steps" in printed


def test_of_a_molecule_without_captum(tmp_path, run, without_captum):
    printed = run("CCO", "--epochs", 0, "--out", tmp_path)
    assert "RANDOM weights" in printed
    wanted = "skipped: integrated gradients needs the package 'captum'"
    assert wanted in printed and "pip install captum" in printed
    assert "integrated_gradients" not in read(tmp_path / "atoms.csv")[0]
    assert not (tmp_path / "attributions.svg").exists()


@pytest.fixture
def peptide(tmp_path):
    """A PDB file of five residues."""
    pytest.importorskip("gemmi", reason="gemmi is not installed")
    pytest.importorskip("biotite", reason="biotite is not installed")
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSequence("GAVLK"), addResidueInfo=True)
    AllChem.EmbedMolecule(mol, randomSeed=1)
    path = tmp_path / "peptide.pdb"
    Chem.MolToPDBFile(Chem.RemoveHs(mol), str(path))
    return path


def b_factors(path):
    """Those of every residue, by another library's reader."""
    import gemmi

    residues = list(gemmi.read_structure(str(path))[0]["A"])
    values = [{atom.b_iso for atom in residue} for residue in residues]
    assert all(len(value) == 1 for value in values)
    return [residue.name for residue in residues], [value.pop() for value in values]


def test_of_a_structure_whose_residues_are_predicted(tmp_path, run, peptide):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from pyg_atomenc.io import from_structure

    model = MoleculeEncoder(1, 16, readout="none").eval()
    # As train_structures.py notes them.
    model.metadata = {"target": "rsa", "classes": None, "mean": 0.4, "std": 0.2}
    model.save_pretrained(tmp_path / "model")
    printed = run(
        "--structure", peptide, "--model", tmp_path / "model", "--out", tmp_path
    )
    assert "B-factors: rsa" in printed and "spectrum b" in printed
    with torch.no_grad():
        wanted = model(AtomFeatures()(from_structure(peptide))).flatten() * 0.2 + 0.4
    names, found = b_factors(tmp_path / "residues.cif")
    assert names == ["GLY", "ALA", "VAL", "LEU", "LYS"]
    assert found == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.parametrize("classes", [None, ["H", "E", "C"]])
def test_of_a_structure_as_predict_structures_does(
    classes, tmp_path, run, peptide, monkeypatch
):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from biotite import structure
    from biotite.structure import info
    from biotite.structure.io import load_structure, save_structure

    from pyg_atomenc.io import from_structure

    # A water and a ligand with hydrogens, which it does not predict for.
    atoms, others = load_structure(peptide), [info.residue(n) for n in ("HOH", "BNZ")]
    for number, other in enumerate(others):
        other.chain_id[:], other.res_id[:], other.hetero[:] = "A", 50 + number, True
        other.coord += 3 * (number + 1) + atoms.coord[0] - other.coord[0]
    atoms = structure.concatenate([atoms, *others])
    atoms.bonds = None
    save_structure(peptide, atoms)
    model = MoleculeEncoder(len(classes or [0]), 16, readout="none")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.metadata = dict(target="y", classes=classes, mean=0.4, std=0.2, cutoff=9.0)
    data = AtomFeatures()(from_structure(peptide))
    kinds = data.token_entity_kind.tolist()
    model.metadata["kinds"] = [kinds[0]]
    assert kinds[:5] == kinds[:1] * 5 and kinds[0] not in kinds[5:]
    model.save_pretrained(tmp_path / "model")
    table, options = tmp_path / "new.csv", ["--out", str(tmp_path)]
    words = [str(tmp_path / "model"), str(peptide), "--out", str(table)]
    monkeypatch.setattr(sys, "argv", ["", *words])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module("predict_structures").main()
    rows = read(table)
    what = ["--structure", peptide, "--model", tmp_path / "model", *options]
    found = []
    for target in classes or ["y"]:
        printed = run(*what, "--target", target)
        names, values = b_factors(tmp_path / "residues.cif")
        assert names == [row["residue"] for row in rows] and len(names) == 5
        kind = "the probability of " if classes else ""
        assert f"B-factors: {kind}{target}, {min(values):.3f} to" in printed
        found.append(values)
    if not classes:
        wanted = [float(row["y"]) for row in rows]
        assert found[0] == pytest.approx(wanted, abs=1e-3) and len(set(wanted)) == 5
    else:
        most = np.argmax(found, axis=0)
        assert [classes[i] for i in most] == [row["y"] for row in rows]
        wanted = [float(row["probability"]) for row in rows]
        assert np.max(found, axis=0) == pytest.approx(wanted, abs=1e-3)
        assert np.sum(found, axis=0) == pytest.approx(1, abs=1e-3)
    # Surroundings that the model reads otherwise give other values.
    model.metadata["cutoff"] = 1.0
    model.save_pretrained(tmp_path / "model")
    run(*what)
    assert b_factors(tmp_path / "residues.cif")[1] != pytest.approx(found[0], abs=1e-3)


def test_a_classifier_has_probabilities(tmp_path, run, explanations):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = MoleculeEncoder(2, 16).eval()
    model.metadata = dict(targets=["a", "b"], task="classification", tokenizer="rings",
                          mean=[0.0, 0.0], std=[1.0, 1.0])  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    options = ("--model", tmp_path / "model", "--target", "b", "--out", tmp_path)
    printed = run("CCO", *options)
    data = AtomFeatures()(from_smiles("CCO", RingsAndChains()))
    with torch.no_grad():
        logit = model(data)[0, 1].item()
    found = float(re.search("CCO: the probability of b is (.*)", printed)[1])
    assert found == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-3)
    assert "explains its logit, in logits" in printed


@pytest.mark.parametrize("weak", [True, False])
def test_tells_where_gnn_explainer_finds_nothing(
    weak, tmp_path, run, explanations, monkeypatch
):
    def explainer(explained, x):
        found = torch.full((3,), 0.03), torch.tensor([[0, 1], [1, 2]]), torch.zeros(2)
        found[2][1] = 0.04 if weak else 0.06
        return found

    monkeypatch.setattr(explanations, "gnn_explainer", explainer)
    printed = run("CCO", "--epochs", 0, "--out", tmp_path)
    note = "note: GNNExplainer finds nothing that is needed, all is below 0.05"
    assert (note in printed) == weak


def test_of_a_structure_by_attributions(tmp_path, run, peptide, saved):
    need_captum()
    printed = run("--structure", peptide, "--model", saved, "--out", tmp_path)
    total = float(re.search(r"attributions sum to (\S+),", printed).group(1))
    _, found = b_factors(tmp_path / "residues.cif")
    assert sum(found) == pytest.approx(total, abs=1e-2) and len(set(found)) == 5


def test_of_a_structure_by_attributions_without_captum(
    tmp_path, run, peptide, saved, without_captum, capsys
):
    with pytest.raises(SystemExit) as stopped:
        run("--structure", peptide, "--model", saved, "--out", tmp_path)
    assert stopped.value.code == 1 and "pip install captum" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["C1CC"], "which RDKit refuses"),
        (["C", "--target", "c"], "--target: the model predicts prediction"),
        (["C", "--token", "1"], "--token 1: the molecule has 1, from 0"),
        (["C", "--model", "nothing"], "nothing: holds no model of save_pretrained"),
        (["C", "--epochs", "-1"], "--epochs: '-1' is no positive integer"),
        (["C", "--epochs", "2", "--model", "a"], "--epochs is for a model that is"),
        (["--epochs", "2", "--structure", "a"], "--epochs is for a model that is"),
        (["C", "--steps", "0"], "--steps: '0' is no positive integer"),
    ],
)
def test_says_what_is_wrong(arguments, message, tmp_path, run, capsys):
    with pytest.raises(SystemExit) as stopped:
        own = [] if {"--model", "--epochs"} & set(arguments) else ["--epochs", 0]
        run(*arguments, *own, "--out", tmp_path)
    assert stopped.value.code == 1 and message in capsys.readouterr().err


def test_says_that_a_model_of_tokens_explains_no_molecule(tmp_path, run, capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    MoleculeEncoder(1, 16, readout="none").save_pretrained(tmp_path)
    with pytest.raises(SystemExit):
        run("C", "--model", tmp_path, "--out", tmp_path)
    assert "predicts for tokens: explain a --structure" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_user_runs_it(tmp_path):
    command = [sys.executable, EXAMPLES / "explain_molecule.py", PARACETAMOL]
    options = ["--epochs", "3", "--out", tmp_path]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "trained for 3 epochs on freesolv.csv" in done.stdout
    assert len(read(tmp_path / "atoms.csv")) == 11


def test_says_which_extra_brings_matplotlib(explanations, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "explain_molecule", raising=False)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[plot\]'"):
        importlib.import_module("explain_molecule")
