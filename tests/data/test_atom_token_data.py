import copy
import pickle

import pytest
import torch
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData


def graph(num_atoms, num_tokens, seed, empty_at_end=0):
    """A random graph; its last ``empty_at_end`` tokens have no atoms."""
    generator = torch.Generator().manual_seed(seed)
    filled = max(num_tokens - empty_at_end, 0)
    index = torch.randint(0, max(filled, 1), (num_atoms,), generator=generator)
    return AtomTokenData(
        x=torch.randn(num_atoms, 6, generator=generator),
        edge_index=torch.randint(0, max(num_atoms, 1), (2, 2 * num_atoms)),
        atom_to_token=index,
        num_tokens=num_tokens,
        token_x=torch.randn(num_tokens, 2, generator=generator),
        token_edge_index=torch.randint(0, max(num_tokens, 1), (2, num_tokens)),
        token_index=torch.arange(num_tokens),
    )


GRAPHS = [
    graph(5, 3, 0),
    graph(1, 1, 1),
    graph(7, 7, 2),  # as many tokens as atoms
    graph(4, 6, 3, empty_at_end=3),
    graph(0, 2, 4),
    graph(30, 4, 5),
]


def test_batching_shifts_what_points_at_tokens():
    batch = Batch.from_data_list(GRAPHS)
    atoms, tokens = 0, 0
    for i, data in enumerate(GRAPHS):
        n, t = data.num_nodes, data.num_tokens
        here = slice(atoms, atoms + n)
        assert torch.equal(batch.atom_to_token[here], data.atom_to_token + tokens)
        assert (batch.batch[here] == i).all()
        assert torch.equal(batch.token_x[tokens : tokens + t], data.token_x)
        assert torch.equal(batch.token_index[tokens : tokens + t], data.token_index)
        assert torch.equal(
            batch.token_edge_index[:, tokens : tokens + t],
            data.token_edge_index + tokens,
        )
        assert (batch.token_batch[tokens : tokens + t] == i).all()
        atoms, tokens = atoms + n, tokens + t
    assert batch.num_nodes == atoms
    assert batch.total_num_tokens == tokens == len(batch.token_batch)
    assert batch.validate()


# Of processes started by spawn, a test of the AtomTokenLoader stands for both.
SPAWN = pytest.param("spawn", marks=pytest.mark.slow)


@pytest.mark.parametrize("start", [None, "fork", SPAWN])
def test_batched_output_equals_per_graph_output_through_workers(start):
    encoder = AtomAttentionEncoder(6, 4, 2)
    expected = torch.cat([encoder(g.x, g.token_layout()) for g in GRAPHS])
    workers = (
        {} if start is None else {"num_workers": 1, "multiprocessing_context": start}
    )
    batches = list(DataLoader(GRAPHS, batch_size=4, **workers))
    found = [
        encoder(b.x, b.atom_to_token, dim_size=b.total_num_tokens) for b in batches
    ]
    torch.testing.assert_close(torch.cat(found), expected)
    found = [encoder(b.x, b.token_layout(), batch=b.batch) for b in batches]
    torch.testing.assert_close(torch.cat(found), expected)


def test_round_trip_and_batching_again():
    batch = Batch.from_data_list(GRAPHS)
    again = batch.to_data_list()
    for data, same in zip(GRAPHS, again, strict=True):
        assert torch.equal(same.atom_to_token, data.atom_to_token)
        assert int(same.num_tokens) == data.num_tokens
        assert same.total_num_tokens == data.num_tokens
    second = Batch.from_data_list(again)
    assert torch.equal(second.atom_to_token, batch.atom_to_token)
    assert torch.equal(second.token_batch, batch.token_batch)


def test_stored_token_batch_is_shifted_by_graphs():
    graphs = [copy.copy(g) for g in GRAPHS]
    for data in graphs:
        data.token_batch = torch.zeros(data.num_tokens, dtype=torch.long)
    batch = Batch.from_data_list(graphs)
    assert torch.equal(batch.token_batch, Batch.from_data_list(GRAPHS).token_batch)


def test_masking_leaves_token_attributes_alone():
    data = GRAPHS[2]
    kept = torch.tensor([1, 0, 1, 1, 0, 0, 1]).bool()
    part = data.subgraph(kept)
    assert torch.equal(part.atom_to_token, data.atom_to_token[kept])
    assert part.token_x.shape == (7, 2) and part.num_tokens == 7
    assert not data.is_node_attr("token_x") and not data.is_edge_attr("token_x")
    assert data.is_node_attr("atom_to_token") and data.is_node_attr("x")
    assert part.validate()


