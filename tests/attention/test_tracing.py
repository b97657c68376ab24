"""Compiled, exported, traced: one program for every batch, or a reason; no data."""

from copy import deepcopy

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from pyg_atomenc.attention import EdgeLayout, TokenLayout, WindowLayout, attention
from pyg_atomenc.errors import BackendError
from pyg_atomenc.nn import AtomAttentionEncoder, AtomTransformer, TokenAttentionConv

DYNAMIC = torch.export.Dim.DYNAMIC if hasattr(torch.export.Dim, "DYNAMIC") else None
# Atoms and tokens of batches that come after the first, with empty tokens in some.
SIZES = [(5, 2), (9, 4), (1, 1), (40, 7), (6, 6), (30, 1), (7, 20), (0, 0)]


def batch(count, num_tokens):
    index = torch.randint(0, max(num_tokens, 1), (count,))
    index[:1] = num_tokens - 1
    return torch.randn(count, 16), index


@pytest.fixture(scope="module")
def layers():
    torch.manual_seed(1)
    return {
        "encoder": AtomAttentionEncoder(16, 8, 2),
        "encoder pairs": AtomAttentionEncoder(16, 8, 2, False, bias=True, edge_dim=3),
        "conv": TokenAttentionConv(16, 8, 2),
        "conv pairs": TokenAttentionConv(16, 8, 2, edge_dim=3),
    }


