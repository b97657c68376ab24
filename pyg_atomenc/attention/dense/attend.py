"""What the dense backend's operators share: a chunk's attention weights, and back.

Shapes inside a chunk of ``G`` tokens padded to ``n`` atoms: queries and keys
``[G * H, n, d]``, values ``[G, H or 1, n, D]``, attention weights ``[G * H, rows, n]``
for a block of query rows. Everything is computed in float32, or float64 for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.attention import exact
from pyg_atomenc.attention.context import Gradients, OperatorContext, Tensors
from pyg_atomenc.attention.dense.plan import Chunk, Places
from pyg_atomenc.attention.inputs import accumulate_dtype
from pyg_atomenc.attention.ragged import take

# Below this width torch's softmax over the last dimension is not vectorised on the CPU,
# and five to ten times slower than one over the first.
_NARROW = 16
# Of matrices below this size torch's product is three times slower than sums of rows.
_FEW = 4


@dataclass
class ChunkHeads:
    """Queries and keys ``[G * H, n, d]`` of a chunk."""

    query: Tensor
    key: Tensor
    pairs: "BiasAndDropout"
    chunk: Chunk
    # All blocks, where they were computed once for both passes.
    kept: Optional[list[tuple[slice, Tensor, Optional[Tensor]]]] = None
    # And the mean of their only block.
    kept_mean: Optional[Tensor] = None

    def by_token(self, x: Tensor) -> Tensor:
        """``[G * H, …]`` as ``[G, H, …]``."""
        return x.view(len(self.chunk.tokens), -1, *x.shape[1:])

    def blocks(self) -> Iterator[tuple[slice, Tensor, Optional[Tensor]]]:
        """Blocks of query rows with their attention weights ``[G * H, rows, n]``.

        Last comes what dropout multiplies these by, or ``None``.
        """
        if self.kept is not None:
            yield from self.kept
            return
        for rows in self.chunk.row_blocks:
            whole = rows.stop - rows.start == self.chunk.size
            query = self.query if whole else self.query[:, rows]
            padding, bias = self.chunk.padding, self.pairs.bias
            # Scaling, and what is added, are part of the matrix product.
            added = None if padding is None else padding.closed.to(query.dtype)
            if bias is not None:
                place, _ = self.chunk.pair_rows(self.pairs.ptr, rows)
                shape = len(self.chunk.tokens), query.size(1), self.chunk.size, -1
                bias = bias[place] if isinstance(place, slice) else take(bias, place)
                bias = bias.view(shape).movedim(-1, 1).to(query.dtype).flatten(0, 1)
                added = bias if added is None else add(bias, added)
            beta, added = (0, query.new_empty(())) if added is None else (1, added)
            factors: dict[str, Any] = {"beta": beta, "alpha": self.scale}
            alpha = softmax(torch.baddbmm(added, query, self.key.mT, **factors))
            yield rows, alpha, self.pairs.dropout_mask(alpha)

    @property
    def scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        return float(self.query.size(2) ** -0.5)

    def shares(self, rows: slice) -> Union[Tensor, float]:
        """What query rows count in their token's mean ``[G * H, 1, rows]``."""
        padding, dtype = self.chunk.padding, self.key.dtype
        if padding is None:
            return 1.0 / self.chunk.size
        share = padding.share
        if rows.stop - rows.start < self.chunk.size:
            share = share[..., rows]
        if share.dtype == dtype:
            return share
        return share.to(dtype).reciprocal().round().reciprocal()

    def mean(self, values: Tensor, rows: slice) -> Tensor:
        """The part of query rows ``[G * H, rows, n]`` in the token's mean [G, H, n]."""
        share = self.shares(rows)
        if isinstance(share, Tensor):
            return self.by_token(share.bmm(values)).squeeze(2)
        if values.size(1) == self.chunk.size:
            return self.by_token(values.mean(1))
        return self.by_token(values.sum(1)) * share

    def gradients(self, blocks: Iterator[tuple[slice, Tensor]]) -> Tensor:
        """From the logits' gradients, those of queries and keys ``[2, G * H, n, d]``.

        They are still to be scaled. That of the bias is written as the blocks come.
        """
        grads: Optional[Tensor] = None
        for rows, grad in blocks:
            if self.pairs.gradient is not None:
                _, place = self.chunk.pair_rows(self.pairs.ptr, rows)
                self.pairs.gradient.write(place, self.by_token(grad).movedim(1, -1))
            beta = 0 if grads is None else 1
            if grads is None:
                # Small results kept one by one between large blocks would leave the
                # allocator no place for the next large block.
                grads = self.query.new_empty(2, *self.query.shape)
            if self.chunk.size < _FEW:
                products(grad, self.key, grads[0])
                products(grad.mT, self.query, grads[1])
                continue
            if rows.stop - rows.start == self.chunk.size:
                torch.bmm(grad, self.key, out=grads[0])
            else:
                grads[0, :, rows] = grad.bmm(self.key)
            grads[1].baddbmm_(grad.mT, self.query[:, rows], beta=beta)
        assert grads is not None
        return grads

    def atom_weights(self) -> tuple[Tensor, Tensor]:
        """The mean attention that atoms get ``[G, H, n]``, without and with dropout."""
        weight: Optional[Tensor] = None
        dropped: Optional[Tensor] = None
        for rows, alpha, factor in self.blocks():
            weight = add(weight, self.mean(alpha, rows))
            if factor is not None:
                dropped = add(dropped, self.mean(alpha * factor, rows))
        assert weight is not None
        used = weight if dropped is None else dropped
        self.kept_mean = None if self.kept is None else used
        return weight, used

    def atom_weights_gradient(
        self, grad_kept: Tensor, grad_weight: Optional[Tensor], kept: list[Tensor]
    ) -> Iterator[tuple[slice, Tensor]]:
        """The logits' gradients, from those of what :meth:`atom_weights` gives.

        Those of the weights with dropout and without are ``[G, H, n]``; the weights
        with dropout are put into ``kept``, which is empty. Yields blocks of query rows
        with gradients ``[G * H, rows, n]``.
        """
        common = grad_kept if grad_weight is None else grad_kept + grad_weight
        for rows, alpha, factor in self.blocks():
            share = self.shares(rows)
            if factor is None:
                # All rows have one gradient, so a product gives its mean over each row.
                grad = common.flatten(0, 1).unsqueeze(1)
                if not isinstance(share, Tensor):
                    grad, share = grad * share, 1.0
                of_rows = alpha.bmm(grad.mT)
                grad = (alpha * grad).addcmul_(alpha, of_rows, value=-1)
            else:
                grad = self.by_token(factor) * grad_kept.unsqueeze(2)
                if grad_weight is not None:
                    grad += grad_weight.unsqueeze(2)
                grad = softmax_gradient(alpha, grad.flatten(0, 1))
            if isinstance(share, Tensor):
                grad.mul_(share.mT)
            elif share != 1.0:
                grad.mul_(share)
            found = self.kept_mean
            if found is None:
                found = self.mean(alpha if factor is None else alpha * factor, rows)
            kept[:] = [add(kept[0] if kept else None, found)]
            yield rows, grad


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
        if bias is not None:
            self.ptr = context.pair_ptr(bias)
            if needed:
                self.gradient = RowWriter(bias.shape, bias, filled=True, spare=1)


