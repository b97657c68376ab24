"""`ToHetero` and `FromHetero`, which only mean something together."""

import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader, HGTLoader, NeighborLoader
from torch_geometric.loader.utils import filter_hetero_data
from torch_geometric.nn import HeteroConv, SAGEConv
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE

from pyg_atomenc import AtomTokenData
from pyg_atomenc.io import from_rdmol, from_smiles, from_structure
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


def names_of(store):
    """The lists of a store, as its nodes or bonds have them now."""
    ids = store.list_id.tolist()
    return {name: [rows[i] for i in ids] for name, rows in store.lists.items()}


def read_graphs(structures):
    """What readers give, as a hetero graph each."""
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    from rdkit import Chem

    return [
        from_smiles("CC(=O)Oc1ccccc1C(=O)O"),
        from_rdmol(Chem.MolFromSequence("GAKF")),
        from_structure(structures / "1aki.pdb"),
        graph(),
    ]


def test_pieces_of_what_readers_give(structures):
    for data in read_graphs(structures):
        hetero = ToHetero()(data)
        atoms, tokens = data.num_nodes, data.num_tokens
        keep = {"atom": torch.rand(atoms) < 0.5, "token": torch.rand(tokens) < 0.5}
        keep["atom"][0] = keep["token"][data.atom_to_token[0]] = True
        for subset in (keep, {k: v.nonzero().flatten() for k, v in keep.items()}):
            part = hetero.subgraph(subset)
            assert part.validate()
            rows = keep["atom"].nonzero().flatten().tolist()
            names = names_of(part["atom"])
            assert names["atom_name"] == [data.atom_name[i] for i in rows]
            rows = keep["token"].nonzero().flatten().tolist()
            names = names_of(part["token"])
            assert names["name"] == [data.token_name[i] for i in rows]
        assert hetero.node_type_subgraph(["token"]).validate()
        assert hetero.edge_type_subgraph([("atom", "bond", "atom")]).validate()
        (bond,) = [e for e in hetero.edge_types if e[1] == "bond"]
        some = torch.arange(hetero[bond].num_edges)[::2]
        assert hetero.edge_subgraph({bond: some})[bond].edge_attr.size(0) == len(some)
        flat = hetero.to_homogeneous()
        assert flat.num_nodes == atoms + tokens and flat.validate()
        # A piece whose atoms all keep their token goes back.
        inside = keep["token"][data.atom_to_token]
        part = hetero.subgraph({"atom": inside, "token": keep["token"]})
        back = FromHetero()(part)
        wanted = inside.nonzero().flatten().tolist()
        assert back.atom_name == [data.atom_name[i] for i in wanted]
        assert len(back.token_name) == back.num_tokens == int(keep["token"].sum())


def test_neighbor_loaders_filter_what_readers_give(structures):
    for data in read_graphs(structures):
        hetero = ToHetero()(data)
        node = {
            "atom": torch.randperm(data.num_nodes)[:5],
            "token": torch.randperm(data.num_tokens)[:2],
        }
        nothing = torch.zeros(0, dtype=torch.long)
        edges = dict.fromkeys(hetero.edge_types, nothing)
        part = filter_hetero_data(hetero, node, edges, dict(edges), dict(edges))
        names = names_of(part["atom"])["atom_name"]
        assert names == [data.atom_name[i] for i in node["atom"].tolist()]
        assert part["atom"].z.equal(data.z[node["atom"]]) if "z" in data else True
        names = names_of(part["token"])["name"]
        assert names == [data.token_name[i] for i in node["token"].tolist()]


@pytest.mark.parametrize("loader", [NeighborLoader, HGTLoader])
def test_neighbor_loaders_run(loader):
    if not (WITH_PYG_LIB or WITH_TORCH_SPARSE):
        pytest.skip("neither pyg_lib nor torch_sparse is installed")
    hetero = ToHetero()(graph(20))
    key = "num_samples" if loader is HGTLoader else "num_neighbors"
    for part in loader(hetero, **{key: [3, 3]}, input_nodes="token", batch_size=2):
        names = names_of(part["token"])["name"]
        assert names == [f"T{i}" for i in part["token"].n_id.tolist()]


def test_pygs_transforms_run_over_it(structures):
    changes = [
        T.ToUndirected(),
        T.AddSelfLoops(),
        T.RemoveIsolatedNodes(),
        T.ToSparseTensor(),
        T.NormalizeFeatures(),
        T.Constant(),
        T.RandomNodeSplit("test_rest"),
        T.AddMetaPaths([[("atom", "bond", "atom"), ("atom", "in", "token")]]),
        T.RandomLinkSplit(edge_types=("atom", "bond", "atom")),
        T.RemoveDuplicatedEdges(),
        T.ToDevice("cpu"),
    ]
    for data in read_graphs(structures):
        for change in changes:
            out = change(ToHetero()(data))
            for part in out if isinstance(out, tuple) else (out,):
                names = names_of(part["token"])["name"]
                inside = part["atom", "in", "token"].get("edge_index")
                left = range(data.num_tokens)
                if isinstance(change, T.RemoveIsolatedNodes):
                    left = data.atom_to_token.unique().tolist()
                    assert int(inside[1].max()) < len(left)
                assert names == [data.token_name[i] for i in left], change


def test_lists_of_bonds_and_of_a_graph():
    data = graph()
    data.bond_name = [f"B{i}" for i in range(12)]
    data.notes = ["one", "two"]
    hetero = ToHetero()(data)
    bonds = hetero["atom", "bond", "atom"]
    assert bonds.lists == {"bond_name": data.bond_name} and hetero.notes == data.notes
    part = hetero.edge_subgraph({("atom", "bond", "atom"): torch.tensor([3, 5])})
    assert names_of(part["atom", "bond", "atom"])["bond_name"] == ["B3", "B5"]
    assert_equal(FromHetero()(hetero), data)


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
    with pytest.raises(ValueError, match="'atom', 'in', 'token'., or 'adj_t' in"):
        FromHetero()(T.ToSparseTensor()(ToHetero()(graph())))
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
    with pytest.raises(ValueError, match="has other edges"):
        FromHetero()(hetero)
