"""The operators keep their promises to torch.compile and autograd."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.library import opcheck

from pyg_atomenc.attention import TokenLayout, autograd
from pyg_atomenc.attention.autograd import Setting
from pyg_atomenc.attention.dense import encode, operators

INDEX = torch.tensor([3, 0, 0, 5, 3, 3, 1, 0, 5])


def setting(dropout):
    return Setting.from_layout(TokenLayout.from_index(INDEX, 7), dropout).flat()


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
    opcheck(op, (*tensors(name, with_bias), *setting(dropout)))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", ["attend", "attend_pool", "encode"])
def test_backward_operators(name, with_bias):
    # Without gradients: a compiled graph has no second derivative. That of eager
    # calls is what the gradgradchecks of every operator are about.
    values = [None if v is None else v.detach() for v in tensors(name, with_bias)]
    needed = [value is not None for value in values]
    op = getattr(torch.ops.pyg_atomenc, f"{name}_backward").default
    outputs = [out.detach() for out in outputs_of(name)]
    opcheck(op, (*values, *outputs, *setting(0.0), needed))


def test_sort_atoms():
    opcheck(torch.ops.pyg_atomenc.sort_atoms.default, (INDEX, 7))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_small_inputs_give_the_same_without_an_operator(dropout, monkeypatch):
    values = tensors("encode", True)
    layout = TokenLayout.from_index(INDEX, 7)
    found = []
    for small in (-1, 9):
        monkeypatch.setattr(autograd, "SMALL", small)
        torch.manual_seed(1)
        tokens, weights = encode.encode(*values, Setting.from_layout(layout, dropout))
        assert ("encode" in tokens.grad_fn.name()) == (small < 9)
        loss = tokens.pow(2).sum() + weights.pow(2).sum()
        first = torch.autograd.grad(loss, values, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), values)
        found.append((tokens, weights, *first, *second))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_formulas_ignore_autocast():
    values = tensors("encode", True)
    layout = TokenLayout.from_index(INDEX, 7)
    expected, _ = encode.encode(*values, Setting.from_layout(layout, 0.0))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = encode.encode(*values, Setting.from_layout(layout, 0.0))
        found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert values[0].grad.dtype == torch.float64


def test_transforms_of_torch_func():
    values = tensors("encode", True)
    layout = Setting.from_layout(TokenLayout.from_index(INDEX, 7), 0.0)

    def loss(x):
        return encode.encode(x, *values[1:], layout)[0].pow(2).sum()

    x = values[0].detach()
    (expected,) = torch.autograd.grad(loss(values[0]), values[0])
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    direction = torch.randn_like(x)
    _, slope = torch.func.jvp(loss, (x,), (direction,))
    torch.testing.assert_close(slope, (expected * direction).sum())
    with pytest.raises(ValueError, match="put the copies into one batch"):
        torch.vmap(loss)(torch.stack([x, x]))


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
    layout = Setting.from_layout(TokenLayout.from_index(INDEX, 7), 0.0)

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
