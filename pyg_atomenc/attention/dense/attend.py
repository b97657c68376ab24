"""What the dense backend's operators share: a chunk's attention weights, and back.

Shapes inside a chunk of ``G`` tokens padded to ``n`` atoms: queries and keys
``[G, H, n, d]``, values ``[G, H or 1, n, D]``, attention weights ``[G, H, rows, n]``
for a block of query rows. Everything is computed in float32, or float64 for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import Gradients, OperatorContext, Tensors
from pyg_atomenc.attention.dense.plan import Chunk
from pyg_atomenc.attention.exact import carries_tangents, softmax
from pyg_atomenc.attention.inputs import accumulate_dtype
from pyg_atomenc.attention.ragged import take

# Below this width torch's softmax over the last dimension is not vectorised on the CPU,
# and five to ten times slower than one over the first.
_NARROW = 16


@dataclass
class ChunkHeads:
    """Queries, times ``d ** -0.5``, and keys ``[G, H, n, d]`` of a chunk."""

    query: Tensor
    key: Tensor
    pairs: "BiasAndDropout"
    chunk: Chunk

    def blocks(self) -> Iterator[tuple[slice, Tensor, Optional[Tensor]]]:
        """Blocks of query rows with their attention weights ``[G, H, rows, n]``.

        Last comes what dropout multiplies these by, or ``None``.
        """
        for rows in self.chunk.row_blocks():
            logits = self.query[:, :, rows] @ self.key.mT
            bias = self.pairs.bias
            if bias is not None:
                place, _ = self.chunk.pair_rows(self.pairs.ptr, rows)
                bias = bias[place] if isinstance(place, slice) else take(bias, place)
                bias = bias.view(len(logits), *logits.shape[2:], -1).movedim(-1, 1)
                logits = logits + bias if works_out_of_place() else logits.add_(bias)
            if self.chunk.mask is not None:
                closed = ~self.chunk.mask[:, None, None]
                logits = logits.masked_fill(closed, -torch.inf)
            alpha = _softmax(logits)
            yield rows, alpha, self.pairs.dropout_mask(alpha)

    def drop_padding(self, values: Tensor, rows: slice) -> Tensor:
        """What belongs to query rows ``[G, H, rows, …]``, 0 for those of padding."""
        mask = self.chunk.mask
        if mask is None:
            return values
        return values * mask[:, None, rows, None].to(values.dtype)

    def gradients(
        self, blocks: Iterator[tuple[slice, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """From the logits' gradients, those of the scaled queries and of the keys.

        The gradient of the bias is written as the blocks come.
        """
        grad_query: Optional[Tensor] = None
        grad_key: Optional[Tensor] = None
        for rows, grad in blocks:
            if self.pairs.gradient is not None:
                _, place = self.chunk.pair_rows(self.pairs.ptr, rows)
                self.pairs.gradient.write(place, grad.movedim(1, -1))
            found = grad @ self.key
            if found.shape == self.query.shape:
                return found, grad.mT @ self.query
            if grad_query is None or grad_key is None:
                # Small results kept one by one between large blocks would leave the
                # allocator no place for the next large block.
                grad_query = torch.empty_like(self.query)
                grad_key = torch.zeros_like(self.key)
            grad_query[:, :, rows] = found
            grad_key += grad.mT @ self.query[:, :, rows]
        assert grad_query is not None and grad_key is not None
        return grad_query, grad_key


class BiasAndDropout:
    """What a pass adds to the logits, and what it drops of their softmax.

    The bias ``[E, H]`` has one row an edge of ``to_edge_index()``; where ``needed``
    says so, its gradient is collected here.
    """

    def __init__(
        self, bias: Optional[Tensor], context: OperatorContext, needed: bool = False
    ) -> None:
        self.dropout_mask = context.dropout_mask()
        self.bias = bias
        self.gradient: Optional[RowWriter] = None
        if bias is None:
            return
        if needed:
            # Not all is written: the logit of a token's only atom changes nothing.
            self.gradient = RowWriter(bias.size(0), bias.shape[1:], bias)
        self.ptr = context.pair_ptr(bias)


def atom_weights(heads: ChunkHeads) -> tuple[Tensor, Tensor]:
    """The mean attention that atoms get ``[G, H, n]``, without and with dropout."""
    weight: Optional[Tensor] = None
    dropped: Optional[Tensor] = None
    for rows, alpha, factor in heads.blocks():
        alpha = heads.drop_padding(alpha, rows)
        sums = alpha.sum(2)
        weight = sums if weight is None else weight + sums
        if factor is not None:
            sums = (alpha * factor).sum(2)
            dropped = sums if dropped is None else dropped + sums
    assert weight is not None
    sizes = token_sizes(heads.chunk, weight)
    weight = weight / sizes
    return weight, weight if dropped is None else dropped / sizes


def atom_weights_gradient(
    heads: ChunkHeads, grad_kept: Tensor, grad_weight: Tensor, kept_sum: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """The logits' gradients, from those of what :func:`atom_weights` gives.

    Those of the weights with dropout and without come over the token's size, and
    ``kept_sum`` takes the sum of the attention weights with dropout, all
    ``[G, H, n]``. Yields blocks of query rows with gradients ``[G, H, rows, n]``.
    """
    for rows, alpha, factor in heads.blocks():
        if factor is None:
            # All rows have one gradient, so a product gives its mean over each row.
            common = grad_kept + grad_weight
            mean = alpha @ common.unsqueeze(3)
            grad = (common.unsqueeze(2) - mean).mul_(alpha)
            kept = alpha
        else:
            grad = grad_kept.unsqueeze(2) * factor + grad_weight.unsqueeze(2)
            grad = softmax_gradient(alpha, grad)
            kept = alpha * factor
        kept_sum += heads.drop_padding(kept, rows).sum(2)
        yield rows, heads.drop_padding(grad, rows)


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    narrow = logits.size(-1) < _NARROW and logits.device.type == "cpu"
    if not narrow or carries_tangents():
        return softmax(logits)
    return logits.movedim(-1, 0).contiguous().softmax(0).movedim(0, -1).contiguous()


def read_heads(x: Tensor, chunk: Chunk) -> Tensor:
    """Rows of ``[N, H, d]`` as the chunk's ``[G, H, n, d]``."""
    rows = take(x, chunk.read).to(accumulate_dtype(x.dtype))
    # Contiguous, because every product would make it so once more.
    return rows.transpose(1, 2).contiguous()