class Calls(torch.nn.Module):
    """A layer, and how it is called."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer = layer
        self.call = call

    def forward(self, *args):
        return self.call(self.layer, *args)


def pairs(index):
    return torch.randn(TokenLayout.from_index(index).num_pairs, 3)


# Name of a layer, how to call it, and its arguments from atoms and their tokens.
CALLS = {
    "index": ("encoder", lambda m, x, i: m(x, i), lambda x, i: (x, i)),
    "dim_size": ("encoder", lambda m, x, i: m(x, i, dim_size=25), lambda x, i: (x, i)),
    "ptr": (
        "encoder",
        lambda m, x, ptr: m(x, ptr=ptr),
        lambda x, i: (x, TokenLayout.from_index(i).ptr),
    ),
    "weights": (
        "encoder",
        lambda m, x, i: m(x, i, return_attention_weights=True),
        lambda x, i: (x, i),
    ),
    "pairs": (
        "encoder pairs",
        lambda m, x, i, e: m(x, i, edge_attr=e),
        lambda x, i: (x, i, pairs(i)),
    ),
    "conv": (
        "conv pairs",
        lambda m, x, i, e: m(x, TokenLayout.from_index(i), e),
        lambda x, i: (x, i, pairs(i)),
    ),
    "edges": (
        "conv pairs",
        lambda m, x, edges, e: m(x, edges, e),
        lambda x, i: (x, TokenLayout.from_index(i).to_edge_index(), pairs(i)),
    ),
}


def attend(x, layout):
    return attention(*[x.unsqueeze(1)] * 3, layout)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=CALLS)
def called(request, layers):
    layer, call, arguments = CALLS[request.param]
    return Calls(layers[layer], call).eval(), arguments


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.scatter
def test_jit_trace_is_right_for_other_batches(called):
    module, arguments = called
    traced = torch.jit.trace(module, arguments(*batch(8, 3)))
    graph = str(traced.inlined_graph)
    assert "pyg_atomenc::" not in graph and "torch_scatter::" not in graph
    for sizes in SIZES:
        given = arguments(*batch(*sizes))
        close(traced(*given), module(*given))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_is_right_for_other_batches(called):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, arguments = called
    example = arguments(*batch(8, 3))
    shapes = [
        {int(len(t) == 2 and not t.is_floating_point()): DYNAMIC} for t in example
    ]
    program = torch.onnx.export(
        module, example, dynamo=True, dynamic_shapes=(tuple(shapes),), verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for sizes in SIZES:
        given = arguments(*batch(*sizes))
        names = [one.name for one in session.get_inputs()]
        named = zip(names, (t.numpy() for t in given), strict=True)
        found = [torch.from_numpy(out) for out in session.run(None, dict(named))]
        expected = module(*given)
        close(found, list(expected) if isinstance(expected, tuple) else [expected])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_what_a_trace_would_get_wrong_is_refused(layers):
    x, index = batch(8, 3)
    layout = TokenLayout.from_index(index)
    for layer in (layers["encoder"], layers["conv"]):
        module = Calls(layer, lambda m, x: m(x, layout))
        message = "'layout' is a TokenLayout made outside of torch.jit.trace.*the index"
        with pytest.raises(BackendError, match=message):
            torch.jit.trace(module, x)
    edges = EdgeLayout.from_edge_index(layout.to_edge_index(), 8)
    module = Calls(torch.nn.Linear(16, 4), lambda m, x: attend(m(x), edges))
    with pytest.raises(BackendError, match="'layout' is an? EdgeLayout.*edges"):
        torch.jit.trace(module, x)
    ptr = torch.tensor([0, 8])
    windows = WindowLayout.from_ptr(ptr, 4, 8)
    module = Calls(layers["conv"], lambda m, x: m(x, windows))
    with pytest.raises(BackendError, match="'layout' is a WindowLayout"):
        torch.jit.trace(module, x)
    module = Calls(layers["conv"], lambda m, x, p: m(x, WindowLayout.from_ptr(p)))
    with pytest.raises(ValueError, match="'ptr' is in a trace, without numbers"):
        torch.jit.trace(module, (x, ptr))
    dense = AtomAttentionEncoder(16, 8, 2, backend="dense")
    with pytest.raises(BackendError, match="'backend' is 'dense'.*backend='auto'"):
        torch.jit.trace(dense, (x, index))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_script_says_what_to_use(layers):
    for layer in (*layers.values(), AtomTransformer(16, depth=1)):
        for module in (layer, torch.nn.Sequential(layer)):
            with pytest.raises(ValueError, match=r"torch\.jit\.script.*torch\.export"):
                torch.jit.script(module)


# Name of a layer, how to call it, and its arguments from atoms, index and layout.
COMPILED = {
    "index": ("encoder", lambda m, x, i, t: m(x, i), "index"),
    "index dim_size": ("encoder", lambda m, x, i, t: m(x, i, dim_size=t), "index"),
    "layout": ("encoder", lambda m, x, i, t: m(x, i), "layout"),
    "layout dim_size": ("encoder", lambda m, x, i, t: m(x, i, dim_size=t), "layout"),
    "conv layout": ("conv", lambda m, x, i, t: m(x, i), "layout"),
    "conv made": ("conv", lambda m, x, i, t: m(x, TokenLayout.from_index(i)), "index"),
    "conv num_tokens": (
        "conv",
        lambda m, x, i, t: m(x, TokenLayout.from_index(i, t)),
        "index",
    ),
    "edges": ("conv", lambda m, x, i, t: m(x, i), "edges"),
}


# Before torch 2.7, a count that is read from a tensor has to be asked for.
OLD = torch.__version__.startswith("2.6.")


@pytest.mark.parametrize("name", COMPILED)
@torch._dynamo.config.patch(capture_scalar_outputs=OLD)
def test_ten_batches_are_compiled_once(name, layers):
    if OLD and name == "index":
        pytest.skip("torch 2.6 cannot flatten what it has not counted: pass dim_size")
    layer, call, over = COMPILED[name]
    module = Calls(layers[layer], call)
    torch._dynamo.reset()
    counters.clear()
    counter = CompileCounter()
    compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=True)
    for step in range(10):
        x, index = batch(7 + 5 * step, 3 + step + step % 3)
        layout = TokenLayout.from_index(index)
        given = {"index": index, "layout": layout, "edges": layout.to_edge_index()}
        x.requires_grad_()
        found, expected = (
            function(x, given[over], layout.num_tokens)
            for function in (compiled, module)
        )
        close(found, expected)
        gradients = [
            torch.autograd.grad(out.pow(2).sum(), [x, *module.parameters()])
            for out in (found, expected)
        ]
        close(*gradients)
    assert counter.frame_count == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize("name", ["encoder", "conv"])
def test_an_export_with_one_chunk_serves_any_layout(name, layers):
    module = layers[name]
    one = TokenLayout.from_index(torch.arange(8) // 4)
    leaf = {0: DYNAMIC}
    shapes = (leaf, [leaf] * 4)
    exported = torch.export.export(
        module, (torch.randn(8, 16), one), dynamic_shapes=shapes
    ).module()
    for sizes in SIZES:
        if min(sizes) < 2:
            continue
        x, index = batch(*sizes)
        layout = TokenLayout.from_index(index)
        x.requires_grad_()
        found, expected = exported(x, layout), module(x, layout)
        close(found, expected)
        close(*(torch.autograd.grad(out.pow(2).sum(), x) for out in (found, expected)))


def shapes_of(layers, x, index, layout, edges, ptr):
    """Shapes of every way to call a layer, and of the gradients of ``x``."""
    encoder, conv, rows = layers["encoder"], layers["conv"], layers["encoder pairs"]
    calls = [
        lambda x: encoder(x, index, dim_size=4),
        lambda x: encoder(x, index, dim_size=4, return_attention_weights=True)[1],
        lambda x: encoder(x, layout),
        lambda x: encoder(x, ptr=ptr),
        lambda x: rows(x, layout, edge_attr=x[:1, :3].expand(layout.num_pairs, 3)),
        lambda x: conv(x, layout),
        lambda x: conv(x, TokenLayout.from_index(index, 4)),
        lambda x: conv(x, edges),
    ]
    found = []
    for call in calls:
        out = call(x)
        (gradient,) = torch.autograd.grad(out.sum(), x)
        found.append((tuple(out.shape), out.device.type, tuple(gradient.shape)))
    return found


@pytest.mark.scatter
@pytest.mark.parametrize("count", [5, 300])
def test_shapes_without_data(layers, count):
    x, index = batch(count, 4)
    layout = TokenLayout.from_index(index)
    given = x.requires_grad_(), index, layout, layout.to_edge_index(), layout.ptr
    expected = shapes_of(layers, *given)
    meta = {name: deepcopy(layer).to("meta") for name, layer in layers.items()}
    moved = [t.detach().to("meta") if t is x else t.to("meta") for t in given]
    found = shapes_of(meta, moved[0].requires_grad_(), *moved[1:])
    assert found == [(shape, "meta", gradient) for shape, _, gradient in expected]
    message = "'index' is of the meta device or a fake tensor.*'dim_size'"
    with pytest.raises(ValueError, match=message):
        meta["encoder"](moved[0], moved[1])
    message = "'ptr' is of the meta device.*on the CPU"
    with pytest.raises(ValueError, match=message):
        WindowLayout.from_ptr(torch.tensor([0, 5], device="meta"))


def test_windows_without_data(layers):
    layer = TokenAttentionConv(16, 8, 2).to("meta")
    layout = WindowLayout.from_ptr(torch.tensor([0, 5, 30]), 4, 8).to("meta")
    x = torch.randn(30, 16, device="meta", requires_grad=True)
    out = layer(x, layout)
    assert out.shape == (30, 16)
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


@pytest.mark.scatter
@pytest.mark.parametrize("count", [5, 300])
def test_shapes_of_fake_tensors(count):
    with FakeTensorMode():
        layers = {
            "encoder": AtomAttentionEncoder(16, 8, 2),
            "encoder pairs": AtomAttentionEncoder(16, 8, 2, edge_dim=3),
            "conv": TokenAttentionConv(16, 8, 2),
        }
        x = torch.randn(count, 16, requires_grad=True)
        index = torch.zeros(count, dtype=torch.long)
        layout = TokenLayout.from_index(index, 4)
        assert layout.num_tokens == 4 and layout.host_ptr.shape == (5,)
        for out, rows in (
            (layers["encoder"](x, index, dim_size=4), 4),
            (layers["encoder"](x, layout), 4),
            (layers["encoder"](x, ptr=torch.zeros(6, dtype=torch.long)), 5),
            (layers["encoder pairs"](x, layout, edge_attr=torch.randn(7, 3)), 4),
            (layers["conv"](x, layout), count),
            (layers["conv"](x, torch.zeros(2, 7, dtype=torch.long)), count),
        ):
            assert out.size(0) == rows
            assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape
        message = "'index' is of the meta device or a fake tensor.*'dim_size'"
        with pytest.raises(ValueError, match=message):
            layers["encoder"](x, index)
