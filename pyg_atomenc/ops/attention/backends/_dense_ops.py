"""Forward and backward formulas of the dense backend, a chunk of tokens at a time.

Shapes inside a chunk of ``G`` tokens padded to ``n`` atoms: queries and keys
``[G, H, n, d]``, values ``[G, H or 1, n, D]``, attention weights ``[G, H, rows, n]``
for a block of query rows. Everything is computed in float32, or float64 for it.
"""

from collections.abc import Iterator, Sequence
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.ops.attention.chunks import Chunk, RowWriter
from pyg_atomenc.ops.attention.custom_ops import (
    Formulas,
    Setting,
    Tensors,
    Thinning,
    define_operator,
)
from pyg_atomenc.ops.attention.inputs import accumulate_dtype


class _ChunkHeads:
    """Queries and keys of a chunk, and the attention weights that they give."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        bias: Optional[Tensor],
        chunk: Chunk,
        pair_ptr: Optional[Tensor],
    ) -> None:
        self.scale = query.size(-1) ** -0.5
        self.query = _heads(query, chunk) * self.scale
        self.key = _heads(key, chunk)
        self.bias = bias
        self.chunk = chunk
        self.pair_ptr = pair_ptr
        self.mask = chunk.mask

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of query rows with their attention weights ``[G, H, rows, n]``."""
        for rows in self.chunk.row_blocks():
            logits = self.query[:, :, rows] @ self.key.mT
            if self.bias is not None and self.pair_ptr is not None:
                read, _ = self.chunk.pair_rows(self.pair_ptr, rows)
                logits = logits + self.bias[read].movedim(-1, 1).to(logits.dtype)
            if self.mask is not None:
                logits = logits.masked_fill(~self.mask[:, None, None], -torch.inf)
            yield rows, logits.softmax(-1)

    def row_mask(self, rows: slice) -> Optional[Tensor]:
        """1 for query rows that are atoms, 0 for padding ``[G, 1, rows, 1]``."""
        if self.mask is None:
            return None
        return self.mask[:, None, rows, None].to(self.query.dtype)


class _LogitGradients:
    """Turns gradients of attention weights into those of query, key and bias."""

    def __init__(
        self, tensors: Tensors, setting: Setting, needed: Sequence[bool]
    ) -> None:
        query, key, _, bias = tensors
        assert query is not None and key is not None
        self.query = _writer(needed[0], query)
        self.key = _writer(needed[1], key)
        self.bias = _writer(needed[3], bias)
        self.wanted = any(needed[i] for i in (0, 1, 3))

    def add(self, heads: _ChunkHeads, blocks: Iterator[tuple[slice, Tensor]]) -> None:
        """Take blocks of query rows with the gradients of their logits."""
        chunk = heads.chunk
        grad_key = torch.zeros_like(heads.key)
        for rows, grad in blocks:
            if self.query is not None:
                found = grad @ heads.key * heads.scale
                self.query.write(chunk.write[:, rows], found.transpose(1, 2))
            if self.key is not None:
                grad_key += grad.mT @ heads.query[:, :, rows]
            if self.bias is not None and heads.pair_ptr is not None:
                _, write = chunk.pair_rows(heads.pair_ptr, rows)
                self.bias.write(write, grad.movedim(1, -1))
        if self.key is not None:
            self.key.write(chunk.write, grad_key.transpose(1, 2))

    def results(self, grad_value: Optional[RowWriter]) -> list[Optional[Tensor]]:
        """The gradients of query, key, value and bias."""
        writers = (self.query, self.key, grad_value, self.bias)
        return [None if writer is None else writer.result() for writer in writers]


def _heads(x: Tensor, chunk: Chunk) -> Tensor:
    return x[chunk.read].to(accumulate_dtype(x.dtype)).transpose(1, 2)


def _writer(needed: bool, like: Optional[Tensor]) -> Optional[RowWriter]:
    if not needed or like is None:
        return None
    return RowWriter(like.size(0), like.shape[1:], like)


