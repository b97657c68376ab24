import pytest
import torch
from torch_geometric.data import Batch

from pyg_atomenc import AtomTokenData, TokenAttentionConv
from pyg_atomenc.transforms import RadiusEdges
from pyg_atomenc.transforms.edges import neighbors

pytest.importorskip("scipy", reason="SciPy is not installed")


def cloud(count, bonds=True):
    index = torch.arange(count - 1) if count else torch.empty(0, dtype=torch.long)
    data = AtomTokenData(
        pos=4 * torch.rand(count, 3),
        atom_to_token=torch.arange(count) // 3,
        num_tokens=count // 3 + 1,
    )
    if bonds:
        data.edge_index = torch.stack([index, index + 1])
    return data


def test_bonds_stay_and_distances_fit():
    plain = cloud(30)
    data = RadiusEdges(2.0)(plain)
    assert data.edge_index is plain.edge_index and "radius_distance" not in plain
    source, target = data.radius_edge_index
    expected = torch.cdist(data.pos, data.pos).fill_diagonal_(9)
    assert len(source) == (expected <= 2.0).sum()
    torch.testing.assert_close(data.radius_distance, expected[source, target])
    assert target.equal(target.sort().values)


def test_in_a_batch_no_edge_joins_two_graphs():
    graphs = [cloud(20), cloud(1), cloud(12)]
    transform = RadiusEdges(2.5, max_neighbors=3)
    together = transform(Batch.from_data_list(graphs))
    batched = Batch.from_data_list([transform(graph) for graph in graphs])
    assert together.radius_edge_index.equal(batched.radius_edge_index)
    assert together.radius_distance.equal(batched.radius_distance)
    assert together.radius_edge_index[1].bincount().max() == 3
    back = batched.to_data_list()
    assert back[2].radius_edge_index.equal(transform(graphs[2]).radius_edge_index)
    conv = TokenAttentionConv(3, 8)
    assert conv(together.pos, together.radius_edge_index).shape == (33, 8)


def test_distances_are_differentiable():
    data = cloud(8)
    data.pos.requires_grad_()
    RadiusEdges(3.0)(data).radius_distance.sum().backward()
    assert data.pos.grad.abs().sum() > 0


def test_other_edges_are_no_bonds():
    data = RadiusEdges(2.0)(cloud(10, bonds=False))
    assert data.num_edges == 0 and data.radius_edge_index.numel() > 0
    data.validate()


def test_bad_arguments():
    for cutoff in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="'cutoff' is"):
            RadiusEdges(cutoff)
    for most in (0, 2.5):
        with pytest.raises(ValueError, match="'max_neighbors' is"):
            RadiusEdges(max_neighbors=most)
    with pytest.raises(ValueError, match="'pos' is missing"):
        RadiusEdges()(AtomTokenData(atom_to_token=torch.zeros(2, dtype=torch.long)))


def loop(pos, batch, cutoff, most):
    found = []
    for a in range(len(pos)):
        near = [
            ((pos[a] - pos[b]).norm().item(), b)
            for b in range(len(pos))
            if a != b and batch[a] == batch[b] and (pos[a] - pos[b]).norm() <= cutoff
        ]
        found += [(b, a) for b in sorted(b for _, b in sorted(near)[:most])]
    return found


@pytest.mark.parametrize("most", [None, 1, 4])
def test_it_finds_what_a_loop_finds(most):
    pos = 6 * torch.rand(80, 3, dtype=torch.float64)
    batch = torch.randint(0, 3, (80,)).sort().values
    pos[7] = torch.nan
    pos[8, 1] = torch.inf
    found = neighbors(pos, batch, 2.0, most).t().tolist()
    known = pos.clone()
    known[7], known[8] = 1e9, -1e9
    assert [tuple(pair) for pair in found] == loop(known, batch, 2.0, most)
    assert len(found) > 40


def test_points_at_one_place_and_just_at_the_cutoff():
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 0], [2, 0, 0]])
    assert neighbors(pos, None, 2.0, None).tolist() == [
        [1, 2, 0, 2, 0, 1],
        [0, 0, 1, 1, 2, 2],
    ]


@pytest.mark.parametrize("count", [0, 1])
def test_few_points(count):
    assert neighbors(torch.zeros(count, 3), None, 1.0, 2).shape == (2, 0)
