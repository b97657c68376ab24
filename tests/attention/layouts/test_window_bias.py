import pytest
import torch

from pyg_atomenc.attention import TokenLayout, WindowBias, WindowLayout, attention


def make(ptr, heads=2, **options):
    layout = WindowLayout.from_ptr(torch.tensor(ptr), 4, 8, **options)
    bias = torch.randn(layout.num_pairs, heads, dtype=torch.float64)
    return layout, bias.requires_grad_()


@pytest.mark.parametrize("ptr", [[0, 9], [0, 1, 24], [0, 3, 3, 4, 40], [0]])
@pytest.mark.parametrize("shifted", [False, True])
def test_there_and_back(ptr, shifted):
    layout, bias = make(ptr, shifted=shifted)
    packed = WindowBias.from_edges(bias, layout)
    assert packed.values.shape == (layout.num_windows, 2, 4, 8)
    assert torch.equal(packed.to_edges(layout), bias)


@pytest.mark.parametrize("backend", ["dense", "edges"])
def test_attends_as_the_bias_of_edges_does(backend):
    layout, bias = make([0, 3, 3, 4, 40])
    qkv = torch.randn(3, 40, 2, 5, dtype=torch.float64).requires_grad_()
    outs = [
        attention(*qkv, layout, given, backend=backend)
        for given in (bias, WindowBias.from_edges(bias, layout))
    ]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-12)
    grads = [torch.autograd.grad(o.sin().sum(), (qkv, bias)) for o in outs]
    for one, other in zip(*grads, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_without_gradients_the_fused_attention_gives_the_same():
    layout, bias = make([0, 3, 3, 4, 40])
    qkv = torch.randn(3, 40, 2, 5, dtype=torch.float64).requires_grad_()
    expected = attention(*qkv, layout, bias, backend="edges")
    with torch.no_grad():
        for given in (bias, WindowBias.from_edges(bias, layout)):
            found = attention(*qkv, layout, given, backend="dense")
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_bad_input():
    layout, bias = make([0, 9])
    with pytest.raises(ValueError, match=r"'bias' needs the shape \[\d+, heads\]"):
        WindowBias.from_edges(bias[:-1], layout)
    qkv = torch.randn(3, 9, 2, 5, dtype=torch.float64)
    packed = WindowBias.from_edges(bias, layout)
    tokens = TokenLayout.from_index(torch.zeros(9, dtype=torch.long))
    with pytest.raises(ValueError, match="'layout' is of type TokenLayout.*of windows"):
        attention(*qkv, tokens, packed)
    other, _ = make([0, 4, 9])
    with pytest.raises(ValueError, match=r"'bias' needs the shape \[3, 2, 4, 8\]"):
        attention(*qkv, other, WindowBias(packed.values[:1]))
