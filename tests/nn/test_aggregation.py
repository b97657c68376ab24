"""The encoder where PyG has an `Aggregation`."""

import copy
import pickle

import pytest
import torch
import torch_geometric
from oracle import BY_BACKEND, encode_loop, partitions
from torch._dynamo.testing import CompileCounter
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex, Index
from torch_geometric.nn import (
    GINConv,
    GraphConv,
    HeteroConv,
    SAGEConv,
    SimpleConv,
    to_hetero,
    to_hetero_with_bases,
)
from torch_geometric.nn.aggr import Aggregation, MultiAggregation
from torch_geometric.nn.resolver import aggregation_resolver
from torch_geometric.typing import WITH_TORCH_SPARSE
from torch_geometric.utils import to_torch_csc_tensor, to_torch_csr_tensor

from pyg_atomenc import AtomAttentionEncoder, TokenLayout

PARTITIONS = partitions()
# Sixteen of 24 possible edges, in no order; nothing points to the last node.
EDGES = torch.tensor(
    [
        [3, 0, 5, 2, 2, 1, 4, 0, 5, 3, 1, 0, 4, 2, 5, 3],
        [0, 2, 2, 3, 0, 1, 1, 4, 0, 2, 3, 3, 4, 1, 1, 1],
    ]
)


class Same(torch.nn.Module):
    """Hands on what it gets, as a layer without an own way to count nodes."""

    def forward(self, x):
        return x


def make(**options):
    return AtomAttentionEncoder(6, 3, 2, **options).double()


def aggregated(encoder, x, edges):
    """Node by node: the messages of its incoming edges as one token."""
    out = torch.zeros(len(x), 6, dtype=torch.float64)
    for node in range(len(x)):
        messages = x[edges[0][edges[1] == node]]
        tokens = encode_loop(encoder, messages, torch.zeros(len(messages)).long(), 1)
        out[node] = torch.from_numpy(tokens[0])[0]
    return out * (edges[1].bincount(minlength=len(x))[:, None] > 0)


def graphs(edges, num_nodes):
    """The same edges in every form that message passing takes."""
    order = edges[1].argsort(stable=True)
    size = (num_nodes, num_nodes)
    forms = {
        "unsorted": edges,
        "sorted": edges[:, order],
        "EdgeIndex": EdgeIndex(edges, sparse_size=size),
        "EdgeIndex by column": EdgeIndex(
            edges[:, order], sparse_size=size, sort_order="col"
        ),
        "csr": to_torch_csr_tensor(edges.flip(0), size=size),
        "csc of the transposed": to_torch_csc_tensor(edges, size=size).t(),
    }
    if WITH_TORCH_SPARSE:
        from torch_sparse import SparseTensor

        forms["SparseTensor"] = SparseTensor.from_edge_index(
            edges.flip(0), sparse_sizes=size
        )
    return forms


CONVS = {
    "SimpleConv": lambda aggr: SimpleConv(aggr=aggr),
    "SAGEConv": lambda aggr: SAGEConv(6, 6, aggr=aggr, bias=False, root_weight=False),
    "GINConv": lambda aggr: GINConv(Same(), eps=-1.0, aggr=aggr),
    "GraphConv": lambda aggr: GraphConv(6, 6, aggr=aggr, bias=False),
}


@pytest.mark.parametrize("form", graphs(EDGES, 6))
@pytest.mark.parametrize("name", CONVS)
def test_aggregates_the_messages_of_any_convolution(name, form):
    encoder = make()
    conv = CONVS[name](encoder).double()
    x = torch.randn(6, 6, dtype=torch.float64)
    for part in ("lin_l", "lin_rel"):
        if hasattr(conv, part):
            torch.nn.init.eye_(getattr(conv, part).weight)
    if hasattr(conv, "lin_root"):
        torch.nn.init.zeros_(conv.lin_root.weight)
    expected = aggregated(encoder, x, EDGES)
    torch.testing.assert_close(conv(x, graphs(EDGES, 6)[form]), expected)
    conv.reset_parameters()
    assert conv.aggr == str(encoder) and conv.aggr_module is encoder


def test_is_one_and_resolves_to_itself():
    encoder = make()
    assert isinstance(encoder, Aggregation)
    assert aggregation_resolver(encoder) is encoder
    assert str(encoder) == "AtomAttentionEncoder(6, 3, heads=2)"


@BY_BACKEND
def test_reads_out_graphs(backend):
    encoder = make(backend=backend)
    index, num_graphs = PARTITIONS["sorted"]
    x = torch.randn(len(index), 6, dtype=torch.float64)
    expected = torch.from_numpy(encode_loop(encoder, x, index, num_graphs)[0])
    torch.testing.assert_close(encoder(x, index), expected)
    torch.testing.assert_close(encoder(x, Index(index)), expected)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        torch.testing.assert_close(encoder(x, index.to(dtype)), expected)
    longer = encoder(x, index, dim_size=num_graphs + 3, dim=0)
    torch.testing.assert_close(longer[:num_graphs], expected)
    assert (longer[num_graphs:] == 0).all()


