"""`ToHetero` and `FromHetero`, which only mean something together."""

import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import HeteroConv, SAGEConv

from pyg_atomenc import AtomTokenData
from pyg_atomenc.io import from_smiles, from_structure
from pyg_atomenc.transforms import (
    FromHetero,
    PairFeatures,
    RadiusEdges,
    ToHetero,
    TokenEdges,
)


def graph(count=7, tokens=4):
    once = torch.stack([torch.arange(count - 1), torch.arange(1, count)])
    data = AtomTokenData(
        x=torch.randn(count, 3),
        pos=torch.rand(count, 3),
        edge_index=torch.cat([once, once.flip(0)], dim=1),
        edge_attr=torch.eye(5)[torch.zeros(2 * count - 2, dtype=torch.long)],
        y=torch.randn(1),
        atom_to_token=torch.randint(0, tokens - 1, (count,)),
        num_tokens=tokens,
        token_x=torch.randn(tokens, 2),
        token_pos=torch.rand(tokens, 3),
        token_name=[f"T{i}" for i in range(tokens)],
        atom_name=[f"A{i}" for i in range(count)],
        smiles="none",
    )
    return data


def full(data):
    pytest.importorskip("scipy", reason="SciPy is not installed")
    return TokenEdges(cutoff=0.8)(RadiusEdges(0.6)(PairFeatures(num_rbf=3)(data)))


def assert_equal(one, other):
    one, other = one.to_dict(), other.to_dict()
    assert set(one) == set(other)
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                value, other[name], rtol=0, atol=0, equal_nan=True, msg=name
            )
        else:
            assert value == other[name], name


def test_where_everything_goes():
    data = full(graph())
    hetero = ToHetero()(data)
    assert hetero["atom"].num_nodes == 7 and hetero["token"].num_nodes == 4
    assert hetero["atom"].x is data.x and hetero["token"].x is data.token_x
    assert hetero["token"].lists == {"name": ["T0", "T1", "T2", "T3"]}
    assert hetero["atom"].lists == {"atom_name": data.atom_name}
    assert hetero["atom"].list_id.tolist() == list(range(7))
    inside = hetero["atom", "in", "token"].edge_index
    assert inside[0].tolist() == list(range(7))
    assert inside[1].equal(data.atom_to_token)
    assert hetero["atom", "bond", "atom"].edge_attr is data.edge_attr
    assert hetero["atom", "radius", "atom"].edge_index is data.radius_edge_index
    assert hetero["atom", "radius", "atom"].distance is data.radius_distance
    pairs = hetero["atom", "pair", "atom"]
    assert pairs.edge_index.equal(data.token_layout().to_edge_index())
    assert pairs.edge_attr is data.pair_attr
    assert hetero["token", "edge", "token"].edge_attr is data.token_edge_attr
    assert hetero.smiles == "none" and hetero.y is data.y
    assert set(hetero.node_types) == {"atom", "token"} and len(hetero.edge_types) == 5
    assert hetero.validate()


def test_there_and_back():
    for data in (graph(), full(graph()), graph(1, 3)):
        assert_equal(FromHetero()(ToHetero()(data)), data)


def test_there_and_back_from_readers(structures):
    for name in ("1aki.pdb", "5ugo.cif"):
        data = from_structure(structures / name)
        assert_equal(FromHetero()(ToHetero()(data)), data)


def test_there_and_back_from_a_molecule():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    for smiles in ("CC(=O)Oc1ccccc1", "C", "[Na+].[Cl-]"):
        data = from_smiles(smiles)
        data.y = torch.tensor([1.0])
        assert_equal(FromHetero()(ToHetero()(data)), data)


def test_there_and_back_through_a_batch():
    graphs = [full(graph(n, t)) for n, t in ((7, 4), (1, 3), (12, 5))]
    batch = next(iter(DataLoader([ToHetero()(g) for g in graphs], batch_size=3)))
    plain = Batch.from_data_list(graphs)
    inside = batch["atom", "in", "token"].edge_index
    assert inside[1].equal(plain.atom_to_token)
    assert batch["atom"].batch.equal(plain.batch)
    assert batch["token"].batch.equal(plain.token_batch)
    pairs = batch["atom", "pair", "atom"].edge_index
    assert pairs.equal(plain.token_layout().to_edge_index())
    assert batch["token", "edge", "token"].edge_index.equal(plain.token_edge_index)
    for i, data in enumerate(graphs):
        assert_equal(FromHetero()(batch[i]), data)


def test_what_was_added_since_is_kept():
    hetero = ToHetero()(graph())
    hetero["token"].hidden = torch.ones(4, 6)
    hetero["atom"].mass = torch.ones(7)
    hetero["atom", "bond", "atom"].length = torch.ones(12)
    back = FromHetero()(hetero)
    assert back.token_hidden.shape == (4, 6) and back.mass.shape == (7,)
    assert back.length.shape == (12,)


def test_pygs_hetero_layers_run_over_it():
    hetero = ToHetero()(graph())
    conv = HeteroConv(
        {
            ("atom", "in", "token"): SAGEConv((3, 2), 4),
            ("atom", "bond", "atom"): SAGEConv(3, 4),
        }
    )
    out = conv(hetero.x_dict, hetero.edge_index_dict)
    assert out["token"].shape == (4, 4) and out["atom"].shape == (7, 4)


def test_any_order_of_the_edges_between_atoms_and_tokens():
    data = graph()
    hetero = ToHetero()(data)
    inside = hetero["atom", "in", "token"]
    inside.edge_index = inside.edge_index[:, torch.randperm(7)]
    assert FromHetero()(hetero).atom_to_token.equal(data.atom_to_token)


def test_bad_input_there():
    with pytest.raises(ValueError, match="'data' is of type Data"):
        ToHetero()(Data(x=torch.ones(2, 1)))
    with pytest.raises(ValueError, match="pass one AtomTokenData; of a batch batch"):
        ToHetero()(Batch.from_data_list([graph()]))
    with pytest.raises(ValueError, match="'atom_to_token' is missing"):
        ToHetero()(AtomTokenData(x=torch.ones(2, 1)))


def test_bad_input_back():
    with pytest.raises(ValueError, match="'data' is of type AtomTokenData"):
        FromHetero()(graph())
    with pytest.raises(ValueError, match="of a batch batch"):
        FromHetero()(Batch.from_data_list([ToHetero()(graph())]))
    with pytest.raises(ValueError, match="joined by .'atom', 'in', 'token'"):
        FromHetero()(HeteroData())
    hetero = ToHetero()(graph())
    hetero["residue"].x = torch.ones(1, 1)
    with pytest.raises(ValueError, match="'data' has 'residue'"):
        FromHetero()(hetero)
    hetero = ToHetero()(graph())
    inside = hetero["atom", "in", "token"]
    for edges in (inside.edge_index[:, 1:], inside.edge_index[:, [0, 0, *range(6)]]):
        inside.edge_index = edges
        with pytest.raises(ValueError, match="every atom exactly one token"):
            FromHetero()(hetero)
    hetero = ToHetero()(full(graph()))
    pair = hetero["atom", "pair", "atom"]
    pair.edge_index = pair.edge_index.flip(1)
    with pytest.raises(ValueError, match="other edges than the layout"):
        FromHetero()(hetero)
