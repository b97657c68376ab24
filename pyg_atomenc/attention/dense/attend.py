"""What the dense backend's operators share: a chunk's attention weights, and back.

Shapes inside a chunk of ``G`` tokens padded to ``n`` atoms: queries and keys
``[G, H, n, d]``, values ``[G, H or 1, n, D]``, attention weights ``[G, H, rows, n]``
for a block of query rows. Everything is computed in float32, or float64 for it.
"""

from collections.abc import Iterator, Sequence
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import Setting, Tensors, Thinning
from pyg_atomenc.attention.dense.chunks import Chunk, RowWriter, take
from pyg_atomenc.attention.inputs import accumulate_dtype
from pyg_atomenc.errors import AtomEncodingError

# Below this width torch's softmax over the last dimension is not vectorised on the CPU,
# and five to ten times slower than one over the first.
_NARROW = 16


class ChunkHeads:
    """Queries and keys of a chunk, and the attention weights that they give.

    Args:
        query (Tensor): Queries times ``d ** -0.5`` ``[G, H, n, d]``.
        key (Tensor): Keys ``[G, H, n, d]``.
        bias (PairBias): The logits' bias.
        chunk (Chunk): The chunk.
    """

    def __init__(
        self, query: Tensor, key: Tensor, bias: "PairBias", chunk: Chunk
    ) -> None:
        self.query = query
        self.key = key
        self.bias = bias
        self.chunk = chunk
        self.mask = chunk.mask

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of query rows with their attention weights ``[G, H, rows, n]``."""
        for rows in self.chunk.row_blocks():
            logits = self.query[:, :, rows] @ self.key.mT
            logits = self.bias.add_to(logits, self.chunk, rows)
            if self.mask is not None:
                logits = logits.masked_fill(~self.mask[:, None, None], -torch.inf)
            yield rows, _softmax(logits)

    def row_mask(self, rows: slice) -> Optional[Tensor]:
        """1 for query rows that are atoms, 0 for padding ``[G, 1, rows, 1]``."""
        if self.mask is None:
            return None
        return self.mask[:, None, rows, None].to(self.query.dtype)

    def gradients(
        self, blocks: Iterator[tuple[slice, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """From the logits' gradients, those of the scaled queries and of the keys.

        The gradient of the bias is written as the blocks come.
        """
        grad_query: Optional[Tensor] = None
        grad_key: Optional[Tensor] = None
        for rows, grad in blocks:
            self.bias.write(grad, self.chunk, rows)
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


class PairBias:
    """The logits' bias, one row an edge of ``to_edge_index()``, and its gradient.

    Args:
        bias (Tensor, optional): ``[E, H]``, or ``None`` for none.
        setting (Setting): The operator's setting.
        needed (bool): Whether its gradient is wanted. (default: ``False``)

    Raises:
        ValueError: If there is not one row for every edge.
    """

    def __init__(
        self, bias: Optional[Tensor], setting: Setting, needed: bool = False
    ) -> None:
        self.bias = bias
        self.gradient: Optional[RowWriter] = None
        if bias is None:
            return
        if needed:
            # Not all is written: the logit of a token's only atom changes nothing.
            self.gradient = RowWriter(bias.size(0), bias.shape[1:], bias)
        self.ptr = setting.pair_ptr()
        if bias.device.type == "cpu" and bias.size(0) != int(self.ptr[-1]):
            raise AtomEncodingError(
                f"'bias' has {bias.size(0)} rows for {int(self.ptr[-1])} pairs of "
                f"atoms: give it one row for every edge of layout.to_edge_index()."
            )

    def add_to(self, logits: Tensor, chunk: Chunk, rows: slice) -> Tensor:
        """The logits ``[G, H, rows, n]`` with their bias."""
        if self.bias is None:
            return logits
        stretch = self._stretch(chunk, rows)
        if stretch is not None:
            bias = self.bias[stretch].view(1, *logits.shape[2:], -1)
        else:
            bias = take(self.bias, chunk.pair_rows(self.ptr, rows)[0])
        return logits.add_(bias.movedim(-1, 1))

    def write(self, grad: Tensor, chunk: Chunk, rows: slice) -> None:
        """Keep the gradient of some logits, if anybody wants it."""
        if self.gradient is None:
            return
        stretch = self._stretch(chunk, rows)
        if stretch is not None:
            self.gradient.write(stretch, grad.movedim(1, -1))
        else:
            _, write = chunk.pair_rows(self.ptr, rows)
            self.gradient.write(write, grad.movedim(1, -1))

    def _stretch(self, chunk: Chunk, rows: slice) -> Optional[slice]:
        """The edges of a chunk's only token stand in one stretch, without an index."""
        if chunk.tokens.numel() != 1 or self.ptr.device.type != "cpu":
            return None
        first = int(self.ptr[chunk.tokens])
        return slice(first + rows.start * chunk.size, first + rows.stop * chunk.size)

    def result(self) -> Optional[Tensor]:
        """The gradient ``[E, H]``."""
        return None if self.gradient is None else self.gradient.result()