def add(total: Optional[Tensor], more: Tensor) -> Tensor:
    """The sum, in the place of the first where nobody follows."""
    if total is None:
        return more
    return total + more if works_out_of_place() else total.add_(more)


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    narrow = logits.size(-1) < _NARROW and logits.device.type == "cpu"
    if not narrow or exact.carries_tangents():
        return exact.softmax(logits)
    return logits.movedim(-1, 0).contiguous().softmax(0).movedim(0, -1)


def products(a: Tensor, b: Tensor, out: Tensor) -> None:
    """``a.bmm(b)`` as a sum over the columns of ``a``, which are few."""
    for column in range(a.size(2)):
        found = a[:, :, column, None], b[:, None, column]
        out.addcmul_(*found) if column else torch.mul(*found, out=out)


def read_heads(x: Tensor, chunk: Chunk) -> Tensor:
    """Rows of ``[N, H, d]`` as the chunk's ``[G, H, n, d]``."""
    rows = chunk.pad(x.index_select(0, chunk.rows)).to(accumulate_dtype(x.dtype))
    # Contiguous, because every product would make it so once more.
    return rows.transpose(1, 2).contiguous()


def read_gradients(
    outputs: Tensors, rows: Places, tokens: Places, like: Tensor, shape: Sequence[int]
) -> tuple[Tensor, Optional[Tensor]]:
    """Gradients of tokens ``[G, *shape]`` and of the weights of atoms ``[A, H]``.

    Of tokens that nobody used they are zero, and broadcast to this shape.
    """
    found, weights = outputs
    if found is not None:
        found = tokens.take(found).to(like.dtype)
    else:
        found = like.new_zeros(1, 1, 1).expand(len(tokens.index), *shape)
    return found, None if weights is None else rows.take(weights).to(like.dtype)