def _pair_ptr(bias: Optional[Tensor], setting: Setting) -> Optional[Tensor]:
    if bias is None:
        return None
    pair_ptr = setting.pair_ptr()
    if bias.device.type == "cpu" and bias.size(0) != int(pair_ptr[-1]):
        raise AtomEncodingError(
            f"'bias' has {bias.size(0)} rows for {int(pair_ptr[-1])} pairs of atoms: "
            f"give it one row for every edge of layout.to_edge_index()."
        )
    return pair_ptr


def _softmax_gradient(alpha: Tensor, grad: Tensor) -> Tensor:
    return alpha * (grad - (alpha * grad).sum(-1, keepdim=True))


def _token_sizes(chunk: Chunk, like: Tensor) -> Tensor:
    if chunk.sizes is None:
        return like.new_full((1, 1, 1), chunk.size)
    return chunk.sizes.view(-1, 1, 1).to(like.dtype)


def _sum_heads(grad: Tensor, value: Tensor) -> Tensor:
    """Where the heads share the value, its gradient is the sum of theirs."""
    return grad.sum(1, keepdim=True) if value.size(1) == 1 else grad


# The output of every atom


def _attend(tensors: Tensors, setting: Setting) -> tuple[Tensor]:
    query, key, value, bias = tensors
    assert query is not None and key is not None and value is not None
    pair_ptr = _pair_ptr(bias, setting)
    out = RowWriter(setting.num_atoms, (query.size(1), value.size(2)), value)
    thinning = setting.thinning()
    for chunk in setting.chunks():
        values = _heads(value, chunk)
        for rows, alpha in _ChunkHeads(query, key, bias, chunk, pair_ptr).blocks():
            factor = thinning(alpha)
            kept = alpha if factor is None else alpha * factor
            out.write(chunk.write[:, rows], (kept @ values).transpose(1, 2))
    return (out.result(),)


def _attend_backward(
    tensors: Tensors,
    setting: Setting,
    outputs: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Optional[Tensor]]:
    query, key, value, bias = tensors
    assert query is not None and key is not None and value is not None
    pair_ptr = _pair_ptr(bias, setting)
    logit_gradients = _LogitGradients(tensors, setting, needed)
    grad_value = _writer(needed[2], value)
    thinning = setting.thinning()
    for chunk in setting.chunks():
        heads = _ChunkHeads(query, key, bias, chunk, pair_ptr)
        values, grad_out = _heads(value, chunk), _heads(outputs[0], chunk)
        grad_values = torch.zeros_like(grad_out)
        logit_gradients.add(
            heads, _attend_logits(heads, thinning, values, grad_out, grad_values)
        )
        if grad_value is not None:
            summed = _sum_heads(grad_values, values)
            grad_value.write(chunk.write, summed.transpose(1, 2))
    return logit_gradients.results(grad_value)


def _attend_logits(
    heads: _ChunkHeads,
    thinning: Thinning,
    values: Tensor,
    grad_out: Tensor,
    grad_values: Tensor,
) -> Iterator[tuple[slice, Tensor]]:
    """Gradients of the logits; adds those of the values to ``grad_values``."""
    for rows, alpha in heads.blocks():
        factor, row_mask = thinning(alpha), heads.row_mask(rows)
        grad = grad_out[:, :, rows]
        if row_mask is not None:
            grad = grad * row_mask
        kept = alpha if factor is None else alpha * factor
        grad_values += kept.mT @ grad
        grad_alpha = grad @ values.mT
        if factor is not None:
            grad_alpha = grad_alpha * factor
        yield rows, _softmax_gradient(alpha, grad_alpha)


def _attend_shapes(tensors: Tensors, setting: Setting) -> tuple[Tensor]:
    query, _, value, _ = tensors
    assert query is not None and value is not None
    return (value.new_empty(query.size(0), query.size(1), value.size(2)),)


# The mean output of every token


def _pool(tensors: Tensors, setting: Setting) -> tuple[Tensor, Tensor]:
    query, key, value, bias = tensors
    assert query is not None and key is not None and value is not None
    pair_ptr = _pair_ptr(bias, setting)
    tokens = RowWriter(setting.num_tokens, (query.size(1), value.size(2)), value)
    weights = RowWriter(setting.num_atoms, (query.size(1),), _accumulator(query))
    thinning = setting.thinning()
    for chunk in setting.chunks():
        heads = _ChunkHeads(query, key, bias, chunk, pair_ptr)
        weight, kept = _atom_weights(heads, thinning)
        values = _heads(value, chunk)
        # A mean over an atom's outputs is a sum of values by the atoms' weights.
        tokens.write(chunk.tokens, (kept.unsqueeze(2) @ values).squeeze(2))
        weights.write(chunk.write, weight.transpose(1, 2))
    return tokens.result(), weights.result()


