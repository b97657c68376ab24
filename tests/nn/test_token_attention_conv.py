import copy
import pickle

import pytest
import torch
from oracle import BY_BACKEND, partitions, token_loop
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer
from torch_geometric.nn import GCNConv, MessagePassing, Sequential, global_add_pool
from torch_geometric.testing import assert_module

from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv, TokenLayout
from pyg_atomenc.attention import EdgeLayout, WindowLayout

PARTITIONS = partitions()


@pytest.mark.parametrize("name", PARTITIONS)
@BY_BACKEND
def test_over_a_layout_equals_the_loop(name, backend):
    index, num_tokens = PARTITIONS[name]
    layout = TokenLayout.from_index(index, num_tokens)
    conv = TokenAttentionConv(5, 4, heads=2, backend=backend).double()
    x = torch.randn(index.numel(), 5, dtype=torch.float64)
    projected = [
        lin(x).view(-1, 2, 4) for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
    ]
    atoms, _, _, alphas = token_loop(*projected, index, num_tokens)
    expected = torch.from_numpy(atoms.reshape(-1, 8))
    torch.testing.assert_close(conv(x, layout), expected, rtol=0, atol=1e-12)
    out, (edges, alpha) = conv(x, layout, return_attention_weights=True)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert torch.equal(edges, layout.to_edge_index())
    expected = torch.from_numpy(alphas)[edges[1], edges[0]]
    torch.testing.assert_close(alpha, expected, rtol=0, atol=1e-12)


@pytest.mark.scatter
@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("edge_dim", [None, 3])
@pytest.mark.parametrize("kind", ["tokens", "windows"])
def test_any_edge_list_equals_a_layout_of_the_same_edges(concat, edge_dim, kind):
    index, num_tokens = PARTITIONS["shuffled"]
    layout = TokenLayout.from_index(index, num_tokens)
    if kind == "windows":
        layout = WindowLayout.from_ptr(torch.tensor([0, 3, index.numel()]), 4, 8)
    conv = TokenAttentionConv(5, 4, 2, concat, edge_dim=edge_dim, bias=True).double()
    x = torch.randn(index.numel(), 5, dtype=torch.float64)
    edges = layout.to_edge_index()
    edge_attr = (
        None if edge_dim is None else torch.randn(edges.size(1), 3, dtype=torch.float64)
    )
    expected = conv(x, layout, edge_attr)
    assert expected.shape == (index.numel(), 8 if concat else 4)
    torch.testing.assert_close(conv(x, edges, edge_attr), expected)
    order = torch.randperm(edges.size(1))
    shuffled = None if edge_attr is None else edge_attr[order]
    torch.testing.assert_close(conv(x, edges[:, order], shuffled), expected)


@pytest.mark.scatter
def test_pyg_assert_module_and_isolated_targets():
    x = torch.randn(5, 7)
    edge_index = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 2]])
    conv = TokenAttentionConv(7, 4, heads=3)
    out = assert_module(
        conv, x, edge_index, expected_size=(5, 12), sparse_size=(5, 5), atol=1e-6
    )
    assert (out[3:] == 0).all()


def test_bipartite():
    conv = TokenAttentionConv((7, 3), 4, heads=2)
    source, target = torch.randn(5, 7), torch.randn(2, 3)
    edge_index = torch.tensor([[0, 1, 4], [0, 0, 1]])
    assert conv((source, target), edge_index).shape == (2, 8)
    assert conv((source, target), edge_index, size=(5, 2)).shape == (2, 8)
    lazy = TokenAttentionConv((-1, -1), 4, heads=2)
    assert lazy((source, target), edge_index).shape == (2, 8)
    assert lazy.lin_query.weight.shape == (8, 3)


@pytest.mark.scatter
@pytest.mark.parametrize("bipartite", [False, True])
def test_messages_of_either_flow_follow_their_edges(bipartite):
    flow = "target_to_source"
    conv = TokenAttentionConv((3, 3), 4, heads=2, edge_dim=2, flow=flow).double()
    other = TokenAttentionConv((3, 3), 4, heads=2, edge_dim=2).double()
    other.load_state_dict(conv.state_dict())
    first = torch.randn(5, 3, dtype=torch.float64)
    second = torch.randn(4, 3, dtype=torch.float64) if bipartite else first
    edges = torch.tensor([[0, 1, 4, 2, 2], [0, 0, 1, 3, 1]])
    edge_attr = torch.randn(5, 2, dtype=torch.float64)
    x = (first, second) if bipartite else first
    swapped = (second, first) if bipartite else first
    out, (given, alpha) = conv(x, edges, edge_attr, return_attention_weights=True)
    assert given is edges and out.shape == (5, 8)
    expected = other(swapped, edges.flip(0), edge_attr, return_attention_weights=True)
    torch.testing.assert_close(out, expected[0])
    torch.testing.assert_close(alpha, expected[1][1])
    layout = EdgeLayout.from_edge_index(edges.flip(0), len(second), 5)
    torch.testing.assert_close(conv(x, layout, edge_attr), out)