def test_all_atoms_are_one_token_where_none_is_told():
    encoder = make()
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(encoder(x), encoder(x, torch.zeros(5).long()))
    assert encoder(x[:0]).shape == (0, 6)
    assert encoder(x[:0], dim_size=2).shape == (2, 6)


def test_index_and_pointers_may_come_together():
    encoder = make()
    index, num_tokens = PARTITIONS["sorted"]
    x = torch.randn(len(index), 6, dtype=torch.float64)
    ptr = TokenLayout.from_index(index, num_tokens).ptr
    expected = encoder(x, index)
    torch.testing.assert_close(encoder(x, index, ptr, num_tokens, -2), expected)
    with pytest.raises(ValueError, match="'index' and 'ptr' are both there and tell"):
        encoder(x, index.flip(0), ptr)
    with pytest.raises(ValueError, match="'dim_size' is 9: choose one of None, 5"):
        encoder(x, index, ptr, 9)


def test_errors_inside_keep_their_message():
    encoder = make()
    encoder.lin_key.register_forward_pre_hook(lambda *_: [][1])
    with pytest.raises(IndexError, match="list index out of range"):
        encoder(torch.randn(3, 6).double(), torch.tensor([0, 0, 1]), dim_size=2)


def test_a_static_graph_is_refused_as_by_other_attention():
    conv = SimpleConv(aggr=make())
    with pytest.raises(ValueError, match=r"'x' needs the shape .*found: \[2, 16, 6\]"):
        conv(torch.randn(2, 6, 6).double(), EDGES)


WIDE = {"in_channels": 6, "out_channels": 4}
MODES = {
    "cat": ({}, 18),
    "proj": (WIDE, 4),
    "attn": ({**WIDE, "num_heads": 2}, 4),
    **dict.fromkeys(["sum", "mean", "max", "min", "logsumexp", "std", "var"], ({}, 6)),
}


@pytest.mark.parametrize("mode", MODES)
def test_among_several(mode):
    options, width = MODES[mode]
    encoder = make()
    several = MultiAggregation(
        ["mean", encoder, "max"], mode=mode, mode_kwargs=options
    ).double()
    index, num_tokens = PARTITIONS["shuffled"]
    x = torch.randn(len(index), 6, dtype=torch.float64)
    out = several(x, index, dim_size=num_tokens)
    assert out.shape == (num_tokens, width)
    if mode == "cat":
        torch.testing.assert_close(out[:, 6:12], encoder(x, index, dim_size=num_tokens))
    several.reset_parameters()
    conv = SAGEConv(6, 5, aggr=several).double() if mode in ("cat", "proj") else None
    assert conv is None or conv(x[:6], EDGES).shape == (6, 5)


def test_lazy_channels_of_messages():
    conv = SAGEConv((-1, -1), 5, aggr=AtomAttentionEncoder(-1, 3, 2))
    copy.deepcopy(conv)
    x = torch.randn(6, 6)
    expected = conv(x, EDGES)
    assert conv.aggr_module.lin_query.weight.shape == (6, 6)
    again = SAGEConv((-1, -1), 5, aggr=AtomAttentionEncoder(-1, 3, 2))
    again.load_state_dict(conv.state_dict())
    for same in (again, copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(same(x, EDGES), expected)


class OneLayer(torch.nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, edge_index):
        return self.conv(x, edge_index)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = SAGEConv((6, 6), 6, aggr=AtomAttentionEncoder(6, 3, 2))
        self.pool = AtomAttentionEncoder(6, 2, 2)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x, edge_index, batch):
        x = self.pool(self.conv(x, edge_index).relu(), batch, dim_size=2)
        return self.head(x)


def test_a_model_becomes_heterogeneous():
    metadata = ["a", "b"], [("a", "to", "b"), ("b", "to", "a"), ("b", "to", "b")]
    x = {"a": torch.randn(6, 6), "b": torch.randn(6, 6)}
    edges = dict.fromkeys(metadata[1], EDGES)
    batch = dict.fromkeys(metadata[0], torch.tensor([0, 0, 0, 1, 1, 1]))
    model = to_hetero(Model(), metadata)
    out = model(x, edges, batch)
    pools = [model.pool[key] for key in metadata[0]]
    assert out.shape == (2, 3) and pools[0] is not pools[1]
    out.sum().backward()
    assert all(p.grad is not None for p in model.pool.parameters())


def test_bases_take_its_messages():
    metadata = ["a", "b"], [("a", "to", "b"), ("b", "to", "a")]
    conv = SAGEConv((6, 6), 6, aggr=AtomAttentionEncoder(6, 3, 2))
    model = to_hetero_with_bases(OneLayer(conv), metadata, num_bases=2)
    x = {"a": torch.randn(6, 6), "b": torch.randn(6, 6)}
    assert model(x, dict.fromkeys(metadata[1], EDGES))["b"].shape == (6, 6)


