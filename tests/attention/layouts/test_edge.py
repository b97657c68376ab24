import copy
import pickle

import pytest
import torch
from oracle import token_loop
from torch.utils import _pytree as pytree
from torch_geometric.typing import SparseTensor

from pyg_atomenc.attention import (
    EdgeLayout,
    Layout,
    TokenLayout,
    WindowLayout,
    as_layout,
    as_token_layout,
    attention,
    attention_pool,
)

EDGES = torch.tensor([[0, 2, 1, 4, 0], [0, 0, 1, 1, 1]])


def test_edges_between_two_kinds_of_nodes():
    layout = EdgeLayout.from_edge_index(EDGES.int(), 5, 3)
    assert (layout.num_sources, layout.num_targets, layout.num_pairs) == (5, 3, 5)
    assert torch.equal(layout.to_edge_index(), EDGES)
    assert repr(layout) == (
        "EdgeLayout(num_sources=5, num_targets=3, num_pairs=5, device='cpu')"
    )
    query, key = torch.randn(3, 2, 4), torch.randn(5, 2, 4)
    value, bias = torch.randn(5, 1, 6), torch.randn(5, 2)
    out = attention(query, key, value, layout, bias)
    for target in range(3):
        sources = EDGES[0, EDGES[1] == target]
        logits = torch.einsum("hd,shd->sh", query[target], key[sources]) / 2
        alpha = (logits + bias[EDGES[1] == target]).softmax(0)
        expected = torch.einsum("sh,sd->hd", alpha, value[sources, 0])
        torch.testing.assert_close(out[target], expected)
    assert (out[2] == 0).all()


def test_the_edges_of_a_layout_mean_what_it_means():
    index = torch.tensor([1, 0, 1, 1, 2])
    layout = TokenLayout.from_index(index)
    qkv = torch.randn(3, 5, 2, 4, dtype=torch.float64).requires_grad_()
    edges = EdgeLayout.from_edge_index(layout.to_edge_index(), 5)
    out = attention(*qkv, edges)
    atoms, *_ = token_loop(*qkv, index, 3)
    torch.testing.assert_close(out, torch.from_numpy(atoms))
    (grad,) = torch.autograd.grad(out.pow(2).sum(), qkv)
    (other,) = torch.autograd.grad(attention(*qkv, layout).pow(2).sum(), qkv)
    torch.testing.assert_close(grad, other)