def read_output_gradients(
    outputs: Tensors, chunk: Chunk, like: Tensor, shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """A chunk's gradients of its tokens ``[G, *shape]`` and atom weights ``[G, H, n]``.

    Of an output that nobody used they are zero, and broadcast to these shapes.
    """
    tokens, weights = outputs
    grad_token = grad_weight = like.new_zeros(1, 1, 1)
    grad_token = grad_token.expand(chunk.tokens.size(0), *shape)
    if tokens is not None:
        grad_token = take(tokens, chunk.tokens).to(like.dtype)
    if weights is not None:
        grad_weight = take(weights, chunk.read).to(like.dtype).transpose(1, 2)
    return grad_token, grad_weight


class RowWriter:
    """Collects computed rows into whole tensors.

    Without gradients rows are written in place as they come. With gradients they are
    kept and joined once, as an in-place write a chunk would make the backward pass
    touch the whole tensor as often as there are chunks. A row past the end takes what
    belongs to padding; rows are zeros until written, unless ``all_written`` will be.
    """

    def __init__(
        self, rows: int, shape: Iterable[int], like: Tensor, all_written: bool = False
    ) -> None:
        self._joins = works_out_of_place()
        # Zeros are an extra pass over memory.
        make = like.new_empty if all_written and not self._joins else like.new_zeros
        self._out = make((rows + 1, *shape))
        self._index: list[Tensor] = []
        self._rows: list[Tensor] = []

    def write(self, index: Union[Tensor, slice], rows: Tensor) -> None:
        """Put ``rows`` where ``index`` says; both may have more leading dimensions."""
        rows = rows.reshape(-1, *self._out.shape[1:]).to(self._out.dtype)
        if isinstance(index, Tensor):
            index = index.flatten()
        if not self._joins:
            self._out[index] = rows
            return
        if isinstance(index, slice):
            index = torch.arange(index.start, index.stop, device=rows.device)
        self._index.append(index)
        self._rows.append(rows)

    def result(self) -> Tensor:
        """The whole tensor, zeros where nothing was written."""
        out = self._out
        if self._rows:
            out = out.index_copy(0, torch.cat(self._index), torch.cat(self._rows))
        return out[:-1]


def works_out_of_place() -> bool:
    """Whether autograd or a transform follows, which in-place writes would disturb."""
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()


def writer(needed: bool, like: Tensor) -> Optional[RowWriter]:
    """A writer of the gradient of ``like``, where it is needed."""
    if not needed:
        return None
    return RowWriter(like.size(0), like.shape[1:], like, all_written=True)


def written(*writers: Optional[RowWriter]) -> Gradients:
    """The gradients that writers collected, ``None`` where none was needed."""
    return [None if one is None else one.result() for one in writers]


def softmax_gradient(alpha: Tensor, grad: Tensor) -> Tensor:
    """The gradient of logits whose softmax is ``alpha``."""
    return alpha * (grad - (alpha * grad).sum(-1, keepdim=True))


def token_sizes(chunk: Chunk, like: Tensor) -> Tensor:
    """Atoms of every token, in the type of ``like``; broadcasts to ``[G, H, n]``."""
    if chunk.sizes is None:
        return like.new_full((1, 1, 1), chunk.size)
    return chunk.sizes.view(-1, 1, 1).to(like.dtype)
