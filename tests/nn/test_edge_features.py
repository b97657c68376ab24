"""Edges of either flow and their features, by a loop over edges in NumPy."""

import numpy as np
import pytest
import torch
import torch_geometric.transforms as T
from oracle import BACKENDS
from torch.utils import _pytree as pytree
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.explain import AttentionExplainer, Explainer
from torch_geometric.typing import WITH_TORCH_SPARSE
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csr_tensor

from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv, TokenLayout
from pyg_atomenc.attention import EdgeLayout, WindowLayout

FLOWS = ["source_to_target", "target_to_source"]
BY_FLOW = pytest.mark.parametrize("flow", FLOWS)
EDGES = torch.tensor([[0, 1, 4, 2, 2, 4, 4], [0, 0, 1, 3, 1, 3, 1]])
TOKENS = TokenLayout.from_index(torch.tensor([1, 0, 1, 1, 0, 3]), 4)


def make(flow="source_to_target", channels=(5, 3), **options):
    conv = TokenAttentionConv(
        channels, 4, 2, edge_dim=2, bias=True, flow=flow, **options
    )
    for linear in (conv.lin_query, conv.lin_key, conv.lin_value):
        torch.nn.init.normal_(linear.bias)
    return conv.double()


def edge_loop(conv, x, edges, edge_attr):
    """Outputs ``[N, H * d]`` and weights ``[E, H]``, one edge after the other."""
    first, second = x
    receive, send = (1, 0) if conv.flow == "source_to_target" else (0, 1)
    target, source = (second, first) if receive else (first, second)

    def project(linear, x):
        return linear(x).detach().numpy().reshape(-1, 2, 4)

    query, key = project(conv.lin_query, target), project(conv.lin_key, source)
    value = project(conv.lin_value, source)
    bias = edge_attr.numpy() @ conv.lin_edge.weight.detach().numpy().T
    logits = bias + np.array(
        [
            (query[edge[receive]] * key[edge[send]]).sum(-1) / 2
            for edge in edges.T.tolist()
        ]
    ).reshape(-1, 2)
    total, out = np.zeros((len(target), 2)), np.zeros((len(target), 2, 4))
    for edge, logit in zip(edges.T.tolist(), logits, strict=True):
        total[edge[receive]] += np.exp(logit)
    alpha = np.zeros_like(logits)
    for row, edge in enumerate(edges.T.tolist()):
        alpha[row] = np.exp(logits[row]) / total[edge[receive]]
        out[edge[receive]] += alpha[row][:, None] * value[edge[send]]
    return torch.from_numpy(out).flatten(1), torch.from_numpy(alpha)


@pytest.mark.scatter
@BY_FLOW
@pytest.mark.parametrize("give_size", [False, True])
def test_edges_between_two_kinds_of_nodes(flow, give_size):
    conv = make(flow)
    x = torch.randn(5, 5).double(), torch.randn(4, 3).double()
    edge_attr = torch.randn(7, 2).double()
    out, alpha = edge_loop(conv, x, EDGES, edge_attr)
    given = {"size": (5, 4)} if give_size else {}
    found = conv(x, EDGES, edge_attr, return_attention_weights=True, **given)
    torch.testing.assert_close(found, (out, (EDGES, alpha)))
    torch.testing.assert_close(conv(x, EDGES, edge_attr, **given), out)
    counts = (5, 4) if flow == FLOWS[0] else (4, 5)
    edges = EDGES if flow == FLOWS[0] else EDGES.flip(0)
    layout = EdgeLayout.from_edge_index(edges, *counts)
    torch.testing.assert_close(conv(x, layout, edge_attr, **given), out)
    with pytest.raises(ValueError, match="'size' is 4: choose one of None, "):
        conv(x, EDGES, edge_attr, size=(4, 5))


@pytest.mark.scatter
@BY_FLOW
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("kind", ["tokens", "windows", "edges"])
def test_a_layout_and_its_edges_of_either_flow(flow, backend, kind):
    layout = {
        "tokens": TOKENS,
        "windows": WindowLayout.from_ptr(torch.tensor([0, 2, 6]), 2, 4),
        "edges": EdgeLayout.from_edge_index(EDGES, 6),
    }[kind]
    conv = make(flow, 5, backend=backend)
    x = torch.randn(6, 5).double()
    edge_attr = torch.randn(layout.num_pairs, 2).double()
    pairs = layout.to_edge_index()
    edges = pairs if flow == FLOWS[0] else pairs.flip(0)
    out, alpha = edge_loop(conv, (x, x), edges, edge_attr)
    torch.testing.assert_close(conv(x, layout, edge_attr), out)
    found, (told, weights) = conv(x, layout, edge_attr, return_attention_weights=True)
    torch.testing.assert_close(found, out)
    torch.testing.assert_close(weights, alpha)
    assert torch.equal(told, edges)
    torch.testing.assert_close(conv(x, edges, edge_attr), out)