def atom_weights(heads: ChunkHeads, thinning: Thinning) -> tuple[Tensor, Tensor]:
    """The mean attention that every atom gets ``[G, H, n]``, whole and thinned."""
    weight: Optional[Tensor] = None
    thinned: Optional[Tensor] = None
    for rows, alpha in heads.blocks():
        factor, row_mask = thinning(alpha), heads.row_mask(rows)
        if row_mask is not None:
            alpha = alpha * row_mask
        total = alpha.sum(2)
        weight = total if weight is None else _add(weight, total)
        if factor is not None:
            kept = (alpha * factor).sum(2)
            thinned = kept if thinned is None else _add(thinned, kept)
    assert weight is not None
    sizes = token_sizes(heads.chunk, weight)
    weight = weight / sizes
    return weight, weight if thinned is None else thinned / sizes


def _add(total: Tensor, more: Tensor) -> Tensor:
    return total + more if torch.is_grad_enabled() else total.add_(more)


def atom_weights_gradient(
    heads: ChunkHeads,
    thinning: Thinning,
    grad_kept: Tensor,
    grad_weight: Tensor,
    kept_sum: Tensor,
) -> Iterator[tuple[slice, Tensor]]:
    """The logits' gradients, from those of what :func:`atom_weights` gives.

    Args:
        heads (ChunkHeads): The chunk's queries and keys.
        thinning (Thinning): Dropout.
        grad_kept (Tensor): Of the thinned weights, over the token's size
            ``[G, H, n]``.
        grad_weight (Tensor): Of the whole weights, likewise.
        kept_sum (Tensor): Takes the sum of the thinned attention weights ``[G, H, n]``.

    Yields:
        tuple: A block of query rows, and its gradient ``[G, H, rows, n]``.
    """
    for rows, alpha in heads.blocks():
        factor, row_mask = thinning(alpha), heads.row_mask(rows)
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
        if row_mask is not None:
            grad, kept = grad * row_mask, kept * row_mask
        kept_sum += kept.sum(2)
        yield rows, grad


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    if logits.size(-1) >= _NARROW or logits.device.type != "cpu":
        return logits.softmax(-1)
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
    zero = like.new_zeros(1, 1, 1)
    return (
        zero.expand(chunk.tokens.size(0), *shape)
        if tokens is None
        else take(tokens, chunk.tokens).to(like.dtype),
        zero
        if weights is None
        else take(weights, chunk.read).to(like.dtype).transpose(1, 2),
    )


def writer(needed: bool, like: Optional[Tensor]) -> Optional[RowWriter]:
    """A writer of the gradient of ``like``, where it is needed."""
    if not needed or like is None:
        return None
    return RowWriter(like.size(0), like.shape[1:], like, all_written=True)


def softmax_gradient(alpha: Tensor, grad: Tensor) -> Tensor:
    """The gradient of logits whose softmax is ``alpha``."""
    return alpha * (grad - (alpha * grad).sum(-1, keepdim=True))


def token_sizes(chunk: Chunk, like: Tensor) -> Tensor:
    """Atoms of every token, in the type of ``like``; broadcasts to ``[G, H, n]``."""
    if chunk.sizes is None:
        return like.new_full((1, 1, 1), chunk.size)
    return chunk.sizes.view(-1, 1, 1).to(like.dtype)
