import json

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.explain import Explainer, GNNExplainer

from pyg_atomenc.io import from_smiles
from pyg_atomenc.nn import MoleculeEncoder
from pyg_atomenc.transforms import AtomFeatures

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "C", "[Na+].[Cl-]", "CN1C=NC2=C1C(=O)N(C)C(=O)N2C"]


@pytest.fixture(scope="module")
def graphs():
    return [AtomFeatures()(from_smiles(smiles)) for smiles in SMILES]


def shaken(**options):
    """A model in float64 of which no parameter is zero or one."""
    torch.manual_seed(len(options))
    model = MoleculeEncoder(3, 16, **options).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def in_double(graphs):
    return [graph.clone().apply(_double) for graph in graphs]


def _double(value):
    return value.double() if value.is_floating_point() else value


@pytest.mark.parametrize("readout", ["sum", "mean", "none"])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_a_batch_is_predicted_as_its_graphs(readout, reduce, graphs):
    graphs = in_double(graphs)
    model = shaken(readout=readout, reduce=reduce)
    out = model(Batch.from_data_list(graphs))
    rows = sum(g.num_tokens for g in graphs) if readout == "none" else len(graphs)
    assert out.shape == (rows, 3)
    torch.testing.assert_close(out, torch.cat([model(graph) for graph in graphs]))


@pytest.mark.parametrize("num_atom_convs, num_token_convs", [(0, 0), (2, 3)])
def test_is_what_its_parts_give_in_turn(num_atom_convs, num_token_convs, graphs):
    """Written out over dense matrices, one molecule at a time."""
    counts = {"num_atom_convs": num_atom_convs, "num_token_convs": num_token_convs}
    model = shaken(**counts)
    for data in in_double(graphs):
        h = sum(e.weight[data.x[:, i]] for i, e in enumerate(model.embeddings))
        bonds = list(zip(*data.edge_index.tolist(), data.edge_attr, strict=True))
        for i, conv in enumerate(model.atom_convs):
            normed, total = model.norms[i](h), torch.zeros_like(h)
            for source, target, attr in bonds:
                total[target] += (normed[source] + conv.lin(attr)).relu()
            h = h + conv.nn(normed + total)
        tokens = model.encoder(h, data.atom_to_token)
        pairs = {(int(data.atom_to_token[s]), int(data.atom_to_token[t]))
                 for s, t, _ in bonds}  # fmt: skip
        for i, conv in enumerate(model.token_convs):
            normed = model.norms[num_atom_convs + i](tokens)
            total = torch.zeros_like(tokens)
            for source, target in pairs:
                if source != target:
                    total[target] += normed[source]
            tokens = tokens + conv.nn(normed + total)
        expected = model.head(tokens.sum(0, keepdim=True))
        torch.testing.assert_close(model(data), expected)


def test_every_parameter_learns(graphs):
    model = shaken()
    out, weights = model(
        Batch.from_data_list(in_double(graphs)), return_attention_weights=True
    )
    (out.square().sum() + weights.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    atoms = sum(graph.num_nodes for graph in graphs)
    assert weights.shape == (atoms, 4)


def test_features_of_atoms_may_be_given(graphs):
    model, (data, *_) = shaken(), in_double(graphs)
    h = model.embed(data).detach().requires_grad_()
    out = model(data, h)
    torch.testing.assert_close(out, model(data))
    (grad,) = torch.autograd.grad(out.sum(), h)
    assert grad.shape == (data.num_nodes, 16) and grad.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype, graphs, tmp_path):
    model = MoleculeEncoder(2, 16).eval()
    batch = Batch.from_data_list(graphs)
    expected = model(batch)
    model = model.to(dtype)
    model.save_pretrained(tmp_path)
    out = MoleculeEncoder.from_pretrained(tmp_path)(batch)
    assert out.dtype == dtype and torch.equal(out, model(batch))
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)


def test_made_on_no_device(graphs):
    with torch.device("meta"):
        model = MoleculeEncoder(2, 16)
    known = MoleculeEncoder(2, 16)
    model = model.to_empty(device="cpu")
    model.load_state_dict(known.state_dict())
    assert torch.equal(model(graphs[0]), known(graphs[0]))


