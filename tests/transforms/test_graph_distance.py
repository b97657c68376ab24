import pytest
import torch

from pyg_atomenc.transforms.graph_distance import bonds_apart

nx = pytest.importorskip("networkx", reason="networkx is not installed")


@pytest.mark.parametrize("most", [0, 1, 3, 6])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_shortest_path_of_networkx(seed, most):
    graph = nx.gnm_random_graph(40, 44, seed=seed)
    once = torch.tensor(list(graph.edges)).t()
    edge_index = torch.cat([once, once.flip(0)], dim=1)
    edge_index = edge_index[:, torch.randperm(edge_index.size(1))]
    # Some pairs in any order, an atom with itself among them.
    pair = torch.randperm(1600)[:300]
    pairs = torch.stack([pair // 40, pair % 40])
    found = bonds_apart(edge_index, 40, pairs, most)
    length = dict(nx.all_pairs_shortest_path_length(graph))
    expected = [
        min(length[a].get(b, most + 1), most + 1) for a, b in pairs.t().tolist()
    ]
    assert found.tolist() == expected


def test_no_bonds_and_no_pairs():
    none = torch.empty((2, 0), dtype=torch.long)
    pairs = torch.tensor([[0, 1, 0], [0, 1, 1]])
    assert bonds_apart(none, 2, pairs, 6).tolist() == [0, 0, 7]
    assert bonds_apart(none, 2, none, 6).tolist() == []
    assert bonds_apart(none, 0, none, 6).tolist() == []


def test_bonds_that_are_listed_twice():
    edge_index = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    assert bonds_apart(edge_index, 2, torch.tensor([[0], [1]]), 6).tolist() == [1]
