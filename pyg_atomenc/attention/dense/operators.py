"""The dense backend's `attend` and `attend_pool`: q, k, v → atoms or tokens.

Shapes inside a chunk are told in `attend.py`.
"""

from collections.abc import Iterator, Sequence
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import (
    DropoutMask,
    OperatorContext,
    OperatorDefinition,
    Tensors,
    define_operator,
)
from pyg_atomenc.attention.dense.attend import (
    ChunkHeads,
    LogitBias,
    atom_weights,
    atom_weights_gradient,
    read_heads,
    read_output_gradients,
    softmax_gradient,
    token_sizes,
    writer,
)
from pyg_atomenc.attention.dense.plan import Chunk, chunks_of
from pyg_atomenc.attention.dense.rows import RowWriter
from pyg_atomenc.attention.inputs import accumulate_dtype


def _read(query: Tensor, key: Tensor, bias: LogitBias, chunk: Chunk) -> ChunkHeads:
    scale = query.size(-1) ** -0.5
    return ChunkHeads(
        read_heads(query, chunk) * scale, read_heads(key, chunk), bias, chunk
    )


class AttendGradients:
    """Collects the gradients of query, key, value and bias."""

    def __init__(
        self, tensors: Tensors, context: OperatorContext, needed: Sequence[bool]
    ) -> None:
        query, key, value, bias = tensors
        assert query is not None
        self.scale = query.size(-1) ** -0.5
        self.query = writer(needed[0], query)
        self.key = writer(needed[1], key)
        self.value = writer(needed[2], value)
        self.bias = LogitBias(bias, context, needed[3])
        self.wants_logits = needed[0] or needed[1] or needed[3]

    def add(self, heads: ChunkHeads, blocks: Iterator[tuple[slice, Tensor]]) -> None:
        """Take blocks of query rows with the gradients of their logits."""
        if not self.wants_logits:
            for _ in blocks:
                pass
            return
        grad_query, grad_key = heads.gradients(blocks)
        if self.query is not None:
            self.query.write(
                heads.chunk.write, (grad_query * self.scale).transpose(1, 2)
            )
        if self.key is not None:
            self.key.write(heads.chunk.write, grad_key.transpose(1, 2))

    def add_values(self, chunk: Chunk, grad: Tensor, shared: bool) -> None:
        """Take the gradients of a chunk's values ``[G, H, n, D]``."""
        if self.value is not None:
            if shared:
                grad = grad.sum(1, keepdim=True)
            self.value.write(chunk.write, grad.transpose(1, 2))

    def results(self) -> list[Optional[Tensor]]:
        """The gradients of query, key, value and bias."""
        found = [
            None if part is None else part.result()
            for part in (self.query, self.key, self.value)
        ]
        return [*found, self.bias.result()]


# The output of every atom


