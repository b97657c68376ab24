"""The dense backend's `attend` and `attend_pool`: q, k, v → atoms or tokens.

Shapes inside a chunk are told in `attend.py`.
"""

from collections.abc import Iterator
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import (
    Gradients,
    Needed,
    OperatorContext,
    OperatorDefinition,
    Tensors,
    define_operator,
)
from pyg_atomenc.attention.dense.attend import (
    BiasAndDropout,
    ChunkHeads,
    atom_weights,
    atom_weights_gradient,
    read_heads,
    read_output_gradients,
    softmax_gradient,
    token_sizes,
    writer,
    written,
)
from pyg_atomenc.attention.dense.plan import Chunk, chunks_of
from pyg_atomenc.attention.dense.rows import RowWriter
from pyg_atomenc.attention.flops import attention_flops
from pyg_atomenc.attention.inputs import accumulate_dtype


def _read(
    tensors: Tensors, pairs: BiasAndDropout, context: OperatorContext
) -> Iterator[tuple[ChunkHeads, Tensor]]:
    """Every chunk's queries and keys, and its values ``[G, H or 1, n, D]``."""
    query, key, value, _ = tensors
    scale = query.size(-1) ** -0.5
    for chunk in chunks_of(context):
        scaled = read_heads(query, chunk) * scale
        heads = ChunkHeads(scaled, read_heads(key, chunk), pairs, chunk)
        yield heads, read_heads(value, chunk)


class AttendGradients:
    """Collects the gradients of query, key, value and bias."""

    def __init__(
        self, tensors: Tensors, context: OperatorContext, needed: Needed
    ) -> None:
        query, key, value, bias = tensors
        self.scale = query.size(-1) ** -0.5
        self.shares_values = value.size(1) == 1
        self.query, self.key, self.value = map(writer, needed, (query, key, value))
        self.pairs = BiasAndDropout(bias, context, needed[3])
        self.wants_logits = needed[0] or needed[1] or needed[3]

    def add(self, heads: ChunkHeads, blocks: Iterator[tuple[slice, Tensor]]) -> None:
        """Take blocks of query rows with the gradients of their logits."""
        if not self.wants_logits:
            for _ in blocks:
                pass
            return
        grad_query, grad_key = heads.gradients(blocks)
        self._write(self.query, heads.chunk, grad_query * self.scale)
        self._write(self.key, heads.chunk, grad_key)

    def add_values(self, chunk: Chunk, grad: Tensor) -> None:
        """Take the gradients of a chunk's values ``[G, H, n, D]``."""
        grad = grad.sum(1, keepdim=True) if self.shares_values else grad
        self._write(self.value, chunk, grad)

    def _write(self, writer: Optional[RowWriter], chunk: Chunk, grad: Tensor) -> None:
        if writer is not None:
            writer.write(chunk.write, grad.transpose(1, 2))

    def results(self) -> Gradients:
        """The gradients of query, key, value and bias."""
        return written(self.query, self.key, self.value, self.pairs.gradient)


def _attend(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    query, _, value, bias = tensors
    pairs = BiasAndDropout(bias, context)
    shape = (query.size(1), value.size(2))
    out = RowWriter(context.num_atoms, shape, value, all_written=True)
    for heads, values in _read(tensors, pairs, context):
        for rows, alpha, factor in heads.blocks():
            kept = alpha if factor is None else alpha * factor
            out.write(heads.chunk.write[:, rows], (kept @ values).transpose(1, 2))
    return (out.result(),)


def _attend_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Needed
) -> Gradients:
    gradients = AttendGradients(tensors, context, needed)
    for heads, values in _read(tensors, gradients.pairs, context):
        grad_out = read_heads(outputs[0], heads.chunk)
        grad_values = torch.zeros_like(grad_out)
        gradients.add(heads, _attend_logits(heads, values, grad_out, grad_values))
        gradients.add_values(heads.chunk, grad_values)
    return gradients.results()


def _attend_logits(
    heads: ChunkHeads, values: Tensor, grad_out: Tensor, grad_values: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Gradients of the logits; adds those of the values to ``grad_values``."""
    for rows, alpha, factor in heads.blocks():
        grad = heads.drop_padding(grad_out[:, :, rows], rows)
        kept = alpha if factor is None else alpha * factor
        grad_values += kept.mT @ grad
        grad_alpha = grad @ values.mT
        if factor is not None:
            grad_alpha = grad_alpha * factor
        yield rows, softmax_gradient(alpha, grad_alpha)


def _attend_shapes(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    query, _, value, _ = tensors
    return (value.new_empty(query.size(0), query.size(1), value.size(2)),)


def _pool(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    query, _, value, bias = tensors
    pairs = BiasAndDropout(bias, context)
    tokens = RowWriter(context.num_tokens, (query.size(1), value.size(2)), value)
    heads_alone, like = (query.size(1),), _accumulator(query)
    weights = RowWriter(context.num_atoms, heads_alone, like, all_written=True)
    for heads, values in _read(tensors, pairs, context):
        weight, kept = atom_weights(heads)
        # A mean over an atom's outputs is a sum of values by the atoms' weights.
        tokens.write(heads.chunk.tokens, (kept.unsqueeze(2) @ values).squeeze(2))
        weights.write(heads.chunk.write, weight.transpose(1, 2))
    return tokens.result(), weights.result()


def _pool_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Needed
) -> Gradients:
    query, _, value, _ = tensors
    shape = (query.size(1), value.size(2))
    gradients = AttendGradients(tensors, context, needed)
    for heads, values in _read(tensors, gradients.pairs, context):
        sizes = token_sizes(heads.chunk, values)
        given = read_output_gradients(outputs, heads.chunk, values, shape)
        grad_token, grad_weight = given[0].unsqueeze(2), given[1]
        grad_kept = (grad_token @ values.mT).squeeze(2) / sizes
        kept_sum = torch.zeros_like(grad_kept)
        grads = grad_kept, grad_weight / sizes
        gradients.add(heads, atom_weights_gradient(heads, *grads, kept_sum))
        gradients.add_values(heads.chunk, (kept_sum / sizes).unsqueeze(3) * grad_token)
    return gradients.results()


def _accumulator(like: Tensor) -> Tensor:
    return like.new_empty(0, dtype=accumulate_dtype(like.dtype))


def _pool_shapes(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    query, _, value, _ = tensors
    tokens = value.new_empty(context.num_tokens, query.size(1), value.size(2))
    return tokens, _accumulator(query).new_empty(query.size(0), query.size(1))


ARGUMENTS = "Tensor query, Tensor key, Tensor value, Tensor? bias"

ATTEND = OperatorDefinition(_attend, _attend_backward, _attend_shapes, attention_flops)
POOL = OperatorDefinition(_pool, _pool_backward, _pool_shapes, attention_flops)

attend = define_operator("attend", ARGUMENTS, 1, ATTEND)
pool = define_operator("attend_pool", ARGUMENTS, 2, POOL)
