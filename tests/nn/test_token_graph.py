import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, global_mean_pool

from pyg_atomenc import AtomTokenData, token_graph


def chain(num_tokens=4):
    """Five atoms in a chain, 0-1-2-3-4, in tokens {0, 1}, {2}, {3, 4}; 3 is empty."""
    bonds = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    return AtomTokenData(
        x=torch.arange(5.0).view(-1, 1),
        pos=torch.arange(15.0).view(5, 3),
        edge_index=torch.cat([bonds, bonds.flip(0)], 1),
        atom_to_token=torch.tensor([0, 0, 1, 2, 2]),
        num_tokens=num_tokens,
    )


def test_tokens_are_joined_where_a_bond_joins_their_atoms():
    features = torch.randn(4, 2)
    graph = token_graph(chain(), features)
    assert torch.equal(graph.x, features)
    assert graph.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert graph.num_nodes == 4
    assert graph.batch.tolist() == [0, 0, 0, 0]
    expected = [[1.5, 2.5, 3.5], [6, 7, 8], [10.5, 11.5, 12.5], [0, 0, 0]]
    assert graph.pos.tolist() == expected
    assert type(graph) is Data


def test_self_loops_when_asked():
    graph = token_graph(chain(), torch.randn(4, 2), self_loops=True)
    assert graph.edge_index.tolist() == [[0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 1, 2]]


def test_parallel_bonds_are_coalesced():
    ring = AtomTokenData(
        edge_index=torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1]]),
        atom_to_token=torch.tensor([0, 0, 1, 1]),
    )
    assert token_graph(ring, torch.zeros(2, 1)).edge_index.tolist() == [[0, 1], [1, 0]]


def test_a_batch_is_its_graphs_side_by_side():
    batch = Batch.from_data_list([chain(), chain(3), chain(5)])
    features = torch.randn(12, 2)
    graph = token_graph(batch, features)
    assert graph.batch.tolist() == [0] * 4 + [1] * 3 + [2] * 5
    assert graph.ptr.tolist() == [0, 4, 7, 12]
    assert graph.num_graphs == 3
    singles = [
        token_graph(chain(n), x)
        for n, x in zip((4, 3, 5), features.split((4, 3, 5)), strict=True)
    ]
    together = Batch.from_data_list(singles)
    assert torch.equal(graph.edge_index, together.edge_index)
    assert torch.equal(graph.pos, together.pos)
    out = GCNConv(2, 4)(graph.x, graph.edge_index)
    assert global_mean_pool(out, graph.batch, size=graph.num_graphs).shape == (3, 4)


def test_without_bonds_or_positions():
    data = AtomTokenData(z=torch.ones(3), atom_to_token=torch.tensor([0, 1, 1]))
    graph = token_graph(data, torch.zeros(2, 1))
    assert graph.edge_index.shape == (2, 0) and graph.edge_index.dtype == torch.long
    assert "pos" not in graph
    empty = AtomTokenData(atom_to_token=torch.zeros(0, dtype=torch.long), num_tokens=0)
    assert token_graph(empty, torch.zeros(0, 3)).num_nodes == 0


def test_gradients_reach_the_features():
    features = torch.randn(4, 2, requires_grad=True)
    graph = token_graph(chain(), features)
    GCNConv(2, 2)(graph.x, graph.edge_index).sum().backward()
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "data, features, message",
    [
        (Data(), torch.zeros(4, 2), r"'data' is of type Data"),
        (chain(), torch.zeros(3, 2), r"'token_x' has 3 rows for 4 tokens of 'data'"),
        (chain(), torch.zeros(4), r"'token_x' needs the shape .*found: \[4\]"),
        (chain(), [1.0], r"'token_x' needs the shape .*found: list"),
    ],
)
def test_bad_inputs(data, features, message):
    with pytest.raises(ValueError, match=message):
        token_graph(data, features)
