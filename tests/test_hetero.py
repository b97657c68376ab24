"""`examples/hetero.py`: the same as on graphs of atoms that know their tokens."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import global_add_pool

pytest.importorskip("rdkit", reason="RDKit is not installed")

from pyg_atomenc.io import from_smiles  # noqa: E402
from pyg_atomenc.transforms import AtomFeatures, ToHetero, TokenEdges  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "examples"
# Without bonds at all, of one token, and of tokens that bonds join.
SMILES = ["CC(=O)Nc1ccc(O)cc1", "[Na+].[Cl-]", "CCO", "C", "CCOC(=O)c1ccccc1OC1CC1"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "hetero", raising=False)
    return importlib.import_module("hetero")


@pytest.fixture
def graphs():
    graphs = [TokenEdges("bond")(AtomFeatures()(from_smiles(s))) for s in SMILES]
    assert [data.num_tokens for data in graphs] == [3, 2, 1, 1, 6]
    return graphs


@pytest.fixture
def model(script):
    model = script.HeteroModel(2, 16, heads=2, num_layers=2).eval()
    for parameter in model.parameters():
        # Biases start at zero, the scales of LayerNorm at one.
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def without_hetero(model, batch, script):
    """The same layers called on a batch of `AtomTokenData`."""
    atoms = sum(e(batch.x[:, i]) for i, e in enumerate(model.embeddings))
    tokens = torch.zeros(batch.total_num_tokens, atoms.size(1))
    for layer, norms in zip(model.layers, model.norms, strict=True):
        a, t = norms["atom"](atoms), norms["token"](tokens)
        encoder = layer.convs[script.IN].encoder
        bonded = layer.convs[script.BOND](a, batch.edge_index, batch.edge_attr)
        joined = layer.convs[script.EDGE](t, batch.token_edge_index)
        tokens = tokens + encoder(a, batch.token_layout()) + joined
        atoms = atoms + bonded
    pooled = global_add_pool(tokens, batch.token_batch, batch.num_graphs) / 10
    return model.readout(pooled)


def test_equals_the_model_on_graphs_of_atoms(script, graphs, model):
    batch = next(iter(DataLoader(graphs, batch_size=5)))
    hetero = next(iter(DataLoader([ToHetero()(g) for g in graphs], batch_size=5)))
    wanted = without_hetero(model, batch, script)
    assert wanted.shape == (5, 2) and wanted.std(0).min() > 0.01
    torch.testing.assert_close(model(hetero), wanted, atol=1e-5, rtol=1e-5)
    # And one by one.
    alone = [model(next(iter(DataLoader([ToHetero()(g)])))) for g in graphs]
    torch.testing.assert_close(torch.cat(alone), wanted, atol=1e-5, rtol=1e-5)


def test_its_gradients_are_the_same(script, graphs, model):
    batch = next(iter(DataLoader(graphs, batch_size=5)))
    hetero = next(iter(DataLoader([ToHetero()(g) for g in graphs], batch_size=5)))
    parameters = dict(model.named_parameters())
    outs = model(hetero), without_hetero(model, batch, script)
    found, wanted = (
        torch.autograd.grad(out.square().sum(), parameters.values(), allow_unused=True)
        for out in outs
    )
    for name, one, other in zip(parameters, found, wanted, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3, msg=name)


def test_tokens_are_those_that_the_edges_say(script, graphs, model):
    hetero = next(iter(DataLoader([ToHetero()(g) for g in graphs], batch_size=5)))
    wanted = model(hetero)
    edges = hetero[script.IN].edge_index
    hetero[script.IN].edge_index = edges[:, torch.randperm(edges.size(1))]
    torch.testing.assert_close(model(hetero), wanted, atol=1e-5, rtol=1e-5)
    # The first molecule's first atom, in its last token.
    hetero[script.IN].edge_index = edges.clone()
    hetero[script.IN].edge_index[1, 0] = 2
    other = model(hetero)
    assert not torch.allclose(other[0], wanted[0], atol=1e-4)
    torch.testing.assert_close(other[1:], wanted[1:], atol=1e-5, rtol=1e-5)


def write_table(path, count):
    lines = (EXAMPLES / "data" / "freesolv.csv").read_text("utf-8").splitlines()
    path.write_text("\n".join(lines[: count + 1]), "utf-8")


def test_learns_from_a_table(tmp_path, script, monkeypatch, capsys):
    table = tmp_path / "table.csv"
    write_table(table, 60)
    with open(table, "a", encoding="utf-8") as file:
        file.write("\nCCCC,without a label,\nC1CC,an open ring,1\nCCC,x,inf\nC,y,many")
    monkeypatch.setattr(sys, "argv", ["", str(table), "--epochs", "8"])
    script.main()
    printed = capsys.readouterr().out
    assert "60 molecules; 4 rows are left out" in printed
    faults = [line.strip() for line in printed.splitlines() if line[:6] == "  row "]
    assert [fault[:7] for fault in faults] == [f"row {n}:" for n in range(61, 65)]
    assert "is empty, or not finite" in faults[0] and "RDKit refuses" in faults[1]
    assert "is empty, or not finite" in faults[2] and "many" in faults[3]
    assert "(atom, in, token)={ edge_index=[2, 13] }" in printed
    losses = [float(x) for x in re.findall(r"epoch \d+: loss (\S+)", printed)]
    assert len(losses) == 8 and losses[-1] < 0.7 * losses[0]
    error = float(re.search(r"on other molecules: (\S+)", printed).group(1))
    assert 0 < error < 10


@pytest.mark.parametrize(
    "content, message",
    [
        ("smiles,y\nC,1", "columns 'hydration_free_energy'"),
        ("smiles,hydration_free_energy\nC1CC,1", "fewer than 5 molecules are left"),
        ("smiles,hydration_free_energy\nä,1", "table.csv: cannot be read as a table"),
    ],
)
def test_says_what_is_wrong(content, message, tmp_path, script, monkeypatch, capsys):
    (tmp_path / "table.csv").write_text(content, "latin-1")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "table.csv")])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 1 and message in capsys.readouterr().err


def test_a_constant_target_is_learnt(tmp_path, script, monkeypatch, capsys):
    rows = ["C" * n + ",2.5" for n in range(1, 21)]
    (tmp_path / "table.csv").write_text("\n".join(["smiles,y", *rows]))
    words = [str(tmp_path / "table.csv"), "--target", "y", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["", *words])
    script.main()
    error = re.search(r"on other molecules: (\S+)", capsys.readouterr().out)
    assert 0 <= float(error[1]) < 2


def test_stops_where_the_loss_is_not_finite(script, graphs, model):
    graphs = [ToHetero()(g) for g in graphs]
    for number, data in enumerate(graphs):
        data.y = torch.full((1, 2), float(number))
    with torch.no_grad():
        model.readout[0].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="the loss is not finite"):
        script.train(model, graphs, 1)


@pytest.mark.slow
def test_as_a_user_runs_it():
    command = [sys.executable, EXAMPLES / "hetero.py", "--epochs", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error, guess = (
        float(x) for x in re.findall(r"(?:molecules|guess): (\S+)", done.stdout)
    )
    assert error < guess


def test_says_which_extra_brings_rdkit(script, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rdkit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    monkeypatch.delitem(sys.modules, "hetero")
    with pytest.raises(ImportError, match=r"pip install -e '\.\[chem\]'"):
        importlib.import_module("hetero")