def test_hetero_convolution():
    edge = ("a", "to", "a")
    conv = HeteroConv({edge: SAGEConv(6, 4, aggr=AtomAttentionEncoder(6, 3, 2))})
    assert conv({"a": torch.randn(6, 6)}, {edge: EDGES})["a"].shape == (6, 4)


def test_traced_models_call_it_whole():
    class Pool(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = AtomAttentionEncoder(6, 3, 2)

        def forward(self, x, batch):
            return self.pool(x, batch, dim_size=2)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, AtomAttentionEncoder)

    model = Pool()
    graph = torch.fx.GraphModule(model, Tracer().trace(model))
    x, batch = torch.randn(5, 6), torch.tensor([1, 0, 0, 1, 1])
    assert torch.equal(graph(x, batch), model(x, batch))


def draw(number):
    """Ten atoms more every time, in one token more; no two sizes are the same."""
    count, num_tokens = 40 + 10 * number, 8 + number
    index = torch.randint(num_tokens, (count,))
    return torch.randn(count, 6), index, num_tokens


def by_layout(x, index, num_tokens):
    return x, TokenLayout.from_index(index, num_tokens)


def by_pointers(x, index, num_tokens):
    index = index.sort().values
    return x, index, TokenLayout.from_index(index, num_tokens).ptr, num_tokens


WAYS = {
    "index": lambda x, index, _: (x, index),
    "index and count": lambda x, index, num_tokens: (x, index, None, num_tokens),
    "layout": by_layout,
    "index and pointers": by_pointers,
    "pointers": lambda *drawn: (drawn[0], None, by_pointers(*drawn)[2]),
    "nothing": lambda x, *_: (x,),
}


# Before, a graph that reads a number back is broken in two.
TORCH_READS = torch.__version__ >= torch.torch_version.TorchVersion("2.7")


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize(
    "way", WAYS if TORCH_READS else [w for w in WAYS if w != "index"]
)
def test_ten_batches_are_one_compilation(way, reduce):
    encoder, counter = AtomAttentionEncoder(6, 3, 2, reduce=reduce), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend=counter)
    for number in range(10):
        args = WAYS[way](*draw(number))
        torch.testing.assert_close(compiled(*args), encoder(*args))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ["alone", "among several"])
def test_ten_graphs_are_one_compilation(name):
    encoder, counter = AtomAttentionEncoder(6, 3, 2), CompileCounter()
    if name == "among several" and not TORCH_READS:
        pytest.skip("of MultiAggregation alone torch makes no whole graph either")
    aggr = encoder if name == "alone" else MultiAggregation(["mean", encoder])
    conv = SAGEConv(6, 5, aggr=aggr)
    torch._dynamo.reset()
    compiled = torch.compile(conv, fullgraph=True, dynamic=True, backend=counter)
    for number in range(10):
        x, *_ = draw(number)
        edges = torch.randint(len(x), (2, 2 * len(x) + number))
        torch.testing.assert_close(compiled(x, edges), conv(x, edges))
    assert counter.frame_count == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_export_serves_other_batches(way):
    encoder = AtomAttentionEncoder(6, 3, 2, reduce="sum")
    # The number of tokens would be a constant.
    wanted = "index" if way == "index and count" else way
    args = [a for a in WAYS[wanted](*draw(0)) if not isinstance(a, int)]
    shapes = torch.export.ShapesCollection()
    for tensor in pytree.tree_leaves(args):
        if tensor is not None:
            shapes[tensor] = {0: torch.export.Dim.AUTO}
    program = torch.export.export(encoder, tuple(args), dynamic_shapes=shapes)
    for number in (3, 7):
        args = [a for a in WAYS[wanted](*draw(number)) if not isinstance(a, int)]
        torch.testing.assert_close(program.module()(*args), encoder(*args))


def test_an_export_of_a_convolution_serves_other_graphs():
    conv = SAGEConv(6, 5, aggr=AtomAttentionEncoder(6, 3, 2))
    shapes = ({0: torch.export.Dim("nodes")}, {1: torch.export.Dim("edges")})
    args = draw(0)[0], torch.randint(40, (2, 90))
    program = torch.export.export(conv, args, dynamic_shapes=shapes)
    x, edges = draw(4)[0], torch.randint(80, (2, 177))
    torch.testing.assert_close(program.module()(x, edges), conv(x, edges))


def test_without_a_layout_the_largest_token_is_read_once():
    """PyG's own call would read it, too."""
    encoder, index = make(), torch.tensor([0, 0, 1])
    seen = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Record():
        encoder(torch.randn(3, 6).double(), index)
    assert torch.ops.aten.max.default not in seen


def test_dynamic_shapes_may_be_disabled():
    encoder, x = make(), torch.randn(3, 6).double()
    with torch_geometric.experimental_mode("disable_dynamic_shapes"):
        encoder(x, torch.tensor([0, 0, 1]), dim_size=2)