class RowWriter:
    """Collects computed rows into whole tensors.

    Without gradients rows are written in place as they come. With gradients they are
    kept and joined once, as an in-place write a chunk would make the backward pass
    touch the whole tensor as often as there are chunks. Rows are zeros until written,
    unless all will be (``filled``); ``spare`` ones past the end take padding.
    """

    def __init__(
        self, shape: Sequence[int], like: Tensor, filled: bool = False, spare: int = 0
    ) -> None:
        self._joins, self._spare = works_out_of_place(), spare
        self._shape, self._like = (shape[0] + spare, *shape[1:]), like
        # Zeros are an extra pass over memory.
        dense = filled and not self._joins
        self._make = like.new_empty if dense else like.new_zeros
        self._out: Optional[Tensor] = None
        self._whole: Optional[Tensor] = None
        self._index: list[Tensor] = []
        self._rows: list[Tensor] = []

    def put(self, places: Places, rows: Tensor) -> None:
        """Put ``rows`` to places of a stretch, which may be all."""
        if places.back is None:
            self.write(places.index, rows)
            return
        rows = rows if places.in_order else rows.index_select(0, places.back)
        rows = rows.reshape(-1, *self._shape[1:]).to(self._like.dtype)
        self._whole = rows.contiguous()

    def write(self, index: Union[Tensor, slice], rows: Tensor) -> None:
        """Put ``rows`` where ``index`` says; both may have more leading dimensions."""
        if isinstance(index, slice):
            if not self._joins:
                self._made()[index].view(rows.shape).copy_(rows)
                return
            index = torch.arange(index.start, index.stop, device=rows.device)
        rows = rows.reshape(-1, *self._shape[1:]).to(self._like.dtype)
        if not self._joins:
            self._made().index_copy_(0, index.flatten(), rows)
            return
        self._index.append(index.flatten())
        self._rows.append(rows)

    def _made(self) -> Tensor:
        if self._out is None:
            # What it is like may be a matrix that lies column by column in memory.
            turned = self._like.dim() == 2 and self._like.stride(0) == 1
            shape = self._shape[::-1] if turned else self._shape
            self._out = self._make(shape).mT if turned else self._make(shape)
        return self._out

    def result(self) -> Tensor:
        """The whole tensor, zeros where nothing was written."""
        if self._whole is not None:
            return self._whole
        out = self._made()
        if self._rows:
            out = out.index_copy(0, torch.cat(self._index), torch.cat(self._rows))
        return out[: -self._spare] if self._spare else out


def works_out_of_place() -> bool:
    """Whether autograd or a transform follows, which in-place writes would disturb."""
    return torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()


def written(*writers: Optional[RowWriter]) -> Gradients:
    """The gradients that writers collected, ``None`` where none was needed."""
    return [None if one is None else one.result() for one in writers]


def softmax_gradient(alpha: Tensor, grad: Tensor) -> Tensor:
    """The gradient of logits whose softmax is ``alpha``."""
    return alpha * (grad - (alpha * grad).sum(-1, keepdim=True))