@BY_FLOW
def test_hooks_and_explainers_see_the_edges_of_their_flow(flow):
    conv, x = make(flow, 5), torch.randn(6, 5).double()
    edges = (
        TOKENS.to_edge_index() if flow == FLOWS[0] else TOKENS.to_edge_index().flip(0)
    )
    edge_attr = torch.randn(edges.size(1), 2).double()
    _, alpha = edge_loop(conv, (x, x), edges, edge_attr)
    seen = []
    with torch.no_grad():
        handle = conv.register_message_forward_hook(lambda *a: seen.append(a[1][0]))
        conv(x, TOKENS, edge_attr)
        conv(x, edges, edge_attr)
        handle.remove()
    for told in seen:
        torch.testing.assert_close(told["alpha"], alpha)
    explainer = Explainer(
        conv,
        AttentionExplainer(reduce="mean"),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node"},
    )
    found = explainer(x, edges, edge_attr=edge_attr).edge_mask
    torch.testing.assert_close(found, alpha.mean(1))


def adjacencies(edges, edge_attr, size):
    """Adjacencies that hold features, and which edges they hold, in their order."""
    order = (edges[1] * 10 + edges[0]).argsort()
    pairs = edges.flip(0)[:, order]
    forms = {
        "coo": to_torch_coo_tensor(pairs, edge_attr[order], size),
        "csr": to_torch_csr_tensor(pairs, edge_attr[order], size),
    }
    if WITH_TORCH_SPARSE:
        from torch_sparse import SparseTensor

        forms["SparseTensor"] = SparseTensor.from_edge_index(
            edges.flip(0), edge_attr, size
        )
    return forms, order


def test_features_that_an_adjacency_holds():
    conv = make()
    edges = EDGES[:, :6]
    x = torch.randn(5, 5).double(), torch.randn(4, 3).double()
    edge_attr = torch.randn(6, 2).double()
    out, _ = edge_loop(conv, x, edges, edge_attr)
    forms, order = adjacencies(edges, edge_attr, (4, 5))
    for form in forms.values():
        torch.testing.assert_close(conv(x, form), out)
        torch.testing.assert_close(conv(x, form, edge_attr[order]), out)
    ones = to_torch_csr_tensor(edges.flip(0)[:, order], size=(4, 5))
    with pytest.raises(ValueError, match="'edge_attr' is missing"):
        conv(x, ones)
    plain = TokenAttentionConv((5, 3), 4).double()
    torch.testing.assert_close(plain(x, forms["csr"]), plain(x, edges))


def test_what_to_sparse_tensor_makes():
    conv, x = make(channels=5), torch.randn(5, 5).double()
    edge_attr = torch.randn(6, 2).double()
    data = Data(x=x, edge_index=EDGES[:, :6], edge_attr=edge_attr, num_nodes=5)
    out = conv(x, data.edge_index, edge_attr)
    sparse = T.ToSparseTensor(attr="edge_attr")(data)
    torch.testing.assert_close(conv(x, sparse.adj_t), out)


@pytest.mark.parametrize("sort_order", [None, "row", "col"])
@BY_FLOW
def test_an_edge_index_of_pyg(flow, sort_order):
    conv, x = make(flow, 5), torch.randn(5, 5).double()
    edges = EDGES
    if sort_order is not None:
        edges = EDGES[:, EDGES[0 if sort_order == "row" else 1].argsort()]
    edge_attr = torch.randn(7, 2).double()
    out, _ = edge_loop(conv, (x, x), edges, edge_attr)
    given = EdgeIndex(edges, sparse_size=(5, 5), sort_order=sort_order)
    torch.testing.assert_close(conv(x, given, edge_attr), out)


WRONG = {
    "one row": (lambda a: a[:1], "'edge_attr' has 1 rows for"),
    "too few": (lambda a: a[:-1], "'edge_attr' has .* rows for"),
    "too many": (lambda a: torch.cat([a, a]), "'edge_attr' has .* rows for"),
    "none": (lambda a: a[:0], "'edge_attr' has 0 rows for"),
    "columns": (
        lambda a: a[:, :1],
        r"needs the shape \[num_edges, (2|edge_dim)\], found: \[.*1\]",
    ),
    "a vector": (lambda a: a[:, 0], r"needs the shape \[num_edges, (2|edge_dim)\]"),
    "of all numbers": (
        lambda a: a.flatten(),
        r"needs the shape \[num_edges, (2|edge_dim)\]",
    ),
    "dimensions": (
        lambda a: a[:, None],
        r"needs the shape \[num_edges, (2|edge_dim)\]",
    ),
    "a number": (
        lambda a: a[0, 0],
        r"needs the shape \[num_edges, (2|edge_dim)\], found: \[\]",
    ),
    "integers": (lambda a: a.long(), "is of type torch.int64"),
    "float": (lambda a: a.float(), "torch.float32, but 'lin_edge' of torch.float64"),
    "device": (lambda a: a.to("meta"), "'edge_attr' is on meta, but 'lin_edge' on cpu"),
    "list": (
        lambda a: a.tolist(),
        r"needs the shape \[num_edges, (2|edge_dim)\], found: list",
    ),
    "nothing": (lambda a: None, "'edge_attr' is missing"),
}


