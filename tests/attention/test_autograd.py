"""The operators keep their promises to torch.compile and autograd."""

from contextlib import nullcontext

import pytest
import torch
from torch.autograd import forward_ad
from torch.library import opcheck

from pyg_atomenc.attention import EdgeLayout, TokenLayout, attention_encode
from pyg_atomenc.attention.context import OperatorContext
from pyg_atomenc.attention.dense import edges, encode, operators

INDEX = torch.tensor([3, 0, 0, 5, 3, 3, 1, 0, 5])


def context(dropout):
    return OperatorContext.from_layout(TokenLayout.from_index(INDEX, 7), dropout)


def leaf(*shape):
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


def tensors(name, with_bias):
    pairs = leaf(9 + 1 + 4 + 9, 2) if with_bias else None
    if name == "encode":
        weights = [leaf(2, 3, 4) for _ in range(3)]
        biases = [leaf(2, 3) if with_bias else None for _ in range(3)]
        return [leaf(9, 4), *weights, *biases, pairs]
    return [leaf(9, 2, 3), leaf(9, 2, 3), leaf(9, 1, 5), pairs]


def outputs_of(name):
    if name == "encode":
        return [leaf(7, 2, 3), leaf(9, 2)]
    return [leaf(9, 2, 5)] if name == "attend" else [leaf(7, 2, 5), leaf(9, 2)]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", ["attend", "attend_pool", "encode"])
def test_forward_operators(name, dropout, with_bias):
    op = getattr(torch.ops.pyg_atomenc, name).default
    opcheck(op, (*tensors(name, with_bias), *context(dropout)))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", ["attend", "attend_pool", "encode"])
def test_backward_operators(name, with_bias):
    # Without gradients: a compiled graph has no second derivative. That of eager
    # calls is what the gradgradchecks of every operator are about.
    values = [None if v is None else v.detach() for v in tensors(name, with_bias)]
    needed = [value is not None for value in values]
    op = getattr(torch.ops.pyg_atomenc, f"{name}_backward").default
    outputs = [out.detach() for out in outputs_of(name)]
    opcheck(op, (*values, *outputs, *context(0.0), needed))


def test_sort_atoms():
    opcheck(torch.ops.pyg_atomenc.sort_atoms.default, (INDEX, 7))


def test_formulas_ignore_autocast():
    values = tensors("encode", True)
    layout = TokenLayout.from_index(INDEX, 7)
    expected, _ = encode.encode(*values, OperatorContext.from_layout(layout, 0.0))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = encode.encode(*values, OperatorContext.from_layout(layout, 0.0))
        found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert values[0].grad.dtype == torch.float64


# On both sides of where batches are large, one behaviour.
COUNTS = [5, 400]


def problem(count):
    generator = torch.Generator().manual_seed(count)
    index = torch.randint(0, 1 + count // 4, (count,), generator=generator)
    layout = TokenLayout.from_index(index)
    x = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    weights = torch.randn(3, 2, 3, 4, dtype=torch.float64, generator=generator)
    bias = torch.randn(layout.num_pairs, 2, dtype=torch.float64, generator=generator)
    return OperatorContext.from_layout(layout, 0.0), x, weights, bias


@pytest.mark.parametrize("count", COUNTS)
def test_transforms_of_torch_func(count):
    context, x, weights, bias = problem(count)
    nothing = [None] * 3

    def loss(x, weights, bias):
        tokens, counted = encode.encode(x, *weights, *nothing, bias, context)
        return tokens.pow(2).sum() + counted.pow(3).sum()

    values = [x, weights, bias]
    leaves = [value.clone().requires_grad_() for value in values]
    expected = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    found = torch.func.grad(loss, (0, 1, 2))(*values)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach())
    direction = torch.randn_like(x)
    _, slope = torch.func.jvp(lambda x: loss(x, weights, bias), (x,), (direction,))
    torch.testing.assert_close(slope, (found[0] * direction).sum())
    # Over atoms and over weights, without gradients and with.
    several = [torch.stack([value, 2 * value]) for value in values]
    batched = torch.vmap(loss)(*several)
    torch.testing.assert_close(batched[0], loss(*values))
    rows = torch.vmap(torch.func.grad(loss), (None, 0, None))(x, several[1], bias)
    torch.testing.assert_close(rows[0], found[0])
    torch.testing.assert_close(rows[1], torch.func.grad(loss)(x, several[1][1], bias))
    product = torch.func.jvp(
        lambda x: torch.func.grad(loss)(x, weights, bias), (x,), (direction,)
    )[1]
    (second,) = torch.autograd.grad(expected[0], leaves[0], direction)
    torch.testing.assert_close(product, second)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["attend", "attend_pool", "encode"])
