"""Graphs of some atoms or tokens, single and in batches, against loops over names."""

import copy
import warnings

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader, RandomNodeLoader
from torch_geometric.loader.utils import filter_data

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData
from pyg_atomenc.data import AtomTokenLoader
from pyg_atomenc.nn import token_graph


def graph(num_atoms, num_tokens, first=0, single=True):
    """Every row of every attribute names its atoms or its token."""
    index = torch.randint(0, num_tokens, (num_atoms,))
    atom = torch.arange(first, first + num_atoms)
    token = torch.arange(first, first + num_tokens)
    edges = {
        "edge_index": torch.randint(0, num_atoms, (2, 2 * num_atoms)),
        "radius_edge_index": torch.randint(0, num_atoms, (2, 3 * num_atoms)),
        "token_edge_index": torch.randint(0, num_tokens, (2, 2 * num_tokens)),
    }
    data = AtomTokenData(
        x=atom.float().view(-1, 1),
        z=atom,
        atom_name=[f"A{i}" for i in atom.tolist()],
        atom_to_token=index,
        num_tokens=num_tokens,
        token_y=token,
        token_name=[f"T{i}" for i in token.tolist()],
        label=float(first),
        **edges,
    )
    data.edge_attr = atom[data.edge_index].t()
    data.radius_distance = atom[data.radius_edge_index].t()
    data.token_edge_attr = token[data.token_edge_index].t()
    data.pair_attr = atom[data.token_layout().to_edge_index()].t()
    return data


def described(data):
    """All that a graph says, by the names of its atoms and tokens."""
    atom, token = data.z.tolist(), data.token_y.tolist()
    pairs = data.token_layout().to_edge_index()

    def named(edges, rows, names):
        edges = [(names[a], names[b]) for a, b in edges.t().tolist()]
        assert edges == [tuple(row) for row in rows.tolist()]
        return edges

    assert list(data.atom_name) == [f"A{i}" for i in atom]
    assert list(data.token_name) == [f"T{i}" for i in token]
    return {
        "atoms": atom,
        "tokens": token,
        "token of": [token[i] for i in data.atom_to_token.tolist()],
        "bonds": named(data.edge_index, data.edge_attr, atom),
        "radius": named(data.radius_edge_index, data.radius_distance, atom),
        "token edges": named(data.token_edge_index, data.token_edge_attr, token),
        "pairs": sorted(named(pairs, data.pair_attr, atom)),
        "label": float(data.label),
    }


def expected(said, kept):
    """What is left of a description when atoms are kept, in their new order."""
    return {
        **said,
        "atoms": kept,
        "token of": [said["token of"][said["atoms"].index(a)] for a in kept],
        **{
            key: [edge for edge in said[key] if set(edge) <= set(kept)]
            for key in ("bonds", "radius", "pairs")
        },
    }


def without_empty(said):
    kept = [token for token in said["tokens"] if token in said["token of"]]
    edges = [edge for edge in said["token edges"] if set(edge) <= set(kept)]
    return {**said, "tokens": kept, "token edges": edges}


def graphs():
    return [graph(9, 4), graph(1, 3, 100), graph(12, 12, 200), graph(7, 9, 300)]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("as_mask", [True, False])
