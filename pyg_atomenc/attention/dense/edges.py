"""The dense backend's `attend_edges`: q, k, v and a list of edges → the targets.

Targets are taken in the order of their numbers of edges, a chunk at a time: its edges
gather keys and values, are attended over and forgotten. The backward pass computes the
weights again, and keeps a number an edge and head; the gradients of keys and values are
sums over the edges of a source, in chunks of sources. So nothing is scattered, and
nothing that an edge has for every channel is ever in memory for all edges.

Shapes inside a chunk of ``G`` nodes padded to ``n`` edges: queries ``[G, 1, H, d]``,
keys ``[G, n, H, d]``, values ``[G, n, H or 1, D]``, weights ``[G, n, H, 1]``. Rows of
all heads are gathered together, and sums over edges are no matrix products, which would
want them apart.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, zip_longest
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import define_operator
from pyg_atomenc.attention.context import Gradients, Needed, OperatorContext, Tensors
from pyg_atomenc.attention.dense.attend import RowWriter, add, softmax
from pyg_atomenc.attention.dense.operators import ARGUMENTS, ATTEND
from pyg_atomenc.attention.dense.plan import Chunk, limits_of, make_stretches
from pyg_atomenc.attention.inputs import accumulate_dtype
from pyg_atomenc.attention.layouts.token import sort_atoms
from pyg_atomenc.attention.ragged import take


class _Edges(NamedTuple):
    """A chunk of nodes, and the nodes at the other ends of their edges ``[G, n]``."""

    chunk: Chunk
    others: Tensor

    def own(self, x: Tensor) -> Tensor:
        """What the nodes themselves have, ``[M, H, d]``, as ``[G, 1, H, d]``."""
        rows = x.index_select(0, self.chunk.tokens).unsqueeze(1)
        return rows.to(accumulate_dtype(x.dtype))

    def there(self, x: Tensor) -> Tensor:
        """What the other ends have, as ``[G, n, H, d]``."""
        return take(x, self.others).to(accumulate_dtype(x.dtype))

    def pad(self, x: Tensor) -> Tensor:
        """What edges have ``[E, H]``, as ``[G, n, H, 1]``."""
        return self.chunk.pad(x.index_select(0, self.chunk.rows)).unsqueeze(3)

    def compact(self, x: Tensor) -> Tensor:
        """The reverse, of the chunk's edges ``[A, H]``."""
        return self.chunk.compact(x.squeeze(3))


def _by_target(context: OperatorContext) -> list[_Edges]:
    """The edges of every target, in chunks."""
    assert context.source is not None
    make = partial(_plan, context.perm, context.host_ptr, context.source)
    return context.plan_once("edges", make)


def _by_source(context: OperatorContext, num_sources: int) -> list[_Edges]:
    """The edges of every source, numbered in the order of the targets' chunks."""

    def make() -> list[_Edges]:
        assert context.source is not None
        chunks = [edges.chunk for edges in _by_target(context)]
        order = torch.cat([chunk.rows for chunk in chunks] or [context.perm])
        sizes = [c.size if c.padding is None else c.padding.sizes for c in chunks]
        pairs = zip(chunks, sizes, strict=True)
        target = [chunk.tokens.repeat_interleave(size) for chunk, size in pairs]
        perm, _, host = sort_atoms(context.source[order], num_sources)
        return _plan(perm, host, torch.cat(target or [context.perm]))

    return context.plan_once("edges by source", make)