def _attend(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    query, key, value, bias = tensors
    assert query is not None and key is not None and value is not None
    pairs = LogitBias(bias, context)
    shape = (query.size(1), value.size(2))
    out = RowWriter(context.num_atoms, shape, value, all_written=True)
    dropout_mask = context.dropout_mask()
    for chunk in chunks_of(context):
        values = read_heads(value, chunk)
        for rows, alpha in _read(query, key, pairs, chunk).blocks():
            factor = dropout_mask(alpha)
            kept = alpha if factor is None else alpha * factor
            out.write(chunk.write[:, rows], (kept @ values).transpose(1, 2))
    return (out.result(),)


def _attend_backward(
    tensors: Tensors,
    context: OperatorContext,
    outputs: Tensors,
    needed: Sequence[bool],
) -> list[Optional[Tensor]]:
    query, key, value, _ = tensors
    assert query is not None and key is not None and value is not None
    assert outputs[0] is not None
    gradients = AttendGradients(tensors, context, needed)
    dropout_mask = context.dropout_mask()
    for chunk in chunks_of(context):
        heads = _read(query, key, gradients.bias, chunk)
        values, grad_out = read_heads(value, chunk), read_heads(outputs[0], chunk)
        grad_values = torch.zeros_like(grad_out)
        gradients.add(
            heads, _attend_logits(heads, dropout_mask, values, grad_out, grad_values)
        )
        gradients.add_values(chunk, grad_values, value.size(1) == 1)
    return gradients.results()


def _attend_logits(
    heads: ChunkHeads,
    dropout_mask: DropoutMask,
    values: Tensor,
    grad_out: Tensor,
    grad_values: Tensor,
) -> Iterator[tuple[slice, Tensor]]:
    """Gradients of the logits; adds those of the values to ``grad_values``."""
    for rows, alpha in heads.blocks():
        factor, row_mask = dropout_mask(alpha), heads.row_mask(rows)
        grad = grad_out[:, :, rows]
        if row_mask is not None:
            grad = grad * row_mask
        kept = alpha if factor is None else alpha * factor
        grad_values += kept.mT @ grad
        grad_alpha = grad @ values.mT
        if factor is not None:
            grad_alpha = grad_alpha * factor
        yield rows, softmax_gradient(alpha, grad_alpha)


def _attend_shapes(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    query, _, value, _ = tensors
    assert query is not None and value is not None
    return (value.new_empty(query.size(0), query.size(1), value.size(2)),)


# The mean output of every token


def _pool(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    query, key, value, bias = tensors
    assert query is not None and key is not None and value is not None
    pairs = LogitBias(bias, context)
    tokens = RowWriter(context.num_tokens, (query.size(1), value.size(2)), value)
    heads_alone, like = (query.size(1),), _accumulator(query)
    weights = RowWriter(context.num_atoms, heads_alone, like, all_written=True)
    dropout_mask = context.dropout_mask()
    for chunk in chunks_of(context):
        heads = _read(query, key, pairs, chunk)
        weight, kept = atom_weights(heads, dropout_mask)
        values = read_heads(value, chunk)
        # A mean over an atom's outputs is a sum of values by the atoms' weights.
        tokens.write(chunk.tokens, (kept.unsqueeze(2) @ values).squeeze(2))
        weights.write(chunk.write, weight.transpose(1, 2))
    return tokens.result(), weights.result()


def _pool_backward(
    tensors: Tensors,
    context: OperatorContext,
    outputs: Tensors,
    needed: Sequence[bool],
) -> list[Optional[Tensor]]:
    query, key, value, _ = tensors
    assert query is not None and key is not None and value is not None
    gradients = AttendGradients(tensors, context, needed)
    dropout_mask = context.dropout_mask()
    for chunk in chunks_of(context):
        heads = _read(query, key, gradients.bias, chunk)
        values = read_heads(value, chunk)
        sizes = token_sizes(chunk, values)
        grad_token, grad_weight = read_output_gradients(
            outputs, chunk, values, (query.size(1), value.size(2))
        )
        grad_token = grad_token.unsqueeze(2)
        grad_kept = (grad_token @ values.mT).squeeze(2) / sizes
        kept_sum = torch.zeros_like(grad_kept)
        gradients.add(
            heads,
            atom_weights_gradient(
                heads, dropout_mask, grad_kept, grad_weight / sizes, kept_sum
            ),
        )
        grad_values = (kept_sum / sizes).unsqueeze(3) * grad_token
        gradients.add_values(chunk, grad_values, value.size(1) == 1)
    return gradients.results()


def _accumulator(like: Tensor) -> Tensor:
    return like.new_empty(0, dtype=accumulate_dtype(like.dtype))


def _pool_shapes(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    query, _, value, _ = tensors
    assert query is not None and value is not None
    tokens = value.new_empty(context.num_tokens, query.size(1), value.size(2))
    return tokens, _accumulator(query).new_empty(query.size(0), query.size(1))


ARGUMENTS = ("Tensor query", "Tensor key", "Tensor value", "Tensor? bias")

ATTEND = OperatorDefinition(_attend, _attend_backward, _attend_shapes)
POOL = OperatorDefinition(_pool, _pool_backward, _pool_shapes)

attend = define_operator("attend", ARGUMENTS, 1, ATTEND)
pool = define_operator("attend_pool", ARGUMENTS, 2, POOL)