LAYOUTS = {
    "token": TokenLayout.from_index(torch.tensor([1, 0, 1, 1, 2])),
    "window": WindowLayout.from_ptr(torch.tensor([0, 40, 47])),
    "edge": EdgeLayout.from_edge_index(EDGES, 5, 3),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_layouts_keep_one_protocol(name):
    layout = LAYOUTS[name]
    assert isinstance(layout, Layout)
    source, target = layout.to_edge_index()
    assert source.numel() == layout.num_pairs
    assert int(source.max()) < layout.num_sources
    assert int(target.max()) < layout.num_targets
    leaves, spec = pytree.tree_flatten(layout)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    for other in (
        layout.to("cpu"),
        layout.to("cpu", non_blocking=True),
        copy.deepcopy(layout),
        pickle.loads(pickle.dumps(layout)),
        pytree.tree_unflatten(leaves, spec),
    ):
        assert torch.equal(other.to_edge_index(), layout.to_edge_index())
    moved = layout.to("meta")
    assert type(moved) is type(layout) and moved.device.type == "meta"
    assert moved.num_pairs == layout.num_pairs
    for host in layout.host_tensors:
        assert getattr(moved, host).device.type == "cpu"


@pytest.mark.parametrize("backend", ["dense", "edges"])
@pytest.mark.parametrize("count", [5, 300])
def test_what_inference_mode_made_serves_training(count, backend):
    index = torch.arange(count) // 3
    with torch.inference_mode():
        made = [
            TokenLayout.from_index(index.clone()),
            WindowLayout.from_ptr(torch.tensor([0, count])),
            EdgeLayout.from_edge_index(torch.stack([index, index]), count),
            EdgeLayout.from_edge_index(torch.stack([index, index]).int(), count),
        ]
    for layout in made:
        qkv = torch.randn(3, count, 2, 4, requires_grad=True)
        out = attention(*qkv, layout, backend=backend)
        (grad,) = torch.autograd.grad(out.pow(2).sum(), qkv, create_graph=True)
        grad.pow(2).sum().backward()
        assert qkv.grad.isfinite().all()


def test_a_layout_of_ones_own_kind_is_attended_over():
    class Named(TokenLayout):
        pass

    layout = LAYOUTS["token"]
    named = Named(**vars(layout))
    qkv = torch.randn(3, 5, 2, 4)
    assert torch.equal(attention(*qkv, named), attention(*qkv, layout))


def test_the_border_takes_layouts_edges_and_sparse_adjacencies():
    layout = as_layout(EDGES, 5, 3)
    assert as_layout(layout, 5, 3) is layout
    row, col = EDGES[1], EDGES[0]
    order = (row * 5 + col).argsort()
    dense = torch.zeros(3, 5)
    dense[row, col] = 1
    for adjacency in (dense.to_sparse(), dense.to_sparse_csr()):
        found = as_layout(adjacency, 5, 3)
        assert torch.equal(found.to_edge_index(), EDGES[:, order])
    if not isinstance(SparseTensor, type) or not SparseTensor.__module__.startswith(
        "torch_sparse"
    ):
        return
    adjacency = SparseTensor(row=row, col=col, sparse_sizes=(3, 5))
    assert torch.equal(as_layout(adjacency, 5, 3).to_edge_index(), EDGES[:, order])


def test_values_are_checked_on_the_cpu():
    wrong = torch.tensor([[0, 9], [0, 0]])
    with pytest.raises(ValueError, match=r"'edge_index\[0\]' has values from 0 to 9"):
        EdgeLayout.from_edge_index(wrong, 5)
    # Where looking would wait for a device, nobody looks.
    assert EdgeLayout.from_edge_index(wrong.to("meta"), 5).num_pairs == 2


@pytest.mark.parametrize(
    "given, counts, message",
    [
        ([[0], [0]], (1,), "'edge_index' is of type list: pass a layout, or edges"),
        (torch.zeros(2, 3), (1,), "'edge_index' is torch.float32 of shape"),
        (torch.zeros(3, 2).long(), (1,), r"of shape \[3, 2\]"),
        (EDGES, (5, 1), r"'edge_index\[1\]' has values from 0 to 1 for 1 target"),
        (-EDGES, (5, 3), r"'edge_index\[0\]' has values from -4 to 0"),
        (LAYOUTS["token"], (4,), "built for 5 atoms, but the input has 4 atoms"),
        (LAYOUTS["edge"], (5, 4), "built for 5 sources and 3 targets, but"),
    ],
)
def test_what_does_not_fit_is_refused(given, counts, message):
    with pytest.raises(ValueError, match=message):
        as_layout(given, *counts)


def test_only_tokens_can_be_pooled():
    qkv = torch.randn(3, 47, 2, 4)
    for layout in (LAYOUTS["window"], EdgeLayout.from_edge_index(EDGES, 47)):
        with pytest.raises(ValueError, match="'layout' is of type.*tokens to pool"):
            attention_pool(*qkv, layout)
        with pytest.raises(ValueError, match="'layout' is of type.*tokens to pool"):
            as_token_layout(layout, 47)


def test_a_backend_that_cannot_says_who_can():
    qkv = torch.randn(3, 5, 2, 4)
    layout = EdgeLayout.from_edge_index(EDGES, 5)
    with pytest.raises(
        ValueError, match="over edges, for which take 'dense' or 'edges'"
    ):
        attention(*qkv, layout, backend="triton")


@pytest.mark.parametrize("row", [0, 1])
def test_edges_that_were_edited_are_sorted_and_planned_anew(row):
    edge_index = torch.randint(6, (2, 20))
    layout = EdgeLayout.from_edge_index(edge_index, 6)
    qkv = torch.randn(3, 6, 1, 2)
    attention(*qkv, layout, backend="dense")
    edge_index[row] = edge_index[row].flip(0)
    found = [attention(*qkv, layout, backend=name) for name in ("dense", "edges")]
    torch.testing.assert_close(*found)