def test_the_number_of_atoms_without_x_or_pos():
    data = AtomTokenData(z=torch.ones(3).long(), atom_to_token=torch.tensor([0, 0, 1]))
    assert data.num_nodes == 3 and data.num_tokens == 2
    batch = Batch.from_data_list([data, data])
    assert batch.num_nodes == 6 and batch.batch.tolist() == [0, 0, 0, 1, 1, 1]
    data.num_nodes = 3
    assert data.num_nodes == 3


def test_copies_moves_and_pickles():
    data = GRAPHS[0]
    for same in (
        copy.copy(data),
        copy.deepcopy(data),
        pickle.loads(pickle.dumps(data)),
        data.clone(),
        data.to("cpu"),
    ):
        assert type(same) is AtomTokenData
        assert not same.is_node_attr("num_tokens")
        assert torch.equal(same.atom_to_token, data.atom_to_token)
        assert Batch.from_data_list([same, same]).total_num_tokens == 6


def test_graphs_out_of_an_in_memory_dataset_batch_right():
    data, slices = InMemoryDataset.collate(GRAPHS)
    dataset = InMemoryDataset()
    dataset.data, dataset.slices = data, slices
    dataset._data_list = None
    batch = Batch.from_data_list([dataset.get(i) for i in range(len(GRAPHS))])
    assert torch.equal(batch.atom_to_token, Batch.from_data_list(GRAPHS).atom_to_token)


def test_a_batch_of_plain_data_is_found_out():
    plain = [Data(x=g.x, atom_to_token=g.atom_to_token) for g in GRAPHS[:2]]
    batch = Batch.from_data_list(plain)
    encoder = AtomAttentionEncoder(6)
    with pytest.raises(ValueError, match=r"graphs 0 and 1.*AtomTokenData"):
        encoder(batch.x, batch.atom_to_token, batch=batch.batch)


def test_token_layout_is_that_of_the_assignment():
    batch = Batch.from_data_list(GRAPHS)
    layout = batch.token_layout()
    assert layout.num_tokens == batch.total_num_tokens
    assert torch.equal(layout.atom_to_token, batch.atom_to_token)


def broken(**changes):
    data = copy.copy(GRAPHS[0])
    for key, value in changes.items():
        setattr(data, key, value)
    return data


@pytest.mark.parametrize(
    "data, message",
    [
        (broken(atom_to_token=torch.tensor([0, 1, 2, 3, 0])), "num_tokens >= 4"),
        (broken(atom_to_token=torch.tensor([0, 1, 2, -1, 0])), "negative token id -1"),
        (
            broken(atom_to_token=torch.tensor([0, 1])),
            "'atom_to_token' has 2 rows for 5 atoms",
        ),
        (broken(pos=torch.zeros(4, 3)), "'pos' has 4 rows for 5 atoms"),
        (broken(token_x=torch.zeros(2, 2)), "'token_x' has 2 rows for 3 tokens"),
        (broken(edge_index=torch.tensor([[0], [9]])), "'edge_index' contains larger"),
        (
            AtomTokenData(x=torch.zeros(2, 1), token_y=torch.zeros(1)),
            "'atom_to_token' is missing",
        ),
    ],
)
def test_validate(data, message):
    with pytest.raises(ValueError, match=message):
        data.validate()
    assert data.validate(raise_on_error=False) is False


def test_bad_construction():
    with pytest.raises(ValueError, match="num_tokens >= 3"):
        AtomTokenData(atom_to_token=torch.tensor([0, 2]), num_tokens=2)
    data = AtomTokenData(x=torch.zeros(2, 1))
    data.atom_to_token = torch.tensor([0, 1])
    del data.num_tokens
    with pytest.raises(ValueError, match="'num_tokens' is missing"):
        Batch.from_data_list([data, data])
    with pytest.raises(ValueError, match="'num_tokens' is missing"):
        data.token_layout()


