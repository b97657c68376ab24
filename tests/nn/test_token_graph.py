import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, global_mean_pool

from pyg_atomenc import AtomTokenData, token_graph
from pyg_atomenc.data import AtomTokenLoader


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
    expected = [[1.5, 2.5, 3.5], [6, 7, 8], [10.5, 11.5, 12.5]]
    assert graph.pos[:3].tolist() == expected and graph.pos[3].isnan().all()
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
    torch.testing.assert_close(graph.pos, together.pos, equal_nan=True)
    out = GCNConv(2, 4)(graph.x, graph.edge_index)
    assert global_mean_pool(out, graph.batch, size=graph.num_graphs).shape == (3, 4)


def test_positions_are_the_mean_of_those_that_are_known():
    data = chain()
    data.pos[0], data.pos[2] = torch.nan, torch.inf
    data.pos.requires_grad_()
    graph = token_graph(data, torch.zeros(4, 1))
    assert graph.pos[[0, 2]].tolist() == [[3, 4, 5], [10.5, 11.5, 12.5]]
    assert graph.pos[[1, 3]].isnan().all()
    graph.pos[[0, 2]].sum().backward()
    assert data.pos.grad.sum(1).tolist() == [0, 3, 0, 1.5, 1.5]


def reduced(data, reduce, self_loops):
    """A loop over the bonds: pair of tokens → their reduced features."""
    found = {}
    token = data.atom_to_token.tolist()
    for (a, b), row in zip(data.edge_index.t().tolist(), data.edge_attr, strict=True):
        if self_loops or token[a] != token[b]:
            found.setdefault((token[a], token[b]), []).append(row)
    torch_reduce = getattr(torch, {"max": "amax", "min": "amin"}.get(reduce, reduce))
    if data.edge_attr.dtype == torch.bool and reduce in ("max", "min"):
        torch_reduce = {"max": torch.any, "min": torch.all}[reduce]
    if reduce == "mean" and not data.edge_attr.is_floating_point():
        found = {key: [row.float() for row in rows] for key, rows in found.items()}
    return {key: torch_reduce(torch.stack(rows), 0) for key, rows in found.items()}


@pytest.mark.parametrize("reduce", ["mean", "sum", "max", "min"])
@pytest.mark.parametrize("self_loops", [False, True])
def test_features_of_bonds_are_reduced(reduce, self_loops):
    for dtype in (torch.float, torch.double, torch.half, torch.long, torch.uint8, bool):
        for shape in ((60,), (60, 3), (60, 2, 2)):
            dtype = torch.bool if dtype is bool else dtype
            data = AtomTokenData(
                edge_index=torch.randint(0, 12, (2, 60)),
                edge_attr=(3 * torch.randn(shape)).to(dtype),
                atom_to_token=torch.randint(0, 4, (12,)),
                num_tokens=5,
            )
            options = dict(edge_reduce=reduce, self_loops=self_loops)
            graph = token_graph(data, torch.zeros(5, 1), **options)
            wanted = reduced(data, reduce, self_loops)
            keys = list(map(tuple, graph.edge_index.t().tolist()))
            assert keys == sorted(wanted)
            rows = torch.stack([wanted[key] for key in keys])
            tolerance = dict(rtol=2e-3, atol=2e-3) if dtype == torch.half else {}
            torch.testing.assert_close(graph.edge_attr, rows, **tolerance)


def test_sums_of_many_half_precision_features():
    many = AtomTokenData(
        edge_index=torch.tensor([[0], [1]]).repeat(1, 4000),
        edge_attr=torch.full((4000,), 0.1, dtype=torch.half),
        atom_to_token=torch.tensor([0, 1]),
    )
    attr = token_graph(many, torch.zeros(2, 1), edge_reduce="sum").edge_attr
    assert attr.dtype == torch.half and abs(float(attr) - 400) < 1


def test_gradients_reach_the_features_of_bonds():
    data = chain()
    attr = torch.randn(8, 2, dtype=torch.double, requires_grad=True)

    def of(attr, reduce):
        data.edge_attr = attr
        return token_graph(data, torch.zeros(4, 1), edge_reduce=reduce).edge_attr

    for reduce in ("mean", "sum", "max", "min"):
        assert torch.autograd.gradcheck(of, (attr, reduce))
        assert torch.autograd.gradgradcheck(of, (attr, reduce))


def labelled(seed, num_tokens):
    """A graph with all that goes along, and much that does not."""
    data = chain(num_tokens)
    data.edge_attr = torch.randn(8, 3)
    data.y, data.token_y = torch.randn(1, 2), torch.randn(num_tokens, 2)
    data.token_name = [f"{seed}.{i}" for i in range(num_tokens)]
    data.atom_name, data.z = list("abcde"), torch.arange(5)
    data.mass, data.name, data.energy = torch.rand(5), f"graph {seed}", float(seed)
    data.notes, data.order = ["one", "two", "three"], torch.rand(8)
    data.meta = {"cell": torch.eye(3), "author": "me"}
    data.scalar, data.tags = torch.tensor(seed), list("vwxyz")
    data.radius_edge_index, data.radius_distance = data.edge_index, torch.rand(8)
    data.pair_attr = torch.rand(9, 2)
    return data


CARRIED = {"y", "token_y", "token_name", "name", "energy", "notes", "meta", "scalar"}