@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
def test_a_layout_is_one_list_of_edges_whatever_the_flow(flow):
    layout = TokenLayout.from_index(TOKENS)
    conv = TokenAttentionConv(6, 4, 2, edge_dim=3, flow=flow)
    x, edge_attr = torch.randn(5, 6), torch.randn(layout.num_pairs, 3)
    expected = conv(x, layout, edge_attr)
    given = {"edge_attr": edge_attr, "return_attention_weights": True}
    out, (edges, alpha) = conv(x, layout, **given)
    torch.testing.assert_close(out, expected)
    again, (_, other) = conv(x, edges, **given)
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(other, alpha)


def test_an_adjacency_has_one_flow():
    conv = TokenAttentionConv(6, 4, flow="target_to_source")
    adjacency = torch.eye(5).to_sparse()
    with pytest.raises(ValueError, match="'edge_index' is an adjacency, but 'flow'"):
        conv(torch.randn(5, 6), adjacency)


def test_edge_features_of_another_type_are_refused():
    conv = TokenAttentionConv(6, 4, edge_dim=2)
    layout = TokenLayout.from_index(TOKENS)
    edge_attr = torch.zeros(layout.num_pairs, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="'edge_attr' is of type torch.float64, but"):
        conv(torch.randn(5, 6), layout, edge_attr)


def test_a_pair_of_inputs_over_a_layout():
    layout = TokenLayout.from_index(TOKENS)
    conv = TokenAttentionConv((6, 3), 4)
    x = torch.randn(5, 6), torch.randn(5, 3)
    torch.testing.assert_close(conv(x, layout), conv(x, layout.to_edge_index()))


class DoubledMessages(TokenAttentionConv):
    def message(self, value_j, alpha):
        return 2 * super().message(value_j, alpha)


class DoubledSums(TokenAttentionConv):
    def aggregate(self, inputs, index, ptr=None, dim_size=None):
        return 2 * super().aggregate(inputs, index, ptr, dim_size)


class DoubledUpdates(TokenAttentionConv):
    def update(self, inputs):
        return 2 * inputs


@pytest.mark.parametrize("kind", [DoubledMessages, DoubledSums, DoubledUpdates])
def test_messages_can_be_overridden(kind):
    conv, doubled = TokenAttentionConv(6, 4), kind(6, 4)
    doubled.load_state_dict(conv.state_dict())
    x, layout = torch.randn(5, 6), TokenLayout.from_index(TOKENS)
    torch.testing.assert_close(doubled(x, BONDS), 2 * conv(x, BONDS))
    torch.testing.assert_close(doubled(x, layout), 2 * conv(x, layout))


def test_at_home_in_pyg():
    conv = TokenAttentionConv(5, 4, heads=2)
    assert isinstance(conv, MessagePassing)
    assert str(conv) == "TokenAttentionConv(5, 4, heads=2)"
    x, edge_index = torch.randn(3, 5), torch.tensor([[0, 1], [1, 2]])
    expected = conv(x, edge_index)
    for same in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(same(x, edge_index), expected)
    before = conv.lin_query.weight.clone()
    conv.reset_parameters()
    assert not torch.equal(before, conv.lin_query.weight)
    model = Sequential("x, edge_index", [(conv, "x, edge_index -> x")])
    assert model(x, edge_index).shape == (3, 8)
    assert conv(x, edge_index.int()).shape == (3, 8)
    assert conv(x[:0], edge_index[:, :0]).shape == (0, 8)


def test_compile():
    index, num_tokens = PARTITIONS["shuffled"]
    layout = TokenLayout.from_index(index, num_tokens)
    conv = TokenAttentionConv(5, 4, heads=2)
    x = torch.randn(index.numel(), 5)
    compiled = torch.compile(conv, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(x, layout.to_edge_index()), conv(x, layout))
    torch.testing.assert_close(compiled(x, layout), conv(x, layout))


def test_dropout():
    conv = TokenAttentionConv(5, 4, heads=2, dropout=0.5)
    layout = TokenLayout.from_index(torch.zeros(6, dtype=torch.long))
    x = torch.randn(6, 5)
    edges = layout.to_edge_index()
    for where in (layout, edges):
        assert not torch.equal(conv.train()(x, where), conv(x, where))
        assert torch.equal(conv.eval()(x, where), conv(x, where))


class Model(torch.nn.Module):
    """Bond convolutions around an encoder, as users write them."""

    def __init__(self, first, encoder):
        super().__init__()
        self.first = first
        self.encoder = encoder
        self.head = torch.nn.Linear(encoder.heads * encoder.out_channels, 1)

    def forward(self, x, edge_index, atom_to_token, num_tokens):
        x = self.first(x, edge_index)
        tokens = self.encoder(x, atom_to_token, dim_size=num_tokens)
        batch = torch.zeros(num_tokens, dtype=torch.long)
        return self.head(global_add_pool(tokens, batch, size=1))


