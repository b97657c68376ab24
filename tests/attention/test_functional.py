"""Every backend equals the loop over tokens, forward and backward."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import BACKENDS, BY_BACKEND, bias_matrix, partitions, token_loop
from torch.autograd import gradcheck, gradgradcheck

from pyg_atomenc.attention import (
    TokenLayout,
    attention,
    attention_pool,
    backends,
)

PARTITIONS = partitions()


def make_inputs(name, heads=2, channels=3, value_heads=None, bias=False):
    index, num_tokens = PARTITIONS[name]
    layout = TokenLayout.from_index(index, num_tokens)
    shape = (index.numel(), heads, channels)
    query, key = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    value = torch.randn(index.numel(), value_heads or heads, 5, dtype=torch.float64)
    pairs = torch.randn(layout.num_pairs, heads, dtype=torch.float64) if bias else None
    return [query, key, value], layout, pairs


@BY_BACKEND
@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("value_heads", [1, 2])
def test_equals_the_loop(backend, name, bias, value_heads):
    qkv, layout, pairs = make_inputs(name, value_heads=value_heads, bias=bias)
    args = (*qkv, layout.atom_to_token, layout.num_tokens, bias_matrix(layout, pairs))
    atoms, tokens, weights, _ = token_loop(*args)
    out = attention(*qkv, layout, pairs, backend=backend)
    torch.testing.assert_close(out, torch.from_numpy(atoms), rtol=0, atol=1e-12)
    pooled, counted = attention_pool(*qkv, layout, pairs, backend=backend)
    torch.testing.assert_close(pooled, torch.from_numpy(tokens), rtol=0, atol=1e-12)
    torch.testing.assert_close(counted, torch.from_numpy(weights), rtol=0, atol=1e-12)


@BY_BACKEND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lowest_number_as_a_bias_is_no_infinity(backend, dtype):
    layout = TokenLayout.from_index(torch.tensor([0, 0, 0]))
    query, key, value = (torch.randn(3, 1, 2, dtype=dtype) for _ in range(3))
    bias = torch.zeros(9, 1, dtype=dtype)
    # The first atom attends to all alike, the others to themselves.
    bias[[0, 1, 2, 3, 5, 6, 7]] = torch.finfo(dtype).min
    bias.requires_grad_()
    out = attention(query, key, value, layout, bias, backend=backend)
    expected = torch.stack([value.mean(0), value[1], value[2]])
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out[0].sum(), bias)
    sums = value.sum((1, 2))
    torch.testing.assert_close(grad[:3, 0], (sums - sums.mean()) / 3)


SMALL = ["shuffled", "gappy", "one atom", "nothing"]


@BY_BACKEND
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_first_and_second_derivatives(backend, name, bias, pool):
    qkv, layout, pairs = make_inputs(name, value_heads=1, bias=bias)
    inputs = [t.requires_grad_() for t in (*qkv, pairs) if t is not None]

    def function(query, key, value, bias=None):
        run = attention_pool if pool else attention
        return run(query, key, value, layout, bias, backend=backend)

    # In full for few atoms, along random directions for more.
    fast = layout.num_atoms > 6
    assert gradcheck(function, inputs, fast_mode=fast)
    assert gradgradcheck(function, inputs, fast_mode=fast)


def test_third_derivative():
    qkv, layout, _ = make_inputs("gappy")
    query = qkv[0].requires_grad_()
    found = []
    for backend in BACKENDS:
        tokens, _ = attention_pool(*qkv, layout, backend=backend)
        out = tokens.pow(3).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(out, query, create_graph=True)
            out = grad.pow(2).sum()
        found.append(grad.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=60),
    st.integers(0, 2),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)
def test_backends_agree_on_random_partitions(ids, extra, dtype, with_bias):
    index = torch.tensor(ids)
    layout = TokenLayout.from_index(index, max(ids) + 1 + extra)
    query, key, value = (torch.randn(len(ids), 2, 4, dtype=dtype) for _ in range(3))
    bias = torch.randn(layout.num_pairs, 2, dtype=dtype) if with_bias else None
    inputs = [t.requires_grad_() for t in (query, key, value, bias) if t is not None]
    results = []
    for name in BACKENDS:
        out, _ = attention_pool(query, key, value, layout, bias, backend=name)
        atoms = attention(query, key, value, layout, bias, backend=name)
        loss = (out * torch.linspace(-1, 1, out.size(-1), dtype=dtype)).sum()
        grads = torch.autograd.grad(loss + atoms.pow(2).sum(), inputs)
        results.append((out, atoms, *grads))
        tolerance = backends()[name].tolerance[dtype]
    for first, second in zip(*results, strict=True):
        scale = first.abs().max().clamp(min=1)
        assert (first - second).abs().max() <= tolerance * scale


@BY_BACKEND
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_within_the_stated_tolerance(backend, dtype):
    exact, layout, bias = make_inputs("many sizes", bias=True)
    rounded = [t.to(dtype) for t in (*exact, bias)]
    *qkv, pairs = (t.double() for t in rounded)
    expected, _ = attention_pool(*qkv, layout, pairs, backend="edges")
    *qkv, pairs = rounded
    out, weights = attention_pool(*qkv, layout, pairs, backend=backend)
    assert out.dtype == dtype and weights.dtype == torch.float32
    tolerance = backends()[backend].tolerance[dtype]
    assert (out.double() - expected).abs().max() <= tolerance * expected.abs().max()
    atoms = attention(*qkv, layout, pairs, backend=backend)
    assert atoms.dtype == dtype


@BY_BACKEND
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_do_not_saturate_in_half_precision(backend, dtype):
    # 3,000 equal values of 100: their sum is out of float16's range, and every
    # bfloat16 partial sum past 256 × 100 would lose the next summand.
    layout = TokenLayout.from_index(torch.zeros(3000, dtype=torch.long))
    zeros, value = torch.zeros(3000, 1, 2), torch.full((3000, 1, 2), 100.0)
    out, _ = attention_pool(
        zeros.to(dtype), zeros.to(dtype), value.to(dtype), layout, backend=backend
    )
    assert (out == 100).all()


@BY_BACKEND
def test_weights_sum_to_one_and_survive_extreme_logits(backend):
    qkv, layout, _ = make_inputs("shuffled")
    qkv[0] *= 1e4
    out, weights = attention_pool(*qkv, layout, backend=backend)
    assert out.isfinite().all()
    total = torch.zeros(layout.num_tokens, 2, dtype=torch.float64)
    total.index_add_(0, layout.atom_to_token, weights)
    torch.testing.assert_close(total, torch.ones_like(total))


@BY_BACKEND
def test_no_value_nor_gradient_crosses_tokens(backend):
    qkv, layout, _ = make_inputs("shuffled")
    for tensor in qkv:
        tensor.requires_grad_()
    out, _ = attention_pool(*qkv, layout, backend=backend)
    grads = torch.autograd.grad(out[2].sum(), qkv)
    outside = layout.atom_to_token != 2
    for grad in grads:
        assert (grad[outside] == 0).all()
        assert (grad[~outside] != 0).any()
    with torch.no_grad():
        for tensor in qkv:
            tensor[layout.atom_to_token == 3] = torch.nan
        out, _ = attention_pool(*qkv, layout, backend=backend)
    kept = torch.arange(layout.num_tokens) != 3
    assert out[kept].isfinite().all()
    assert out[3].isnan().any()


@BY_BACKEND
def test_permuting_atoms_permutes_the_output(backend):
    qkv, layout, _ = make_inputs("many sizes")
    perm = torch.randperm(layout.num_atoms)
    moved = TokenLayout.from_index(layout.atom_to_token[perm], layout.num_tokens)
    permuted = [t[perm] for t in qkv]
    torch.testing.assert_close(
        attention(*permuted, moved, backend=backend),
        attention(*qkv, layout, backend=backend)[perm],
    )
    torch.testing.assert_close(
        attention_pool(*permuted, moved, backend=backend)[0],
        attention_pool(*qkv, layout, backend=backend)[0],
    )


@BY_BACKEND
def test_strided_inputs(backend):
    qkv, layout, _ = make_inputs("shuffled")
    strided = [t.movedim(0, 2).contiguous().movedim(2, 0) for t in qkv]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(
        attention(*strided, layout, backend=backend),
        attention(*qkv, layout, backend=backend),
    )


@BY_BACKEND
@pytest.mark.parametrize("pool", [False, True])
def test_dropout_keeps_the_mean_and_follows_the_seed(backend, pool):
    layout = TokenLayout.from_index(torch.zeros(2000, dtype=torch.long))
    query, key = torch.zeros(2000, 1, 1), torch.zeros(2000, 1, 1)
    value = torch.ones(2000, 1, 1)
    options = {"dropout": 0.25, "backend": backend}

    def run(seed):
        torch.manual_seed(seed)
        if pool:
            return attention_pool(query, key, value, layout, **options)[0]
        return attention(query, key, value, layout, **options)

    out = run(1)
    assert torch.equal(out, run(1)) and not torch.equal(out, run(2))
    assert abs(out.mean() - 1) < 0.01
    if not pool:
        # Sums of 2,000 draws: their spread is that of independent coins.
        assert 0.5 < out.std() / (0.25 / 0.75 / 2000) ** 0.5 < 1.5


@pytest.mark.parametrize("pool", [False, True])
def test_gradients_of_dropout_use_the_same_draw(pool):
    qkv, layout, bias = make_inputs("gappy", bias=True)
    inputs = [t.requires_grad_() for t in (*qkv, bias)]
    function = attention_pool if pool else attention

    def run(query, key, value, bias):
        torch.manual_seed(5)
        return function(query, key, value, layout, bias, dropout=0.4, backend="dense")

    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_edge_and_dense_agree_where_a_token_is_cut_into_row_blocks(monkeypatch):
    from pyg_atomenc.attention.dense import plan

    monkeypatch.setattr(plan, "CPU", plan.CPU._replace(entries=64))
    qkv, layout, bias = make_inputs("many sizes", bias=True)
    inputs = [t.requires_grad_() for t in (*qkv, bias)]
    found = []
    for backend in ("edges", "dense"):
        out, _ = attention_pool(*qkv, layout, bias, backend=backend)
        atoms = attention(*qkv, layout, bias, backend=backend)
        loss = out.pow(2).sum() + atoms.pow(3).sum()
        found.append((out, atoms, *torch.autograd.grad(loss, inputs)))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-11)


def test_only_asked_gradients_are_computed():
    qkv, layout, _ = make_inputs("shuffled")
    value = qkv[2].requires_grad_()
    attention_pool(*qkv, layout, backend="dense")[0].sum().backward()
    assert value.grad is not None
    assert qkv[0].grad is None and qkv[1].grad is None


def shapes(**changes):
    given = {
        "query": torch.zeros(3, 2, 4),
        "key": torch.zeros(3, 2, 4),
        "value": torch.zeros(3, 2, 4),
        "layout": TokenLayout.from_index(torch.tensor([0, 0, 1])),
    }
    return given | changes


BAD = {
    "no tensor": ({"query": [1.0]}, r"'query' is of type list"),
    "integers": ({"key": torch.zeros(3, 2, 4).long()}, r"'key' is of type torch.int64"),
    "matrix": ({"query": torch.zeros(3, 4)}, r"'query' needs the shape.*\[3, 4\]"),
    "other key": ({"key": torch.zeros(3, 2, 5)}, r"'key' needs the shape of 'query'"),
    "other value": ({"value": torch.zeros(3, 3, 4)}, r"'value' needs the shape"),
    "no heads": (
        dict.fromkeys(("query", "key", "value"), torch.zeros(3, 0, 4)),
        r"'query' needs the shape of at least one head and channel",
    ),
    "no channels": (
        dict.fromkeys(("query", "key"), torch.zeros(3, 2, 0)),
        r"'query' needs the shape of at least one head and channel",
    ),
    "no values": ({"value": torch.zeros(3, 2, 0)}, r"head and channel, 'value', too"),
    "other type": ({"value": torch.zeros(3, 2, 4).half()}, r"'value' is of type"),
    "no layout": ({"layout": torch.tensor([0, 0, 1])}, r"'layout' is of type Tensor"),
    "other layout": (
        {"layout": TokenLayout.from_index(torch.tensor([0]))},
        r"'query' has 3 rows for 1 atoms of 'layout': build the layout",
    ),
    "bias rows": ({"bias": torch.zeros(4, 2)}, r"'bias' needs the shape \[5, 2\]"),
    "bias heads": ({"bias": torch.zeros(5, 1)}, r"'bias' needs the shape"),
    "dropout": ({"dropout": 1.0}, r"'dropout' is 1.0"),
    "backend": (
        {"backend": "fast"},
        r"'backend' is 'fast'.*'auto', 'triton', 'dense', 'edges'",
    ),
    "device": (
        {"layout": TokenLayout.from_index(torch.tensor([0, 0, 1])).to("meta")},
        r"'query' is on cpu, but 'layout' on meta",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("function", [attention, attention_pool])
def test_bad_inputs(name, function):
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        function(**shapes(**changes))


@BY_BACKEND
def test_vmap_is_a_loop(backend):
    qkv, layout, _ = make_inputs("shuffled")
    stacked = [torch.stack([t, 2 * t]) for t in qkv]

    def run(query, key, value):
        return attention(query, key, value, layout, backend=backend)

    found = torch.vmap(run)(*stacked)
    torch.testing.assert_close(found[0], run(*qkv))
    torch.testing.assert_close(found[1], run(*(2 * t for t in qkv)))
