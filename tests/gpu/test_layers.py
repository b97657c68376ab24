"""The layers on a CUDA device equal loops in float64, or themselves on the CPU."""

import copy

import pytest
import torch
from gpu_cases import (
    BACKENDS,
    DTYPES,
    SIZES,
    check_close,
    draw_index,
    draw_layout,
    draw_weights,
    encode_loop,
    gradients,
)

from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv
from pyg_atomenc.attention import (
    EdgeLayout,
    TokenLayout,
    WindowLayout,
    attention,
    attention_encode,
    backends,
)
from pyg_atomenc.nn import AtomTransformer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_encode_equals_the_loop(backend, dtype, device):
    layout = draw_layout(device=device)
    heads, width, channels = 4, 32, 128
    shapes = [(layout.num_atoms, channels), *3 * [(heads, width, channels)]]
    shapes += [(layout.num_pairs, heads), *3 * [(heads, width)]]
    drawn = [torch.randn(shape) for shape in shapes]
    drawn[1:4] = [w / channels**0.5 for w in drawn[1:4]]
    drawn = [t.to(dtype) for t in drawn]
    exact = [t.double().requires_grad_() for t in drawn]
    tensors = [t.to(device).requires_grad_() for t in drawn]

    def given(values):
        return values[0], tuple(values[1:4]), values[4], tuple(values[5:])

    x, weights, bias, biases = given(tensors)
    found = attention_encode(x, weights, layout, bias, biases=biases, backend=backend)
    expected = encode_loop(layout, *given(exact))
    # Half types round queries, keys and what they are made of: one step more.
    allowed = backends()[backend].tolerance[dtype]
    allowed *= 1 if dtype == torch.float32 else 2
    check_close(found, expected, allowed, layout)
    ways = draw_weights(expected)
    # A bias of the keys changes no softmax: its gradient is 0 but for rounding.
    places = [place for place in range(len(tensors)) if place != 6]
    check_close(
        gradients(found, [tensors[i] for i in places], ways),
        gradients(expected, [exact[i] for i in places], ways),
        allowed,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_encoder_under_autocast(backend, dtype, device):
    layout = draw_layout(device=device)
    x = torch.randn(layout.num_atoms, 128, device=device)
    encoder = AtomAttentionEncoder(128, backend="dense").to(device)
    expected = encoder(x, layout)
    (gradient,) = torch.autograd.grad(expected.sum(), encoder.lin_value.weight)
    encoder.backend = backend
    with torch.autocast(device.type, dtype):
        found = encoder(x, layout)
    found.float().sum().backward()
    assert found.dtype == dtype
    check_close((found,), (expected.double().cpu(),), 3e-2)
    check_close((encoder.lin_value.weight.grad,), (gradient.double().cpu(),), 3e-2)


@pytest.mark.parametrize("way", ["ids", "ids and a number", "layout", "pointers"])
def test_an_encoder_equals_itself_on_the_cpu(way, device):
    encoder = AtomAttentionEncoder(16, 8, 2, edge_dim=3, bias=True)
    index, count = draw_index(SIZES[:60])
    if way == "pointers":
        index = index.sort().values
    layout = TokenLayout.from_index(index, count)
    x, pairs = torch.randn(len(index), 16), torch.randn(layout.num_pairs, 3)
    expected = encoder(x, layout, edge_attr=pairs, return_attention_weights=True)
    there = layout.to(device)
    arguments = {
        "ids": {"index": index.to(device)},
        "ids and a number": {"index": index.to(device), "dim_size": count},
        "layout": {"index": there},
        "pointers": {"ptr": there.ptr},
    }[way]
    options = {"edge_attr": pairs.to(device), "return_attention_weights": True}
    found = encoder.to(device)(x.to(device), **arguments, **options)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)


def layouts():
    """One of every kind, over 190 atoms."""
    index, count = draw_index((1, 2, 9, 14, 0, 40, 64, 60))
    pairs = torch.randint(0, 190, (2, 900))
    return {
        "tokens": TokenLayout.from_index(index, count),
        "windows": WindowLayout.from_ptr(torch.tensor([0, 100, 101, 190])),
        "edges": EdgeLayout.from_edge_index(pairs, 190, 190),
        "a list of edges": pairs,
    }


@pytest.mark.parametrize("backend", ["auto", "dense"])
@pytest.mark.parametrize("kind", layouts())
def test_a_conv_equals_itself_on_the_cpu(kind, backend, device):
    layout = layouts()[kind]
    edges = layout if isinstance(layout, torch.Tensor) else layout.to_edge_index()
    x, features = torch.randn(190, 16), torch.randn(edges.size(1), 3)
    conv = TokenAttentionConv(16, 8, 2, edge_dim=3, backend=backend)
    results = []
    for where, dtype in ((device, torch.float32), ("cpu", torch.float64)):
        made = copy.deepcopy(conv).to(where, dtype)
        atoms = x.to(where, dtype).requires_grad_()
        given = layout if where == device else edges
        out = made(atoms, given.to(where), features.to(where, dtype))
        leaves = [atoms, *made.parameters()]
        results.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    check_close(*results, 1e-4)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_windows(dtype, grad, device):
    layout = WindowLayout.from_ptr(torch.tensor([0, 500, 501, 1300]))
    shapes = [(1300, 4, 32)] * 3 + [(layout.num_pairs, 4)]
    drawn = [torch.randn(shape).to(dtype) for shape in shapes]
    exact = [t.double().requires_grad_(grad) for t in drawn]
    tensors = [t.to(device).requires_grad_(grad) for t in drawn]
    expected = (attention(*exact[:3], layout, exact[3], backend="edges"),)
    there = layout.to(device)
    tolerance = backends()["dense"].tolerance[dtype]
    found = (attention(*tensors[:3], there, tensors[3], backend="dense"),)
    check_close(found, expected, tolerance)
    if grad:
        ways = draw_weights(expected)
        check_close(
            gradients(found, tensors, ways), gradients(expected, exact, ways), tolerance
        )


def test_windows_take_the_memory_efficient_kernel(cuda):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    layout = WindowLayout.from_ptr(torch.tensor([0, 500, 1300])).to(cuda)
    tensors = [torch.randn(1300, 4, 32, device=cuda) for _ in range(3)]
    bias = torch.randn(layout.num_pairs, 4, device=cuda)
    expected = attention(*tensors, layout, bias, backend="edges")
    # Which raises where the kernel cannot take the mask.
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        found = attention(*tensors, layout, bias, backend="dense")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["tokens", "windows"])
def test_a_transformer_equals_itself_on_the_cpu(kind, device):
    layout = layouts()[kind]
    model = AtomTransformer(32, 2, 4, cond_channels=6, pair_channels=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    drawn = [torch.randn(190, 32), torch.randn(190, 6)]
    drawn.append(torch.randn(layout.to_edge_index().size(1), 3))
    results = []
    for where in ("cpu", device):
        made = copy.deepcopy(model).to(where)
        x, cond, pair = (t.to(where) for t in drawn)
        results.append(made(x, layout.to(where), cond, pair))
    torch.testing.assert_close(results[1].cpu(), results[0], rtol=1e-4, atol=1e-4)