def _atom_weights(heads: _ChunkHeads, thinning: Thinning) -> tuple[Tensor, Tensor]:
    """The mean attention that every atom gets ``[G, H, n]``, whole and thinned."""
    weight: Optional[Tensor] = None
    thinned: Optional[Tensor] = None
    for rows, alpha in heads.blocks():
        factor, row_mask = thinning(alpha), heads.row_mask(rows)
        if row_mask is not None:
            alpha = alpha * row_mask
        total = alpha.sum(2)
        kept = total if factor is None else (alpha * factor).sum(2)
        weight = total if weight is None else weight + total
        thinned = kept if thinned is None else thinned + kept
    assert weight is not None and thinned is not None
    sizes = _token_sizes(heads.chunk, weight)
    return weight / sizes, thinned / sizes


def _pool_backward(
    tensors: Tensors,
    setting: Setting,
    outputs: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Optional[Tensor]]:
    query, key, value, bias = tensors
    assert query is not None and key is not None and value is not None
    pair_ptr = _pair_ptr(bias, setting)
    logit_gradients = _LogitGradients(tensors, setting, needed)
    grad_value = _writer(needed[2], value)
    thinning = setting.thinning()
    for chunk in setting.chunks():
        heads = _ChunkHeads(query, key, bias, chunk, pair_ptr)
        values = _heads(value, chunk)
        grad_token = outputs[0][chunk.tokens].to(values.dtype).unsqueeze(2)
        sizes = _token_sizes(chunk, values)
        grad_kept = (grad_token @ values.mT).squeeze(2) / sizes
        grad_weight = outputs[1][chunk.read].transpose(1, 2).to(values.dtype) / sizes
        kept_sum = torch.zeros_like(grad_kept)
        logit_gradients.add(
            heads, _pool_logits(heads, thinning, grad_kept, grad_weight, kept_sum)
        )
        if grad_value is not None:
            grad_values = (kept_sum / sizes).unsqueeze(3) * grad_token
            summed = _sum_heads(grad_values, values)
            grad_value.write(chunk.write, summed.transpose(1, 2))
    return logit_gradients.results(grad_value)


def _pool_logits(
    heads: _ChunkHeads,
    thinning: Thinning,
    grad_kept: Tensor,
    grad_weight: Tensor,
    kept_sum: Tensor,
) -> Iterator[tuple[slice, Tensor]]:
    """Gradients of the logits; adds up the thinned weights in ``kept_sum``."""
    for rows, alpha in heads.blocks():
        factor, row_mask = thinning(alpha), heads.row_mask(rows)
        grad = grad_kept.unsqueeze(2)
        if factor is not None:
            grad = grad * factor
        grad = _softmax_gradient(alpha, grad + grad_weight.unsqueeze(2))
        kept = alpha if factor is None else alpha * factor
        if row_mask is not None:
            grad, kept = grad * row_mask, kept * row_mask
        kept_sum += kept.sum(2)
        yield rows, grad


def _accumulator(like: Tensor) -> Tensor:
    return like.new_empty(0, dtype=accumulate_dtype(like.dtype))


def _pool_shapes(tensors: Tensors, setting: Setting) -> tuple[Tensor, Tensor]:
    query, _, value, _ = tensors
    assert query is not None and value is not None
    tokens = value.new_empty(setting.num_tokens, query.size(1), value.size(2))
    return tokens, _accumulator(query).new_empty(query.size(0), query.size(1))


_ARGUMENTS = ("Tensor query", "Tensor key", "Tensor value", "Tensor? bias")

attend = define_operator(
    "attend", _ARGUMENTS, 1, Formulas(_attend, _attend_backward, _attend_shapes)
)
pool = define_operator(
    "attend_pool", _ARGUMENTS, 2, Formulas(_pool, _pool_backward, _pool_shapes)
)
