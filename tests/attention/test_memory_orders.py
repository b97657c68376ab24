"""A bias may lie in memory edge by edge, or head by head."""

import pytest
import torch

from pyg_atomenc.attention import (
    EdgeLayout,
    TokenLayout,
    WindowLayout,
    attention,
    attention_encode,
    attention_pool,
)

# Sizes that share a chunk with padding, that are alike, and that are cut into blocks.
SIZES = {"padded": [3, 4, 1, 4, 5], "alike": [4] * 5, "large": [300, 2]}
EDGES = torch.tensor([[0, 1, 4, 2, 2, 4, 4], [0, 0, 1, 3, 1, 3, 1]])
LAYOUTS = {
    "windows": WindowLayout.from_ptr(torch.tensor([0, 2, 9]), 2, 4),
    "edges": EdgeLayout.from_edge_index(EDGES, 6),
}
for name, sizes in SIZES.items():
    index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    LAYOUTS[name] = TokenLayout.from_index(index)


def encode(x, *weights_and_more, **options):
    *weights, layout, bias = weights_and_more
    return attention_encode(x, weights, layout, bias, **options)[0]


def pool(*args, **options):
    return attention_pool(*args, **options)[0]


def draw(run, layout):
    """What a function takes, and a bias."""
    nodes = [torch.randn(layout.num_targets, 2, 4).double() for _ in range(3)]
    if run is encode:
        nodes = [nodes[0].flatten(1), *(torch.randn(2, 4, 8).double() for _ in "qkv")]
    return [*nodes, torch.randn(layout.num_pairs, 2).double()]


def derivatives(run, tensors, layout, backend):
    """The output, its gradients and the gradients of these."""
    tensors = [t.detach().clone(memory_format=torch.preserve_format) for t in tensors]
    *nodes, bias = (t.requires_grad_() for t in tensors)
    out = run(*nodes, layout, bias, backend=backend)
    grads = torch.autograd.grad(out.square().sum(), tensors, create_graph=True)
    more = torch.autograd.grad(sum(g.square().sum() for g in grads), tensors)
    first = torch.autograd.grad(run(*nodes, layout, bias, backend=backend).sum(), bias)
    return out, *grads, *more, *first


BY_RUN = pytest.mark.parametrize("run", [attention, pool, encode])


def turned(bias):
    """The same numbers head by head."""
    bias = bias.mT.contiguous().mT
    assert bias.stride(0) == 1
    return bias


@BY_RUN
@pytest.mark.parametrize("backend", ["auto", "dense", "edges"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_both_orders_give_the_same(name, backend, run):
    layout = LAYOUTS[name]
    if layout.kind != "tokens" and run is not attention:
        pytest.skip("over tokens alone")
    *nodes, bias = draw(run, layout)
    expected = derivatives(run, [*nodes, bias], layout, backend)
    found = derivatives(run, [*nodes, turned(bias)], layout, backend)
    torch.testing.assert_close(found, expected)


@BY_RUN
@pytest.mark.parametrize("name", ["padded", "alike"])
def test_a_compiler_is_told_the_order_of_the_gradient(name, run):
    layout = LAYOUTS[name]
    *nodes, bias = draw(run, layout)
    compiled = torch.compile(run, fullgraph=True)
    for given in (bias, turned(bias)):
        leaves = [t.clone().requires_grad_() for t in (*nodes, given)]
        grads = []
        for function in (run, compiled):
            out = function(*leaves[:-1], layout, leaves[-1] * 2, backend="dense")
            grads.append(torch.autograd.grad(out.square().sum(), leaves))
        torch.testing.assert_close(grads[1], grads[0])
        with torch.no_grad():
            out = compiled(*nodes, layout, given, backend="dense")
            torch.testing.assert_close(out, run(*nodes, layout, given, backend="dense"))
