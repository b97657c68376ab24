"""The dense backend's `attend` and `attend_pool`: q, k, v → atoms or tokens.

Shapes inside a chunk are told in `attend.py`.
"""

from collections.abc import Callable, Iterator
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import OperatorDefinition, define_operator
from pyg_atomenc.attention.context import Gradients, Needed, OperatorContext, Tensors
from pyg_atomenc.attention.dense.attend import (
    BiasAndDropout,
    ChunkHeads,
    RowWriter,
    read_gradients,
    read_heads,
    softmax_gradient,
    written,
)
from pyg_atomenc.attention.dense.plan import Places, chunks_of
from pyg_atomenc.attention.flops import attention_flops
from pyg_atomenc.attention.inputs import accumulate_dtype


def _read(
    tensors: Tensors, pairs: BiasAndDropout, context: OperatorContext
) -> Iterator[tuple[ChunkHeads, Tensor]]:
    """Every chunk's queries and keys, and its values ``[G, H or 1, n, D]``."""
    query, key, value, _ = tensors
    for chunk in chunks_of(context, query.size(1)):
        queries, keys = (read_heads(x, chunk).flatten(0, 1) for x in (query, key))
        yield ChunkHeads(queries, keys, pairs, chunk), read_heads(value, chunk)


# Blocks of query rows with the gradients of their logits, and what gives those of the
# values [G, H, n, D] when they were taken.
_Derivatives = tuple[Iterator[tuple[slice, Tensor]], Callable[[], Tensor]]


def _backward(
    tensors: Tensors,
    context: OperatorContext,
    needed: Needed,
    differentiate: Callable[[ChunkHeads, Tensor], _Derivatives],
) -> Gradients:
    """The gradients of query, key, value and bias, from a chunk's at a time."""
    value, bias = tensors[2:]
    pairs = BiasAndDropout(bias, context, needed[3])
    writers = [
        RowWriter(t.shape, t, filled=True) if need else None
        for need, t in zip(needed[:3], tensors[:3], strict=True)
    ]

    # A function, so that nothing of a chunk is kept while the next one is read.
    def add(heads: ChunkHeads, values: Tensor) -> None:
        grads: list[Optional[Tensor]] = [None, None]
        blocks, value_gradient = differentiate(heads, values)
        if needed[0] or needed[1] or needed[3]:
            scaled = heads.gradients(blocks) * heads.scale
            grads = [heads.by_token(grad) for grad in scaled]
        else:
            for _ in blocks:
                pass
        grad = value_gradient()
        grads.append(grad.sum(1, keepdim=True) if value.size(1) == 1 else grad)
        for rows, part in zip(writers, grads, strict=True):
            if rows is not None and part is not None:
                rows.write(heads.chunk.rows, heads.chunk.compact(part.transpose(1, 2)))

    for heads, values in _read(tensors, pairs, context):
        add(heads, values)
    return written(*writers, pairs.gradient)


def _attend(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    query, _, value, bias = tensors
    pairs = BiasAndDropout(bias, context)
    shape = (context.num_atoms, query.size(1), value.size(2))
    out = RowWriter(shape, value, filled=True)
    for heads, values in _read(tensors, pairs, context):
        parts = []
        for _, alpha, factor in heads.blocks():
            kept = alpha if factor is None else alpha * factor
            parts.append((heads.by_token(kept) @ values).transpose(1, 2))
        found = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        out.write(heads.chunk.rows, heads.chunk.compact(found))
    return (out.result(),)


def _attend_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Needed
) -> Gradients:
    def differentiate(heads: ChunkHeads, values: Tensor) -> _Derivatives:
        grad_out = read_heads(outputs[0], heads.chunk)
        if heads.chunk.padding is not None:
            inside = heads.by_token(heads.chunk.padding.share.mT > 0)
            grad_out *= inside.to(grad_out.dtype)
        grad_values = torch.zeros_like(grad_out)

        def logits() -> Iterator[tuple[slice, Tensor]]:
            for rows, alpha, factor in heads.blocks():
                grad = grad_out[:, :, rows]
                kept = alpha if factor is None else alpha * factor
                grad_values.add_(heads.by_token(kept).mT @ grad)
                grad_alpha = (grad @ values.mT).flatten(0, 1)
                if factor is not None:
                    grad_alpha = grad_alpha * factor
                yield rows, softmax_gradient(alpha, grad_alpha)

        return logits(), lambda: grad_values

    return _backward(tensors, context, needed, differentiate)


def _attend_shapes(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    query, _, value, _ = tensors
    return (value.new_empty(query.size(0), query.size(1), value.size(2)),)


def _pool(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    query, _, value, bias = tensors
    pairs = BiasAndDropout(bias, context)
    tokens = RowWriter((context.num_tokens, query.size(1), value.size(2)), value)
    like = query.new_empty(0, dtype=accumulate_dtype(query.dtype))
    weights = RowWriter(query.shape[:2], like, filled=True)
    for heads, values in _read(tensors, pairs, context):
        weight, kept = heads.atom_weights()
        # A mean over an atom's outputs is a sum of values by the atoms' weights.
        tokens.write(heads.chunk.tokens, (kept.unsqueeze(2) @ values).squeeze(2))
        weights.write(heads.chunk.rows, heads.chunk.compact(weight.transpose(1, 2)))
    return tokens.result(), weights.result()


def _pool_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Needed
) -> Gradients:
    shape = (tensors[0].size(1), tensors[2].size(2))

    def differentiate(heads: ChunkHeads, values: Tensor) -> _Derivatives:
        chunk = heads.chunk
        places = Places(chunk.rows), Places(chunk.tokens)
        grad_token, grad_weight = read_gradients(outputs, *places, values, shape)
        grad_token = grad_token.unsqueeze(2)
        if grad_weight is not None:
            grad_weight = chunk.pad(grad_weight).transpose(1, 2)
        grad_kept = (grad_token @ values.mT).squeeze(2)
        kept: list[Tensor] = []
        logits = heads.atom_weights_gradient(grad_kept, grad_weight, kept)
        return logits, lambda: kept[0].unsqueeze(3) * grad_token

    return _backward(tensors, context, needed, differentiate)


def _pool_shapes(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    query, _, value, _ = tensors
    tokens = value.new_empty(context.num_tokens, query.size(1), value.size(2))
    dtype = accumulate_dtype(query.dtype)
    return tokens, query.new_empty(query.shape[:2], dtype=dtype)


ARGUMENTS = "Tensor query, Tensor key, Tensor value, Tensor? bias"

ATTEND = OperatorDefinition(_attend, _attend_backward, _attend_shapes, attention_flops)
POOL = OperatorDefinition(_pool, _pool_backward, _pool_shapes, attention_flops)

attend = define_operator("attend", ARGUMENTS, 1, ATTEND)
pool = define_operator("attend_pool", ARGUMENTS, 2, POOL)