def _plan(perm: Tensor, host_ptr: Tensor, others: Tensor) -> list[_Edges]:
    """Chunks of nodes, the "tokens", with their edges ``perm`` ``[E]`` for atoms."""
    limits = limits_of(perm.device)
    # A padded edge costs as much as some pairs of a token; edges are gathered anyway.
    limits = limits._replace(chunk_cost=limits.chunk_cost // 16, copy_cost=0)
    chunks = (s.chunks for s in make_stretches(perm, host_ptr, limits, 1))
    return [_Edges(c, c.pad(others[c.rows])) for c in chain.from_iterable(chunks)]


class _Weights(NamedTuple):
    """The attention weights of a chunk, what they are made of, and its values."""

    edges: _Edges
    key: Tensor
    value: Tensor
    alpha: Tensor
    kept: Tensor  # `alpha` with dropout
    factor: Optional[Tensor]  # of the dropout


def _weights(tensors: Tensors, context: OperatorContext) -> Iterator[_Weights]:
    query, key, value, bias = tensors
    scale, drop = query.size(-1) ** -0.5, context.dropout_mask()
    for edges in _by_target(context):
        q, k = edges.own(query) * scale, edges.there(key)
        logits = (k * q).sum(3, keepdim=True)
        if bias is not None:
            logits = add(logits, edges.pad(bias).to(logits.dtype))
        if edges.chunk.padding is not None:
            closed = edges.chunk.padding.closed
            logits = add(logits, closed.view(*logits.shape[:2], 1, 1))
        alpha = softmax(logits.movedim(1, -1)).movedim(-1, 1)
        factor = drop(alpha)
        kept = alpha if factor is None else alpha * factor
        yield _Weights(edges, k, edges.there(value), alpha, kept, factor)


def _attend(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    query, _, value, _ = tensors
    out = RowWriter((context.num_tokens, query.size(1), value.size(2)), value)
    for found in _weights(tensors, context):
        out.write(found.edges.chunk.tokens, (found.kept * found.value).sum(1))
    return (out.result(),)


def _attend_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Needed
) -> Gradients:
    query, key, value, bias = tensors
    (grad_out,) = outputs
    scale, shape = query.size(-1) ** -0.5, (context.perm.size(0), query.size(1))
    dtype = accumulate_dtype(query.dtype)
    grad_query = RowWriter(query.shape, query)
    # In the order of the chunks' edges.
    logits, kept = query.new_empty(2, *shape, dtype=dtype)
    order, stop = [], 0
    for weights in _weights(tensors, context):
        edges = weights.edges
        order.append(edges.chunk.rows)
        rows = slice(stop, stop := stop + len(edges.chunk.rows))
        kept[rows] = edges.compact(weights.kept)
        grad = (weights.value * edges.own(grad_out)).sum(3, keepdim=True)
        if weights.factor is not None:
            grad *= weights.factor
        mean = (weights.alpha * grad).sum(1, keepdim=True)
        grad = weights.alpha * (grad - mean)
        logits[rows] = edges.compact(grad)
        grad_query.write(edges.chunk.tokens, (grad * weights.key).sum(1) * scale)
    grad_key = RowWriter(key.shape, key)
    grad_value = RowWriter(value.shape, value)
    shared = value.size(1) == 1
    for edges in _by_source(context, key.size(0)) if needed[1] or needed[2] else ():
        found = []
        for numbers, x in ((logits, query), (kept, grad_out)):
            padded = edges.pad(numbers)
            if edges.chunk.padding is not None:
                inside = edges.chunk.padding.share.view(*padded.shape[:2], 1, 1) > 0
                padded = padded * inside
            found.append((padded * edges.there(x)).sum(1))
        grad_key.write(edges.chunk.tokens, found[0] * scale)
        grad_value.write(edges.chunk.tokens, found[1].sum(1) if shared else found[1])
    results = [writer.result() for writer in (grad_query, grad_key, grad_value)]
    if needed[3]:
        places, rows_of_bias = torch.cat(order or [context.perm]), logits.to(bias.dtype)
        results.append(torch.empty_like(bias).index_copy_(0, places, rows_of_bias))
    return [grad if need else None for grad, need in zip_longest(results, needed)]


ATTEND_EDGES = replace(ATTEND, forward=_attend, backward=_attend_backward)

attend_edges = define_operator("attend_edges", ARGUMENTS, 1, ATTEND_EDGES)
