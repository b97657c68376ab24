"""Windows by matrices equal windows by edges."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyg_atomenc.attention import WindowLayout, attention, attention_pool, backends
from pyg_atomenc.attention.dense import windows as dense_windows


def make(ptr, queries=4, keys=8, *, bias=True, dtype=torch.float64, **options):
    layout = WindowLayout.from_batch(torch.tensor(ptr), queries, keys, **options)
    shape = (layout.num_atoms, 2, 3)
    tensors = [torch.randn(shape, dtype=dtype) for _ in range(3)]
    if bias:
        tensors.append(torch.randn(layout.num_pairs, 2, dtype=dtype))
    return layout, [t.requires_grad_() for t in tensors]


def run(layout, query, key, value, bias=None, backend="dense", dropout=0.0):
    return attention(query, key, value, layout, bias, backend=backend, dropout=dropout)


@pytest.mark.scatter
@pytest.mark.parametrize("ptr", [[0, 9], [0, 1, 24], [0, 3, 3, 4, 40], [0, 4, 12], [0]])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("step", [1, 512])
def test_equals_the_edges(ptr, bias, shifted, step, monkeypatch):
    monkeypatch.setattr(dense_windows, "MAX_WINDOWS", step)
    layout, tensors = make(ptr, bias=bias, shifted=shifted)
    outs = [run(layout, *tensors, backend=name) for name in ("dense", "edges")]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-12)
    if layout.num_atoms:
        grads = [torch.autograd.grad(out.pow(2).sum(), tensors) for out in outs]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_first_and_second_derivatives():
    layout, tensors = make([0, 3, 10], 2, 4)
    assert gradcheck(lambda *t: run(layout, *t), tensors)
    assert gradgradcheck(lambda *t: run(layout, *t), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_within_the_stated_tolerance(dtype):
    layout, tensors = make([0, 3, 70], 32, 128, dtype=dtype)
    exact = run(layout, *(t.double() for t in tensors), backend="edges")
    found = run(layout, *tensors)
    assert found.dtype == dtype
    error = (found.double() - exact).abs().max() / exact.abs().max()
    assert error <= backends()["dense"].tolerance[dtype]


def test_a_far_atom_changes_nothing():
    layout, tensors = make([0, 40], bias=False)
    out = run(layout, *tensors)
    with torch.no_grad():
        for tensor in tensors:
            tensor[30:] = torch.nan
    again = run(layout, *tensors)
    seen = layout.to_edge_index()
    touched = seen[1][(seen >= 30).any(0)].unique()
    untouched = torch.ones(40, dtype=torch.bool).index_fill(0, touched, False)
    assert untouched.sum() > 20
    assert torch.equal(out[untouched], again[untouched])


def test_dropout_keeps_the_mean():
    layout, tensors = make([0, 9])
    mean = torch.stack([run(layout, *tensors, dropout=0.3) for _ in range(3000)])
    error = (mean.mean(0) - run(layout, *tensors)).abs() / (mean.std(0) / 3000**0.5)
    assert error.max() < 5


@pytest.mark.parametrize("count", [5, 700])
def test_tangents(count):
    layout = WindowLayout.from_ptr(torch.tensor([0, count]), 4, 8)
    x, step = torch.randn(2, 3, count, 2, 5, dtype=torch.float64)

    def function(x):
        return run(layout, *x)

    _, found = torch.func.jvp(function, (x,), (step,))
    expected = (function(x + 1e-6 * step) - function(x - 1e-6 * step)) / 2e-6
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, step)
        other = torch.autograd.forward_ad.unpack_dual(function(dual)).tangent
    torch.testing.assert_close(other, found)


def test_compiles():
    layout, tensors = make([0, 9, 30], dtype=torch.float32)
    compiled = torch.compile(run, fullgraph=True)
    torch.testing.assert_close(compiled(layout, *tensors), run(layout, *tensors))


def test_windows_have_no_tokens_to_pool_into():
    layout, tensors = make([0, 9], bias=False)
    for backend in ("auto", "edges"):
        with pytest.raises(ValueError, match="'layout' is of type WindowLayout"):
            attention_pool(*tensors, layout, backend=backend)
