"""The plain formula equals the loop over tokens, though nobody can name it."""

import pytest
import torch
from oracle import bias_matrix, partitions, token_loop

from pyg_atomenc.attention import TokenLayout, attention_pool, backends
from pyg_atomenc.attention.inputs import AttentionInputs
from pyg_atomenc.attention.plain import PlainBackend

PARTITIONS = partitions()


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("value_heads", [1, 2])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_the_loop(name, value_heads, with_bias):
    index, num_tokens = PARTITIONS[name]
    layout = TokenLayout.from_index(index, num_tokens)
    query, key = torch.randn(2, len(index), 2, 3, dtype=torch.float64).unbind()
    value = torch.randn(len(index), value_heads, 5, dtype=torch.float64)
    pairs = torch.randn(layout.num_pairs, 2, dtype=torch.float64) if with_bias else None
    inputs = AttentionInputs(query, key, value, layout, pairs)
    plain = PlainBackend()
    found = plain.attention(inputs), *plain.attention_pool(inputs)
    bias = bias_matrix(layout, pairs)
    expected = token_loop(query, key, value, index, num_tokens, bias)
    for one, other in zip(found, expected, strict=False):
        torch.testing.assert_close(one, torch.from_numpy(other), rtol=0, atol=1e-12)


def test_gradients_and_types():
    index, num_tokens = PARTITIONS["gappy"]
    layout = TokenLayout.from_index(index, num_tokens)
    qkv = [torch.randn(len(index), 2, 3, requires_grad=True) for _ in range(3)]
    found, _ = PlainBackend().attention_pool(AttentionInputs(*qkv, layout))
    expected, _ = attention_pool(*qkv, layout)
    gradients = [
        torch.autograd.grad(out.pow(2).sum(), qkv) for out in (found, expected)
    ]
    torch.testing.assert_close(*gradients)
    half = [t.detach().bfloat16() for t in qkv]
    out, weights = PlainBackend().attention_pool(AttentionInputs(*half, layout))
    assert (out.dtype, weights.dtype) == (torch.bfloat16, torch.float32)


def test_nobody_can_name_it():
    assert "plain" not in backends()