def test_vectorised_derivatives_of_autograd(name, count):
    context, x, weights, bias = problem(count)
    leaves = [t.requires_grad_() for t in (x, weights, bias)]

    def run(x, weights, bias):
        if name == "encode":
            return encode.encode(x, *weights, None, None, None, bias, context)[0]
        qkv = torch.einsum("nc,khdc->knhd", x, weights)
        operator = operators.attend if name == "attend" else operators.pool
        return operator(*qkv, bias, context)[0]

    out = run(*leaves)
    rows = torch.randn(3, *out.shape, dtype=out.dtype)
    options = {"create_graph": True, "is_grads_batched": True}
    first = torch.autograd.grad(out, leaves, rows, **options)
    for i, row in enumerate(rows):
        single = torch.autograd.grad(run(*leaves), leaves, row)
        for one, other in zip(first, single, strict=True):
            torch.testing.assert_close(one[i], other)
    (grad,) = torch.autograd.grad(run(*leaves).pow(2).sum(), x, create_graph=True)
    rows = torch.randn(3, *x.shape, dtype=x.dtype)
    second = torch.autograd.grad(
        grad, leaves, rows, is_grads_batched=True, retain_graph=True
    )
    for i, row in enumerate(rows):
        single = torch.autograd.grad(grad, leaves, row, retain_graph=True)
        for one, other in zip(second, single, strict=True):
            torch.testing.assert_close(one[i], other)


@pytest.mark.parametrize("count", [1, 3, 300])
def test_tokens_of_one_atom_give_gradients_of_zero(count):
    layout = TokenLayout.from_index(torch.arange(count))
    query, key, value = torch.randn(3, 2, 3, 4).unbind()
    query, key, value = (w.clone().requires_grad_() for w in (query, key, value))
    x = torch.randn(count, 4)
    tokens, _ = attention_encode(x, (query, key, value), layout)
    tokens.sum().backward()
    assert (query.grad == 0).all() and (key.grad == 0).all()
    assert (value.grad != 0).any()


@pytest.mark.parametrize("count", [5, 300])
def test_a_trace_and_a_profile_see_one_operator_at_every_size(count):
    layout = TokenLayout.from_index(torch.arange(count) // 3)
    weights = torch.randn(3, 2, 3, 4)
    x = torch.randn(count, 4)
    with torch.profiler.profile() as profile:
        expected, _ = attention_encode(x, tuple(weights), layout, backend="dense")
    assert "pyg_atomenc::encode" in {event.name for event in profile.events()}

    class Encode(torch.nn.Module):
        def forward(self, x):
            return attention_encode(x, tuple(weights), layout, backend="dense")[0]

    exported = torch.export.export(Encode(), (x,), strict=False)
    torch.testing.assert_close(exported.module()(x), expected)
    assert "pyg_atomenc.encode" in str(exported.graph)


class Watched(torch.utils._python_dispatch.TorchDispatchMode):
    """Collects the names of operators."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", ["attend", "attend_pool", "encode", "attend_edges"])
def test_a_mode_sees_the_operator_and_its_numbers_are_the_same(name, dropout):
    operator = {
        "attend": operators.attend,
        "attend_pool": operators.pool,
        "encode": encode.encode,
        "attend_edges": edges.attend_edges,
    }[name]
    values, given = tensors(name, name != "attend_edges"), context(dropout)
    if name == "attend_edges":
        layout = EdgeLayout.from_edge_index(torch.randint(9, (2, 30)), 9)
        given = OperatorContext.from_layout(layout, dropout)
        values = [leaf(9, 2, 3), leaf(9, 2, 3), leaf(9, 2, 5), leaf(30, 2)]
    found, mode = [], Watched()
    for watched in (nullcontext(), mode):
        with watched:
            outputs = operator(*values, given)
            loss = sum(out.square().sum() for out in outputs)
            found.append([*outputs, *torch.autograd.grad(loss, values)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    assert {f"pyg_atomenc::{name}", f"pyg_atomenc::{name}_backward"} <= mode.names


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["attend", "attend_pool", "encode"])
def test_tangents_of_forward_mode(name, grad):
    operator = {
        "attend": operators.attend,
        "attend_pool": operators.pool,
        "encode": encode.encode,
    }[name]
    values = tensors(name, True)
    directions = [torch.randn_like(v) for v in values]
    layout = OperatorContext.from_layout(TokenLayout.from_index(INDEX, 7), 0.0)

    def run(step):
        moved = [v + step * d for v, d in zip(values, directions, strict=True)]
        return operator(*moved, layout)

    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        duals = map(forward_ad.make_dual, values, directions)
        found = [forward_ad.unpack_dual(out) for out in operator(*duals, layout)]
    # Central differences.
    for out, after, before in zip(found, run(1e-5), run(-1e-5), strict=True):
        expected = (after - before) / 2e-5
        torch.testing.assert_close(out.tangent, expected, rtol=1e-6, atol=1e-8)
