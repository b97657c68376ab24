import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyg_atomenc import TokenAttentionConv
from pyg_atomenc.attention import EdgeLayout, attention
from pyg_atomenc.attention.dense import backend as dense_backend
from pyg_atomenc.attention.dense import edges
from pyg_atomenc.attention.dispatch import choose_backend
from pyg_atomenc.attention.inputs import AttentionInputs

GRAPHS = {
    "bipartite": (30, 20, 150),
    "square": (25, 25, 60),
    "few edges": (40, 40, 7),
    "no edges": (3, 4, 0),
    "one target": (50, 1, 40),
    "one source": (1, 30, 40),
    "more edges than pairs": (2, 2, 9),
}


def make(name, heads=2, value_heads=2, dtype=torch.double):
    sources, targets, edges = GRAPHS[name]
    pair = torch.stack([torch.randint(n, (edges,)) for n in (sources, targets)])
    layout = EdgeLayout.from_edge_index(pair, sources, targets)
    shapes = (targets, heads, 4), (sources, heads, 4), (sources, value_heads, 3)
    tensors = [torch.randn(shape, dtype=dtype) for shape in (*shapes, (edges, heads))]
    return [t.requires_grad_() for t in tensors], layout


@pytest.mark.parametrize("value_heads", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_equals_the_definition_to_the_second_derivative(name, bias, value_heads):
    inputs, layout = make(name, value_heads=value_heads)
    inputs = inputs[: 3 + bias]
    found = []
    for backend in ("edges", "dense"):
        out = attention(*inputs[:3], layout, *inputs[3:], backend=backend)
        first = torch.autograd.grad(out.pow(2).sum(), inputs, create_graph=True)
        loss = sum(grad.pow(2).sum() for grad in first)
        options = {"allow_unused": True, "materialize_grads": True}
        found.append((out, *first, *torch.autograd.grad(loss, inputs, **options)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("wanted", range(4))
def test_only_asked_gradients_are_computed(wanted):
    inputs, layout = make("bipartite")
    found = []
    for backend in ("edges", "dense"):
        out = attention(*inputs[:3], layout, inputs[3], backend=backend)
        found += torch.autograd.grad(out.pow(2).sum(), inputs[wanted])
    torch.testing.assert_close(*found)


def test_dropout_is_alike_forward_and_backward():
    inputs, layout = make("square")

    def run(query, key, value, bias):
        torch.manual_seed(3)
        options = {"dropout": 0.4, "backend": "dense"}
        return attention(query, key, value, layout, bias, **options)

    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, fast_mode=True)
    kept, whole = run(*inputs), attention(*inputs[:3], layout, inputs[3])
    assert not torch.allclose(kept, whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_within_the_stated_tolerance(dtype):
    inputs, layout = make("bipartite", dtype=torch.float32)
    half = [t.detach().to(dtype).requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in half]
    found = []
    for given, backend in ((half, "dense"), (exact, "edges")):
        out = attention(*given[:3], layout, given[3], backend=backend)
        found.append([out, *torch.autograd.grad(out.sum(), given)])
    for one, other in zip(*found, strict=True):
        scale = other.abs().max()
        assert (one.double() - other).abs().max() <= 1.6e-2 * scale


def test_a_layer_over_edges_keeps_nothing_an_edge_and_channel():
    nodes, edges = 2_000, 80_000
    pair = torch.randint(nodes, (2, edges))
    conv, x = TokenAttentionConv(128, 32, heads=4), torch.randn(nodes, 128)
    x.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as found:
        conv(x, pair).sum().backward()
    now = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    # One [E, H, d] alone takes 41 MB.
    assert peak < 0.75 * edges * 128 * 4


def test_sparse_tensors_are_checked_by_nobody_and_nothing_is_warned_of():
    script = """
import warnings
import torch
from pyg_atomenc.attention import EdgeLayout, attention
warnings.simplefilter("error")
torch.set_default_device("meta")
torch.sparse.check_sparse_tensor_invariants.enable()
edges = torch.tensor([[3, 0, 3], [1, 1, 1]], device="cpu")
qkv = torch.randn(3, 4, 2, 8, device="cpu")
attention(*qkv, EdgeLayout.from_edge_index(edges, 4), backend="dense")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_auto_takes_it_where_messages_are_large_and_both_give_the_same(monkeypatch):
    (*qkv, bias), layout = make("square")
    # Narrow heads count a sixteenth.
    assert qkv[0].shape[1:] == (2, 4)
    inputs = AttentionInputs(*qkv, layout, bias)
    assert choose_backend("auto", inputs).name == "edges"
    expected = attention(*qkv, layout, bias)
    # 60 edges with 2 heads of 4 channels.
    monkeypatch.setitem(dense_backend.LARGE_MESSAGES, "cpu", (480 / 16, 2))
    assert choose_backend("auto", inputs).name == "dense"
    torch.testing.assert_close(attention(*qkv, layout, bias), expected)
    monkeypatch.setitem(dense_backend.LARGE_MESSAGES, "cpu", (481 / 16, 2))
    assert choose_backend("auto", inputs).name == "edges"
    # And it takes more edges than targets.
    monkeypatch.setitem(dense_backend.LARGE_MESSAGES, "cpu", (0, 2))
    (*qkv, _), layout = make("few edges")
    assert choose_backend("auto", AttentionInputs(*qkv, layout)).name == "edges"


def test_sampled_products_are_taken_where_they_were_measured(monkeypatch):
    (*qkv, bias), layout = make("square")
    expected = attention(*qkv, layout, bias, backend="dense")
    monkeypatch.setattr(torch.version, "hip", None)
    assert all(map(edges.has_sampled_products, map(torch.device, ("cpu", "cuda"))))
    assert not edges.has_sampled_products(torch.device("mps"))
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert not edges.has_sampled_products(torch.device("cuda"))
    # Without them the same is gathered, and nothing takes it by itself.
    monkeypatch.setattr(edges, "has_sampled_products", lambda device: False)
    monkeypatch.setattr(dense_backend, "has_sampled_products", lambda device: False)
    found = attention(*qkv, layout, bias, backend="dense")
    torch.testing.assert_close(found, expected)
    monkeypatch.setitem(dense_backend.LARGE_MESSAGES, "cpu", (0, 0))
    assert choose_backend("auto", AttentionInputs(*qkv, layout, bias)).name == "edges"


@pytest.mark.parametrize("channels", [1, 7, 8, 9, 16])
def test_any_width_of_heads_in_float32(channels):
    _, layout = make("bipartite")
    query, key, value = (torch.randn(n, 3, channels) for n in (20, 30, 30))
    found = []
    for dtype, backend in ((torch.float32, "dense"), (torch.float64, "edges")):
        qkv = [t.to(dtype).requires_grad_() for t in (query, key, value)]
        out = attention(*qkv, layout, backend=backend)
        found.append([out, *torch.autograd.grad(out.square().sum(), qkv)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_of_a_better_type_has_every_derivative(dtype):
    inputs, layout = make("square", dtype=dtype)
    bias = inputs[3].detach().double().requires_grad_()
    out = attention(*inputs[:3], layout, bias, backend="dense")
    assert out.dtype == dtype
    (first,) = torch.autograd.grad(out.pow(2).sum(), inputs[0], create_graph=True)
    assert torch.autograd.grad(first.pow(2).sum(), bias)[0].dtype == torch.double