BONDS = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 4], [1, 0, 2, 1, 3, 2, 4, 3]])
TOKENS = torch.tensor([0, 0, 1, 1, 1])


@BY_BACKEND
def test_gnn_explainer_explains_bonds_around_the_encoder(backend):
    model = Model(GCNConv(6, 8), AtomAttentionEncoder(8, backend=backend))
    x = torch.randn(5, 6)
    explainer = Explainer(
        model,
        GNNExplainer(epochs=5),
        explanation_type="model",
        edge_mask_type="object",
        node_mask_type="attributes",
        model_config={"mode": "regression", "task_level": "graph"},
    )
    explanation = explainer(x, BONDS, atom_to_token=TOKENS, num_tokens=2)
    assert explanation.edge_mask.shape == (8,)
    assert (explanation.edge_mask > 0).any()
    assert (explanation.node_mask > 0).any()


@pytest.mark.parametrize("explainer_class", [GNNExplainer, AttentionExplainer])
def test_explainers_see_the_attention_of_the_conv(explainer_class):
    model = Model(TokenAttentionConv(6, 8, edge_dim=None), AtomAttentionEncoder(8))
    algorithm = (
        explainer_class(epochs=5)
        if explainer_class is GNNExplainer
        else explainer_class()
    )
    explainer = Explainer(
        model,
        algorithm,
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "graph"},
    )
    x = torch.randn(5, 6)
    explanation = explainer(x, BONDS, atom_to_token=TOKENS, num_tokens=2)
    assert explanation.edge_mask.shape == (8,)
    if explainer_class is AttentionExplainer:
        _, (_, alpha) = model.first(x, BONDS, return_attention_weights=True)
        torch.testing.assert_close(explanation.edge_mask, alpha.squeeze(1).detach())


def test_a_hook_or_a_fitting_mask_turns_a_layout_into_messages():
    layout = TokenLayout.from_index(TOKENS)
    conv = TokenAttentionConv(6, 4)
    x = torch.randn(5, 6)
    expected = conv(x, layout)
    seen = []
    handle = conv.register_message_forward_hook(lambda *a: seen.append(a[1][0]))
    torch.testing.assert_close(conv(x, layout), expected)
    handle.remove()
    assert seen[0]["alpha"].shape == (layout.num_pairs, 1)

    edges = layout.to_edge_index()
    conv.explain = True
    conv._edge_mask = torch.full((edges.size(1),), -torch.inf)
    conv._loop_mask = edges[0] != edges[1]
    assert (conv(x, layout) == 0).all()
    # A mask of the model's bonds is not of this layer's edges.
    conv._edge_mask = torch.full((8,), -torch.inf)
    conv._loop_mask = BONDS[0] != BONDS[1]
    torch.testing.assert_close(conv(x, layout), expected)


LAYOUT = TokenLayout.from_index(torch.tensor([0, 0, 1]))


@pytest.mark.parametrize(
    "make, x, edges, message",
    [
        ({}, torch.zeros(3), LAYOUT, r"'x' needs the shape.*found: \[3\]"),
        ({}, torch.zeros(3, 5), LAYOUT, r"'x' needs .*, 4\], found: .*in_channels=5"),
        (
            {},
            torch.zeros(2, 4),
            LAYOUT,
            r"'layout' was built for 3 atoms, but the input has 2",
        ),
        (
            {},
            (torch.zeros(3, 4), torch.zeros(2, 4)),
            LAYOUT,
            r"3 sources and 2 targets",
        ),
        (
            {},
            torch.zeros(2, 4),
            BONDS,
            r"'edge_index\[0\]' has values from 0 to 4 for 2",
        ),
        ({"backend": "triton"}, torch.zeros(3, 4), BONDS[:, :2], r"'triton', which"),
        ({"edge_dim": 2}, torch.zeros(3, 4), LAYOUT, r"'edge_attr' is missing"),
    ],
)
def test_bad_calls(make, x, edges, message):
    conv = TokenAttentionConv(4, 2, **make)
    with pytest.raises(ValueError, match=message):
        conv(x, edges)


@pytest.mark.parametrize(
    "args, kwargs, message",
    [
        ((0, 4), {}, "'in_channels' is 0"),
        ((4, 0), {}, "'out_channels' is 0"),
        ((4, 4, 0), {}, "'heads' is 0"),
        ((4, 4), {"aggr": "max"}, "'aggr' is 'max'"),
        ((4, 4), {"dropout": -0.1}, "'dropout' is -0.1"),
        ((4, 4), {"backend": "x"}, "'backend' is 'x'"),
    ],
)
def test_bad_options(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        TokenAttentionConv(*args, **kwargs)