def test_a_subgraph_and_its_tokens(number, as_mask):
    data = graphs()[number]
    subset = torch.randperm(data.num_nodes)[: data.num_nodes // 2 + 1]
    if as_mask:
        subset = subset.sort().values
    said = described(data)
    kept = data.z[subset].tolist()
    mask = torch.zeros(data.num_nodes, dtype=torch.bool).index_fill(0, subset, True)
    part = data.subgraph(mask if as_mask else subset)
    assert described(part) == expected(said, kept) and part.validate()
    dense = part.drop_empty_tokens()
    assert described(dense) == without_empty(expected(said, kept))
    assert dense.validate() and dense.num_tokens == len(dense.atom_to_token.unique())
    assert described(data) == said


@pytest.mark.parametrize("loader", [DataLoader, AtomTokenLoader])
def test_a_batch_of_subgraphs_comes_apart_into_them(loader):
    data = graphs()
    (batch,) = loader(data, batch_size=4, follow_batch=["x", "token_y"])
    subset = torch.rand(batch.num_nodes) < 0.6
    subset[9] = False  # a graph that loses its only atom
    part = batch.subgraph(subset)
    dense = part.drop_empty_tokens()
    for out in (part, dense):
        assert out.validate() and isinstance(out, Batch) and len(out) == 4
        assert out.ptr.tolist() == [0, *out.batch.bincount(minlength=4).cumsum(0)]
        assert torch.equal(out.x_ptr, out.ptr) and torch.equal(out.x_batch, out.batch)
        sizes = out.token_batch.bincount(minlength=4)
        assert out.token_y_ptr.tolist() == [0, *sizes.cumsum(0)]
        assert torch.equal(out.token_y_batch, out.token_batch)
    for i, (one, whole, few) in enumerate(
        zip(data, part.to_data_list(), dense.to_data_list(), strict=True)
    ):
        kept = one.z[subset[batch.batch == i]].tolist()
        wanted = expected(described(one), kept)
        assert described(whole) == wanted and whole.num_nodes == len(kept)
        assert described(few) == without_empty(wanted)
    encoder = AtomAttentionEncoder(1, 4, 2)
    alone = [encoder(g.x, g.token_layout()) for g in dense.to_data_list()]
    found = encoder(dense.x, dense.token_layout())
    torch.testing.assert_close(found, torch.cat(alone))
    again = Batch.from_data_list(part.to_data_list())
    assert torch.equal(again.atom_to_token, part.atom_to_token)


def test_a_batch_whose_graphs_take_turns_does_not_come_apart():
    data = graphs()
    (batch,) = AtomTokenLoader(data, batch_size=4, follow_batch=["x"])
    order = torch.randperm(batch.num_nodes)
    part = batch.subgraph(order)
    assert part.validate() and torch.equal(part.z, batch.z[order])
    assert torch.equal(part.batch, batch.batch[order])
    assert "ptr" not in part and "x_ptr" not in part and part.num_graphs == 4
    with pytest.raises(RuntimeError, match="Cannot reconstruct"):
        part.to_data_list()
    back = part.subgraph(order.argsort())
    assert torch.equal(back.atom_to_token, batch.atom_to_token)
    encoder = AtomAttentionEncoder(1, 4, 2)
    one, other = (encoder(b.x, b.token_layout()) for b in (part, batch))
    torch.testing.assert_close(one, other)
    few = batch.subgraph(order[:9]).drop_empty_tokens()
    alone = batch.subgraph(order[:9].sort().values).drop_empty_tokens()
    assert few.validate() and torch.equal(few.token_y, alone.token_y)
    assert torch.equal(few.num_tokens, alone.num_tokens)
    assert few.token_name == alone.token_name and few.atom_name != alone.atom_name
    place = order[:9].argsort().argsort()
    assert torch.equal(few.atom_to_token, alone.atom_to_token[place])
    with pytest.raises(RuntimeError, match="Cannot reconstruct"):
        few.to_data_list()


def test_tokens_are_dropped_of_a_batch_whatever_it_went_through():
    follow = ["token_y", "token_name", "token_edge_attr"]
    batch = Batch.from_data_list(graphs(), follow_batch=follow)
    wanted = Batch.from_data_list([g.drop_empty_tokens() for g in batch.to_data_list()])
    batch.token_later = batch.token_y + 0.5
    out = batch.drop_empty_tokens()
    assert out.validate() and batch.validate()
    assert torch.equal(out.token_later, wanted.token_y + 0.5)
    assert torch.equal(out.token_y_batch, wanted.token_batch)
    assert torch.equal(out.token_y_ptr, wanted._slice_dict["token_y"])
    ends = wanted._slice_dict["token_edge_attr"]
    assert torch.equal(out.token_edge_attr_ptr, ends)
    owner = torch.arange(4).repeat_interleave(ends.diff())
    assert torch.equal(out.token_edge_attr_batch, owner)
    assert torch.equal(out.token_name_batch, torch.arange(4))
    for one, other in zip(out.to_data_list(), wanted.to_data_list(), strict=True):
        del one.num_nodes
        assert described(one) == described(other)
    again = AtomTokenData.from_dict(batch.to_dict()).drop_empty_tokens()
    assert torch.equal(again.num_tokens, wanted.num_tokens)
    assert torch.equal(again.token_edge_index, wanted.token_edge_index)
    assert again.token_name == wanted.token_name and again.validate()


def test_names_of_tokens_stay_where_each_graph_has_as_many_atoms():
    data = [graph(5, 5), graph(3, 3, 10)]
    part = Batch.from_data_list(data).subgraph(torch.tensor([0, 1, 6]))
    assert part.token_name == [g.token_name for g in data] and part.validate()
    assert part.atom_name == [["A0", "A1"], ["A11"]]


def test_batches_of_batches_are_to_be_flattened():
    nested = Batch.from_data_list([Batch.from_data_list(graphs()) for _ in range(2)])
    assert nested.token_layout().num_tokens == nested.total_num_tokens
    x = torch.ones(nested.total_num_tokens, 1)
    for edit in (
        lambda: nested.drop_empty_tokens(),
        lambda: nested.subgraph(torch.arange(3)),
        lambda: token_graph(nested, x),
    ):
        with pytest.raises(ValueError, match="8 numbers for .* 2: batch the graphs"):
            edit()


@pytest.mark.skipif(
    not hasattr(Data, "connected_components"), reason="PyG 2.6 has none"
)
@pytest.mark.parametrize("batched", [False, True])
def test_connected_components(batched):
    ring = torch.tensor([[0, 1, 2, 3, 4], [1, 0, 3, 4, 2]])
    data = AtomTokenData(
        torch.arange(6.0).view(-1, 1),
        ring,
        atom_to_token=torch.tensor([3, 3, 0, 1, 0, 2]),
        num_tokens=5,
        token_y=torch.arange(5),
    )
    if batched:
        data = Batch.from_data_list([data])
    found = [part.drop_empty_tokens() for part in data.connected_components()]
    seen = {
        tuple(p.x.flatten().tolist()): p.token_y[p.atom_to_token].tolist()
        for p in found
    }
    assert sorted(map(sorted, seen)) == [[0, 1], [2, 3, 4], [5]]
    of = dict(enumerate([3, 3, 0, 1, 0, 2]))
    assert all([of[a] for a in atoms] == tokens for atoms, tokens in seen.items())
    assert all(p.total_num_tokens == len(p.token_y) for p in found)


def test_parts_of_a_random_node_loader():
    data = graph(12, 5)
    said, atoms = described(data), []
    for part in RandomNodeLoader(data, num_parts=3, shuffle=True):
        kept = part.z.tolist()
        assert described(part) == expected(said, kept) and part.validate()
        assert described(part.drop_empty_tokens()) == without_empty(
            expected(said, kept)
        )
        atoms += kept
    assert sorted(atoms) == said["atoms"]


def test_what_neighbor_loaders_filter():
    data = graph(12, 12)
    for key in ("pair_attr", "radius_edge_index", "radius_distance", "atom_name"):
        del data[key]
    node, edge = torch.tensor([3, 1, 8]), torch.tensor([0, 5])
    row, col = torch.tensor([0, 1]), torch.tensor([2, 0])
    part = filter_data(data, node, row, col, edge)
    assert part.validate() and type(part) is AtomTokenData
    assert torch.equal(part.atom_to_token, data.atom_to_token[node])
    assert torch.equal(part.token_y, data.token_y) and part.num_tokens == 12
    data = graph(12, 12)
    del data.atom_name
    with pytest.raises(ValueError, match="subgraph"):
        filter_data(data, node, row, col, edge)


def test_no_token_is_dropped_without_tokens():
    with pytest.raises(ValueError, match="'atom_to_token' is missing"):
        AtomTokenData(x=torch.ones(2, 1)).drop_empty_tokens()


def test_graphs_without_tokens_are_as_data():
    edges = torch.tensor([[0, 1, 3], [1, 0, 3]])
    names = {"x": torch.arange(4.0), "edge_index": edges, "y": torch.ones(1)}
    own, plain = AtomTokenData(**names), Data(**names)
    subset = torch.tensor([1, 0])
    batches = [Batch.from_data_list([g, g]) for g in (own, plain)]
    cases = [
        (own.subgraph(subset), plain.subgraph(subset)),
        (own.subgraph(subset[:0]), plain.subgraph(subset[:0])),
        (AtomTokenData(), Data()),
    ]
    if hasattr(plain, "connected_components"):
        components = [g.connected_components() for g in (own, plain)]
        cases += zip(*components, strict=True)
    for one, other in cases:
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one.keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # empty graphs have no number of nodes
            assert one.num_nodes == other.num_nodes
            assert one.validate(False) == other.validate(False)
    mask = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1]).bool()
    part, other = (batch.subgraph(mask) for batch in batches)
    assert torch.equal(part.edge_index, other.edge_index)
    # PyG keeps the old graphs' sizes; here the batch comes apart.
    for one, i in zip(part.to_data_list(), (0, 1), strict=True):
        alone = own.subgraph(mask[4 * i : 4 * i + 4])
        assert torch.equal(one.edge_index, alone.edge_index)
        assert torch.equal(one.x, alone.x)


def test_num_nodes_of_parts_where_it_is_told():
    data = [copy.copy(graph(5, 2)), copy.copy(graph(6, 3, 10))]
    for one in data:
        one.num_nodes = one.z.numel()
    part = Batch.from_data_list(data).subgraph(torch.arange(11) % 2 == 0)
    assert part.num_nodes == 6 and [g.num_nodes for g in part.to_data_list()] == [3, 3]