def test_is_explained_by_its_bonds(graphs):
    model, data = MoleculeEncoder(1, 16).eval(), graphs[0]

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, edge_index):
            return self.model(data, x)

    explainer = Explainer(
        Wrapped(),
        GNNExplainer(epochs=2),
        explanation_type="model",
        node_mask_type="object",
        edge_mask_type="object",
        model_config=dict(mode="regression", task_level="graph", return_type="raw"),
    )
    found = explainer(model.embed(data).detach(), data.edge_index)
    assert found.edge_mask.shape == (data.num_edges,) and found.edge_mask.any()


def test_saves_and_loads(graphs, tmp_path):
    options = dict(num_atom_convs=1, reduce="mean", readout="none", dropout=0.2)
    model = shaken(**options).float()
    model.metadata = {"targets": ["logS"], "mean": [np.float64(1.5)]}
    for folder in (tmp_path / "a" / "model", tmp_path / "a" / "model"):
        model.save_pretrained(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "model.safetensors"]
    loaded = MoleculeEncoder.from_pretrained(folder)
    assert not loaded.training and loaded.metadata == model.metadata
    assert loaded.config == model.config
    batch = Batch.from_data_list(graphs)
    assert torch.equal(loaded(batch), model(batch))


@pytest.mark.parametrize(
    "broken", ["model.safetensors", "config.json", "channels", "metadata"]
)
def test_tells_what_cannot_be_loaded(broken, tmp_path):
    MoleculeEncoder(1, 16).save_pretrained(tmp_path)
    if broken == "channels":
        config = json.loads((tmp_path / "config.json").read_text())
        config["model"]["channels"] = 32
        (tmp_path / "config.json").write_text(json.dumps(config))
    elif broken == "metadata":
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({"model": config["model"]}))
    else:
        path = tmp_path / broken
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="holds no model of save_pretrained"):
        MoleculeEncoder.from_pretrained(tmp_path)


def test_what_cannot_be_saved_leaves_the_older_model(tmp_path):
    MoleculeEncoder(1, 16).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = MoleculeEncoder(1, 16)
    for wrong in (b"json", float("nan"), torch.ones(2)):
        other.metadata = {"no": wrong}
        with pytest.raises(ValueError, match="'metadata'"):
            other.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "options, name",
    [
        (dict(out_channels=0), "out_channels"),
        (dict(channels=10), "channels"),
        (dict(num_atom_convs=-1), "num_atom_convs"),
        (dict(num_token_convs=1.5), "num_token_convs"),
        (dict(readout="max"), "readout"),
        (dict(reduce="max"), "reduce"),
        (dict(dropout=1.5), "dropout"),
        (dict(backend="cuda"), "backend"),
    ],
)
def test_bad_options(options, name):
    with pytest.raises(ValueError, match=f"'{name}'"):
        MoleculeEncoder(**{"out_channels": 1, **options})


def test_data_without_features(graphs):
    model, data = MoleculeEncoder(1, 16), from_smiles("CCO")
    with pytest.raises(ValueError, match="'x'.*AtomFeatures"):
        model(data)
    data.x = torch.randn(3, 11)
    with pytest.raises(ValueError, match="'x'.*AtomFeatures"):
        model(data)
    data.x = torch.zeros(3, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="'x'.*AtomFeatures"):
        model(data)
    with pytest.raises(ValueError, match="'data'.*AtomTokenData.from_data"):
        model(Data(x=data.x))
    data = graphs[0].clone()
    data.x[0, 1] = AtomFeatures.sizes[1]
    with pytest.raises(ValueError, match="'x'.*sizes"):
        model(data)
    with pytest.raises(ValueError, match="'x'.*16"):
        model(graphs[0], torch.randn(3, 16))
    data = graphs[0].clone()
    data.edge_attr = data.edge_attr[:, :3]
    with pytest.raises(ValueError, match="'edge_attr'"):
        model(data)