def restored():
    """A layout as a DataLoader or a trace hands it on: its pairs are not counted."""
    leaves, spec = pytree.tree_flatten(TOKENS)
    return pytree.tree_unflatten(leaves, spec)


@pytest.mark.parametrize("given", ["layout", "edges", "adjacency", "EdgeLayout"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_features_are_never_broadcast(name, given):
    change, message = WRONG[name]
    edges = TOKENS.to_edge_index()
    edge_attr = change(torch.randn(TOKENS.num_pairs, 2).double())
    x = torch.randn(6, 5).double()
    where = {
        "layout": TOKENS,
        "edges": edges,
        "adjacency": to_torch_csr_tensor(edges.flip(0), size=(6, 6)),
        "EdgeLayout": EdgeLayout.from_edge_index(edges, 6),
    }[given]
    with pytest.raises(ValueError, match=message):
        make(channels=5)(x, where, edge_attr)
    if given == "layout":
        encoder = AtomAttentionEncoder(5, 4, 2, edge_dim=2).double()
        with pytest.raises(ValueError, match=message):
            encoder(x, where, edge_attr=edge_attr)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [1, 5])
def test_not_even_where_pairs_are_not_counted(rows, backend):
    x, edge_attr = torch.randn(6, 5).double(), torch.randn(rows, 2).double()
    encoder = AtomAttentionEncoder(5, 4, 2, edge_dim=2, backend=backend).double()
    with pytest.raises(ValueError, match=f"'bias' has {rows} rows for 14"):
        encoder(x, restored(), edge_attr=edge_attr)
    conv = make(channels=5, backend=backend)
    for weights in (False, True):
        with pytest.raises(ValueError, match=f"'bias' has {rows} rows for 14"):
            conv(x, restored(), edge_attr, return_attention_weights=weights)


def test_one_feature_may_be_a_vector():
    conv = TokenAttentionConv(5, 4, edge_dim=1)
    x, feature = torch.randn(5, 5), torch.randn(7)
    torch.testing.assert_close(
        conv(x, EDGES, feature), conv(x, EDGES, feature[:, None])
    )
    for wrong in (feature[:1], feature[:6]):
        with pytest.raises(ValueError, match="'edge_attr' has . rows for 7 edges"):
            conv(x, EDGES, wrong)


@pytest.mark.parametrize("given", [TOKENS, EDGES])
def test_features_without_weights_for_them(given):
    edge_attr = torch.randn(14 if given is TOKENS else 7, 2)
    with pytest.raises(ValueError, match="'edge_attr' was passed.*edge_dim"):
        TokenAttentionConv(5, 4)(torch.randn(6, 5), given, edge_attr)


@pytest.mark.parametrize(
    "options", [{"node_dim": 0}, {"node_dim": -2}, {"aggr": "sum"}, {"aggr_kwargs": {}}]
)
def test_options_of_message_passing(options):
    conv = make(channels=5, **options)
    x, edge_attr = torch.randn(5, 5).double(), torch.randn(7, 2).double()
    out, _ = edge_loop(conv, (x, x), EDGES, edge_attr)
    torch.testing.assert_close(conv(x, EDGES, edge_attr), out)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"node_dim": 1}, "'node_dim' is 1: choose one of 0, -2"),
        ({"aggr": "mean"}, "'aggr' is 'mean'"),
        ({"aggr": None}, "'aggr' is None"),
        ({"flow": "up"}, "'flow'"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TokenAttentionConv(5, 4, **options)


@pytest.mark.parametrize("layers", [2, 4])
def test_decomposed_layers(layers):
    conv = make(channels=5, decomposed_layers=layers)
    x, edge_attr = torch.randn(6, 5).double(), torch.randn(14, 2).double()
    out, _ = edge_loop(conv, (x, x), TOKENS.to_edge_index(), edge_attr)
    torch.testing.assert_close(conv(x, TOKENS.to_edge_index(), edge_attr), out)
    torch.testing.assert_close(conv(x, TOKENS, edge_attr), out)