def assert_same_graph(one, other):
    assert type(one) is type(other)
    assert set(one.keys()) == set(other.keys())
    for key in one.keys():  # noqa: SIM118
        value = one[key]
        if isinstance(value, dict):
            torch.testing.assert_close(value["cell"], other[key]["cell"])
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], equal_nan=True, msg=key)
        else:
            assert value == other[key], key


def single(data, features):
    graph = token_graph(data, features)
    # Numbers and bare tensors become vectors of one element when PyG batches them.
    graph.energy = torch.tensor([graph.energy])
    graph.scalar = graph.scalar.view(1)
    return graph


def test_what_goes_along():
    graph = token_graph(labelled(1, 4), torch.randn(4, 2))
    own = {"x", "edge_index", "edge_attr", "pos", "batch", "num_nodes"}
    assert set(graph.keys()) == own | CARRIED
    assert graph.y.shape == (1, 2) and graph.token_y.shape == (4, 2)
    assert graph.token_name == ["1.0", "1.1", "1.2", "1.3"] and graph.validate()


def test_each_graph_of_a_batch_is_the_token_graph_of_the_graph():
    graphs = [labelled(i, n) for i, n in enumerate((4, 3, 6))]
    (batch,) = AtomTokenLoader(graphs, batch_size=3, follow_batch=["token_y", "x"])
    x = torch.randn(13, 2)
    wanted = list(map(single, graphs, x.split((4, 3, 6))))
    graph = token_graph(batch, x)
    assert isinstance(graph, Batch) and graph.num_graphs == len(graph) == 3
    assert set(graph.keys()) == set(wanted[0].keys()) | {"ptr"}
    for found in (graph.to_data_list(), graph.to("cpu").to_data_list(), graph[0:3]):
        list(map(assert_same_graph, found, wanted))
    assert_same_graph(graph[2], wanted[2])
    assert_same_graph(graph.clone()[1], wanted[1])
    assert graph.clone().to("meta").num_graphs == 3 and graph.validate()
    together = Batch.from_data_list(wanted)
    assert_same_graph(graph, together.update({"num_nodes": 13}))
    # Batches of batches, and a Batch that PyG separates anew.
    again = Batch.from_data_list(graph.to_data_list())
    list(map(assert_same_graph, again.to_data_list(), wanted))


def test_a_batch_of_one_graph():
    data, x = labelled(1, 4), torch.randn(4, 2)
    graph = token_graph(Batch.from_data_list([data]), x)
    assert_same_graph(graph[0], single(data, x))
    assert graph.token_name == [data.token_name]


def test_batches_of_single_atoms_and_of_none():
    one = AtomTokenData(
        z=torch.tensor([11]),
        atom_to_token=torch.tensor([0]),
        y=torch.ones(1),
        token_y=torch.ones(1),
    )
    none = AtomTokenData(
        z=torch.zeros(0).long(),
        atom_to_token=torch.zeros(0).long(),
        num_tokens=0,
        y=torch.ones(1),
        token_y=torch.ones(0),
    )
    for graphs in ([one], [one, one], [none], [one, none, one]):
        batch = Batch.from_data_list(graphs)
        x = torch.randn(batch.total_num_tokens, 2)
        graph = token_graph(batch, x)
        sizes = [data.num_tokens for data in graphs]
        for found, data, part in zip(
            graph.to_data_list(), graphs, x.split(sizes), strict=True
        ):
            assert_same_graph(found, token_graph(data, part))
        assert graph.y.shape == (len(graphs),)


def test_edges_of_tokens_that_a_batch_got_in_another_order():
    data = [labelled(i, n) for i, n in enumerate((4, 4))]
    batch = Batch.from_data_list(data)
    once = torch.tensor([[0, 1, 4, 5], [1, 2, 5, 6]])
    batch.token_edge_index = torch.cat([once, once.flip(0)], 1)
    batch.token_edge_attr = torch.arange(8.0).view(8, 1)
    one, other = token_graph(batch, torch.zeros(8, 1)).to_data_list()
    wanted = [[0, 1, 1, 2], [1, 2, 0, 1]]
    assert one.edge_index.tolist() == other.edge_index.tolist() == wanted
    assert other.edge_attr.flatten().tolist() == [2, 3, 6, 7]


def test_what_was_set_on_a_batch():
    batch = Batch.from_data_list([labelled(i, 4) for i in range(3)])
    batch.token_hidden, batch.weight = torch.randn(12, 3), torch.arange(3)
    graph = token_graph(batch, torch.zeros(12, 1))
    assert graph[1].token_hidden.equal(batch.token_hidden[4:8])
    assert graph[1].weight.tolist() == [1]


def test_readers_graphs_keep_their_names():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    from pyg_atomenc.io import from_smiles

    graphs = [from_smiles(s) for s in ("CC(=O)Oc1ccccc1", "C", "[Na+].[Cl-]")]
    batch = Batch.from_data_list(graphs)
    x = torch.randn(batch.total_num_tokens, 2)
    parts = x.split([data.num_tokens for data in graphs])
    found = token_graph(batch, x).to_data_list()
    list(map(assert_same_graph, found, map(token_graph, graphs, parts)))
    assert found[0].token_name == graphs[0].token_name
    assert token_graph(batch, x).smiles == [data.smiles for data in graphs]


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
    with pytest.raises(ValueError, match="'edge_reduce' is 'prod': choose one of"):
        token_graph(chain(), torch.zeros(4, 2), edge_reduce="prod")
    with pytest.raises(ValueError, match=message):
        token_graph(data, features)