@pytest.mark.parametrize("item", [False, True])
def test_num_tokens_follow_from_an_assignment_that_is_set(item):
    index = torch.tensor([0, 2, 0], dtype=torch.int32)
    made, data = AtomTokenData(atom_to_token=index), AtomTokenData(x=torch.ones(3, 1))
    if item:
        data["atom_to_token"] = index
    else:
        data.atom_to_token = index
    assert data.num_tokens == made.num_tokens == 3 and data.validate()
    batch = Batch.from_data_list([data, data])
    assert batch.atom_to_token.tolist() == [0, 2, 0, 3, 5, 3] and batch.validate()
    data.atom_to_token = index.flip(0) + 1
    assert data.num_tokens == 3
    with pytest.raises(ValueError, match="negative token id -1"):
        AtomTokenData(x=torch.ones(3, 1)).atom_to_token = index - 1
    # A batch has as many numbers as graphs, which no index tells.
    batch = Batch.from_data_list([data, data], exclude_keys=["num_tokens"])
    assert "num_tokens" not in batch and batch[1].num_tokens == 4


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_batch_whose_ids_were_set_anew_is_found_out(as_dict):
    graphs = [AtomTokenData(atom_to_token=torch.arange(n)) for n in (2, 3, 1)]
    batch = Batch.from_data_list(graphs)
    if as_dict:
        batch = AtomTokenData.from_dict(batch.to_dict())
    assert batch.validate()
    batch.atom_to_token = torch.tensor([0, 0, 1, 1, 1, 2])
    with pytest.raises(ValueError, match="'num_tokens' puts the token of atom 2 into"):
        batch.validate()
    with pytest.raises(ValueError, match="'num_tokens' puts"):
        batch.drop_empty_tokens()
    batch.num_tokens = torch.ones(3).long()
    assert batch.validate()
    batch.token_batch = torch.tensor([0, 0, 2])
    with pytest.raises(ValueError, match="'token_batch' puts the token of atom 2"):
        batch.validate()


def test_what_follows_names_of_tokens_is_valid():
    data = AtomTokenData(x=torch.ones(3, 1), atom_to_token=torch.tensor([0, 1, 1]))
    data.token_name, data.token_y = ["A", "B"], torch.ones(2)
    follow = ["token_name", "token_y", "num_tokens", "atom_to_token"]
    (batch,) = DataLoader([data] * 3, batch_size=3, follow_batch=follow)
    assert batch.validate() and batch.token_name_batch.tolist() == [0, 1, 2]
    batch.token_y_batch = batch.token_y_batch[1:]
    with pytest.raises(ValueError, match="'token_y_batch' has 5 rows for 6 tokens"):
        batch.validate()


@pytest.mark.parametrize("value", [5, 0.5, True, torch.tensor(5)])
def test_one_value_for_all_tokens_is_refused_when_it_is_set(value):
    with pytest.raises(ValueError, match="'token_level' .* one row for each token"):
        AtomTokenData(token_level=value)
    with pytest.raises(ValueError, match="'token_level' .* another name"):
        AtomTokenData().token_level = value


def edges_and_pairs(data):
    """Every pair and edge by distance with its row, named by the atoms' ids."""
    name = data.x.flatten().tolist()
    found = {}
    for kind, edges, rows in (
        ("pair", data.token_layout().to_edge_index(), data.pair_attr),
        ("radius", data.radius_edge_index, data.radius_distance),
    ):
        for (a, b), row in zip(edges.t().tolist(), rows.tolist(), strict=True):
            found[kind, name[a], name[b]] = row
    return found


@pytest.mark.parametrize("as_mask", [True, False])
def test_a_subgraph_keeps_the_pairs_and_edges_between_its_atoms(as_mask):
    data = AtomTokenData(
        x=torch.arange(10.0).view(-1, 1),
        edge_index=torch.empty((2, 0), dtype=torch.long),
        atom_to_token=torch.tensor([2, 0, 0, 2, 2, 1, 0, 1, 2, 0]),
        num_tokens=4,
        radius_edge_index=torch.randint(0, 10, (2, 30)).unique(dim=1),
    )
    data.radius_distance = torch.rand(data.radius_edge_index.size(1))
    data.pair_attr = torch.rand(data.token_layout().num_pairs)
    subset = torch.tensor([7, 2, 9, 0, 4, 6])
    kept = set(subset.tolist())
    if as_mask:
        subset = torch.zeros(10, dtype=torch.bool).index_fill(0, subset, True)
    part = data.subgraph(subset)
    part.validate()
    expected = {
        key: row
        for key, row in edges_and_pairs(data).items()
        if {int(key[1]), int(key[2])} <= kept
    }
    assert edges_and_pairs(part) == expected and len(expected) > 12


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("token_edge_index", torch.tensor([[0], [3]]), r"values from 0 to 3"),
        ("radius_edge_index", torch.tensor([[0], [4]]), r"lie in \[0, 4\)"),
        ("pair_attr", torch.ones(7, 2), "7 rows for 8 pairs of atoms in tokens"),
    ],
)
def test_edges_and_pairs_that_do_not_fit(name, value, message):
    data = AtomTokenData(
        x=torch.ones(4, 1), atom_to_token=torch.tensor([0, 0, 2, 2]), num_tokens=3
    )
    data[name] = value
    with pytest.raises(ValueError, match=message):
        data.validate()
    data = AtomTokenData(x=torch.ones(2, 1), atom_to_token=torch.tensor([0, 1]))
    data.token_edge_index = torch.tensor([[0], [1]])
    data.token_edge_attr = torch.ones(2, 1)
    with pytest.raises(ValueError, match="2 rows for 1 edges in 'token_edge_index'"):
        data.validate()
