"""`attention` takes samples of every layout, on every backend."""

import pytest
import torch

from pyg_atomenc.attention import (
    EdgeLayout,
    TokenLayout,
    WindowLayout,
    attention,
    attention_pool,
    backends,
)

LAYOUTS = {
    "tokens": lambda: TokenLayout.from_index(torch.tensor([2, 0, 0, 2, 1, 0, 2])),
    "windows": lambda: WindowLayout.from_ptr(torch.tensor([0, 2, 7]), 2, 4),
    "edges": lambda: EdgeLayout.from_edge_index(
        torch.tensor([[0, 3, 3, 8, 1], [1, 1, 6, 0, 1]]), 9, 7
    ),
}
CASES = [
    (kind, name)
    for kind in LAYOUTS
    for name, backend in backends().items()
    if kind in backend.layouts and torch.float64 in backend.tolerance
]


def make(kind, samples=3, value_heads=2):
    layout = LAYOUTS[kind]()
    shapes = [(samples, layout.num_targets, 2, 3), (samples, layout.num_sources, 2, 3)]
    shapes += [(samples, layout.num_sources, value_heads, 4), (layout.num_pairs, 2)]
    tensors = [torch.randn(s, dtype=torch.float64).requires_grad_() for s in shapes]
    return layout, tensors


@pytest.mark.parametrize("value_heads", [1, 2])
@pytest.mark.parametrize("kind, backend", [*CASES, *((k, "auto") for k in LAYOUTS)])
def test_samples_equal_each_of_them(kind, backend, value_heads):
    layout, (query, key, value, bias) = make(kind, value_heads=value_heads)
    found = attention(query, key, value, layout, bias, backend=backend)
    assert found.shape == (3, layout.num_targets, 2, 4)
    each = zip(query, key, value, strict=True)
    expected = [attention(*one, layout, bias, backend="edges") for one in each]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)
    tensors = (query, key, value, bias)
    grads = torch.autograd.grad(found.sin().sum(), tensors)
    others = torch.autograd.grad(torch.stack(expected).sin().sum(), tensors)
    for one, other in zip(grads, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind, backend", CASES)
def test_no_samples(kind, backend, grad):
    layout, tensors = make(kind, 0)
    with torch.set_grad_enabled(grad):
        found = attention(*tensors[:3], layout, tensors[3], backend=backend)
    assert found.shape == (0, layout.num_targets, 2, 4)
    assert found.dtype == torch.float64
    if grad:
        for one in torch.autograd.grad(found.sum(), tensors):
            assert one.eq(0).all()


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind, backend", CASES)
def test_autocast_changes_nothing(kind, backend, grad, samples):
    layout, tensors = make(kind, samples or 1)
    tensors = [t.detach().float().requires_grad_(grad) for t in tensors]
    if samples is None:
        tensors[:3] = [t[0] for t in tensors[:3]]
    expected = attention(*tensors[:3], layout, tensors[3], backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(*tensors[:3], layout, tensors[3], backend=backend)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_bad_input():
    layout, (query, key, value, bias) = make("windows")
    bad = {
        r"'key' needs the shape of 'query'": (query, key[0], value),
        r"'key' needs the shape of 'query' \(but": (query, key[:2], value),
        r"'value' needs the shape \[num_atoms, heads or 1": (query, key, value[:2]),
        r"\[num_atoms, heads, channels\] or \[samples, num_atoms, heads, channels\]": (
            query[None],
            key,
            value,
        ),
        r"'query' has 6 rows for 7 atoms": (query[:, 1:], key, value),
        r"'key' has 6 rows for 7 atoms": (query, key[:, 1:], value[:, 1:]),
    }
    for message, qkv in bad.items():
        with pytest.raises(ValueError, match=message):
            attention(*qkv, layout, bias)
    with pytest.raises(ValueError, match=r"'bias' needs the shape \[\d+, 2\]"):
        attention(query, key, value, layout, bias[1:])
    layout, (query, key, value, bias) = make("tokens")
    message = (
        r"'query' needs the shape \[num_atoms, heads, channels\], f.*\[3, 7, 2, 3\]"
    )
    with pytest.raises(ValueError, match=message):
        attention_pool(query, key, value, layout, bias)
