"""FLOP counters see the products of the definition, whatever computes them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pyg_atomenc.attention import (
    TokenLayout,
    attention,
    attention_encode,
    attention_pool,
)

HEADS, WIDTH, CHANNELS = 2, 5, 3
# On both sides of what the kernels take; with empty tokens.
SIZES = {"small": [2, 1, 0, 3], "large": [0, 70, 9, 1]}


def counted(function):
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return counter.get_total_flops()


def per_token(query, key, value, layout):
    """Attention token by token, by the products that the definition has."""
    outputs = []
    for atoms in layout.perm.split(layout.sizes.tolist()):
        q, k, v = (t[atoms].transpose(0, 1) for t in (query, key, value))
        alpha = torch.bmm(q, k.mT).softmax(-1)
        outputs.append(torch.bmm(alpha, v).transpose(0, 1))
    return torch.cat(outputs)


def project(x, weights):
    return [torch.mm(x, w.flatten(0, 1).T).view(-1, HEADS, WIDTH) for w in weights]


@pytest.fixture(params=SIZES)
def layout(request):
    sizes = torch.tensor(SIZES[request.param])
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    return TokenLayout.from_index(index[torch.randperm(len(index))], len(sizes))


@pytest.mark.parametrize("backend", ["dense", "triton"])
@pytest.mark.parametrize("function", [attention, attention_pool])
def test_attention(function, layout, backend):
    qkv = [torch.randn(layout.num_atoms, HEADS, WIDTH) for _ in range(3)]

    def run():
        out = function(*qkv, layout, backend=backend)
        return out if function is attention else out[0]

    assert counted(run) == counted(lambda: per_token(*qkv, layout))
    for tensor in qkv:
        tensor.requires_grad_()
    found = counted(lambda: run().sum().backward())
    assert found == counted(lambda: per_token(*qkv, layout).sum().backward())


@pytest.mark.parametrize("backend", ["dense", "triton"])
def test_encode(layout, backend):
    x = torch.randn(layout.num_atoms, CHANNELS)
    weights = list(torch.randn(3, HEADS, WIDTH, CHANNELS).unbind())

    def run():
        return attention_encode(x, tuple(weights), layout, backend=backend)[0]

    def reference():
        return per_token(*project(x, weights), layout)

    assert counted(run) == counted(reference)
    for tensor in (x, *weights):
        tensor.requires_grad_()
    found = counted(lambda: run().sum().backward())
    assert found == counted(lambda: reference().sum().backward())


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (1, 3), (0, 2)])
def test_only_what_is_needed_is_counted(layout, needed):
    x = torch.randn(layout.num_atoms, CHANNELS)
    weights = list(torch.randn(3, HEADS, WIDTH, CHANNELS).unbind())
    for i in needed:
        (x, *weights)[i].requires_grad_()

    def run():
        tokens, _ = attention_encode(x, tuple(weights), layout, backend="dense")
        tokens.sum().backward()

    def reference():
        per_token(*project(x, weights), layout).sum().backward()

    assert counted(run) == counted(reference)


def test_many_atoms():
    layout = TokenLayout.from_index(torch.arange(2000) // 7)
    pairs = 285 * 7**2 + 5**2
    qkv = [torch.randn(2000, HEADS, WIDTH) for _ in range(3)]
    assert counted(lambda: attention(*qkv, layout)) == 4 * pairs * HEADS * WIDTH


def test_without_data(layout):
    qkv = [torch.randn(layout.num_atoms, HEADS, WIDTH) for _ in range(3)]
    expected = counted(lambda: attention(*qkv, layout))
    moved = [t.to("meta") for t in qkv]
    assert counted(lambda: attention(*moved, layout.to("meta"))) == expected
