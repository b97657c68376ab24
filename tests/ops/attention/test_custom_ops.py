"""The operators keep their promises to torch.compile and autograd."""

import pytest
import torch
from torch.library import opcheck

from pyg_atomenc.ops.attention import TokenLayout
from pyg_atomenc.ops.attention.backends import _dense_encode, _dense_ops  # noqa: F401
from pyg_atomenc.ops.attention.custom_ops import Setting

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
