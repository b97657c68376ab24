import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.nn import GATConv

from pyg_atomenc import AtomTokenData, token_graph
from pyg_atomenc.io import from_smiles, from_structure
from pyg_atomenc.transforms import TokenEdges


def line(x):
    """Atoms on a line, two a token, the second token's first bonded to the first's."""
    x = torch.tensor(x)
    pos = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], dim=1)
    token = torch.arange(len(x)) // 2
    return AtomTokenData(
        pos=pos,
        edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
        atom_to_token=token,
        token_pos=pos[::2],
        num_tokens=len(x) // 2,
    )


def edges(data):
    return {
        tuple(pair): kinds
        for pair, kinds in zip(
            data.token_edge_index.t().tolist(), data.token_edge_attr.tolist(),
            strict=True,
        )
    }  # fmt: skip


def test_kinds_by_hand():
    pytest.importorskip("scipy", reason="SciPy is not installed")
    #        token 0    token 1      token 2
    data = line([0.0, 1.0, 8.0, 3.0, 12.0, 17.0])
    found = edges(TokenEdges(["bond", "representative", "contact"], 5.0)(data))
    assert found == {
        (0, 1): [1, 0, 1],
        (1, 0): [1, 0, 1],
        (1, 2): [0, 1, 1],
        (2, 1): [0, 1, 1],
    }
    few = TokenEdges("representative", 8.0, max_neighbors=1)(data)
    assert edges(few) == {(1, 0): [1], (2, 1): [1], (1, 2): [1]}


def test_bonds_are_those_of_token_graph():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    data = from_smiles("CC1=C(C=CC(=C1)OC[C@@H]2CO2)C(=O)N3CCOCC3")
    features = torch.randn(data.num_tokens, 2)
    expected = token_graph(data, features).edge_index
    data = TokenEdges(["bond"])(data)
    assert data.token_edge_index.equal(expected)
    assert data.token_edge_attr.tolist() == [[1.0]] * expected.size(1)


def test_a_batch_has_those_of_its_graphs_and_token_graph_takes_them():
    pytest.importorskip("scipy", reason="SciPy is not installed")
    graphs = [
        line([0.0, 1.0, 8.0, 3.0]),
        line([0.0, 1.0, 2.0, 2.5, 9.0, 9.0, 4.0, 5.0]),
    ]
    graphs[0].num_tokens += 2
    graphs[0].token_pos = torch.cat(
        [graphs[0].token_pos, torch.full((2, 3), torch.nan)]
    )
    transform = TokenEdges(cutoff=6.0)
    batched = Batch.from_data_list([transform(graph) for graph in graphs])
    together = transform(Batch.from_data_list(graphs))
    assert edges(together) == edges(batched)
    batched.validate()
    graph = token_graph(batched, torch.randn(8, 5))
    assert graph.edge_index.equal(batched.token_edge_index)
    assert graph.edge_attr.equal(batched.token_edge_attr)
    out = GATConv(5, 3, edge_dim=2)(graph.x, graph.edge_index, graph.edge_attr)
    assert out.shape == (8, 3)


def test_contacts_of_a_real_entry(structures):
    data = from_structure(structures / "1l2y.bcif", hydrogens=False)
    found = edges(TokenEdges(["contact"], 4.5)(data))
    apart = torch.cdist(data.pos.double(), data.pos.double())
    for a in range(data.num_tokens):
        for b in range(data.num_tokens):
            inside = apart[data.atom_to_token == a][:, data.atom_to_token == b]
            assert ((a, b) in found) == (a != b and bool(inside.min() <= 4.5))


def test_no_bonds():
    data = AtomTokenData(atom_to_token=torch.tensor([0, 1]))
    assert TokenEdges(["bond"])(data).token_edge_index.shape == (2, 0)


def test_bad_arguments():
    for kinds in ([], ["bonds"], ["bond", "bond"]):
        with pytest.raises(ValueError, match="'kinds' is .*'representative'"):
            TokenEdges(kinds)
    with pytest.raises(ValueError, match="'cutoff' is 0"):
        TokenEdges(cutoff=0)
    data = AtomTokenData(atom_to_token=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="'token_pos' is missing"):
        TokenEdges()(data)
    with pytest.raises(ValueError, match="'pos' is missing"):
        TokenEdges(["contact"])(data)
