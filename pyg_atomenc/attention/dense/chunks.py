"""Reading and writing the rows of a chunk of a token layout's plan."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.attention.dense.plan import make_plan

# Entries of one head's attention matrices that are in memory at once.
MAX_ENTRIES = 2**17
# But never fewer query rows than make an efficient matrix product.
MIN_ROWS = 16


def take(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` for rows, without the cost of general indexing on the CPU."""
    return x.index_select(0, index.reshape(-1)).view(*index.shape, *x.shape[1:])


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tokens of the same padded size, worked on as one batch of small matrices.

    Attributes:
        read (Tensor): The atoms of every token ``[G, n]``, int64; where a token has
            fewer than ``n`` atoms, its last atom again.
        write (Tensor): The same, but with the number of all atoms, the row past the
            last, at padded places.
        tokens (Tensor): The tokens ``[G]``, int64.
        sizes (Tensor, optional): Atoms of every token ``[G]``; ``None`` where all have
            ``n``.
    """

    read: Tensor
    write: Tensor
    tokens: Tensor
    sizes: Optional[Tensor]

    @property
    def size(self) -> int:
        """The padded size ``n``."""
        return self.read.size(1)

    @property
    def mask(self) -> Optional[Tensor]:
        """Which places hold an atom ``[G, n]``; ``None`` where all do."""
        if self.sizes is None:
            return None
        place = torch.arange(self.size, device=self.sizes.device)
        return place < self.sizes.unsqueeze(1)

    def row_blocks(self) -> Iterator[slice]:
        """Query rows whose attention weights fit in memory together."""
        step = max(MIN_ROWS, MAX_ENTRIES // (self.size * self.tokens.numel()))
        for start in range(0, self.size, step):
            yield slice(start, min(start + step, self.size))

    def pair_rows(self, pair_ptr: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Rows of the edge list to read and to write, each ``[G, rows, n]``."""
        place = torch.arange(self.size, device=pair_ptr.device)
        start = pair_ptr[self.tokens].view(-1, 1, 1)
        if self.sizes is None:
            read = start + place[rows].view(-1, 1) * self.size + place
            return read, read
        sizes = self.sizes.view(-1, 1, 1)
        target, source = place[rows].view(1, -1, 1), place.view(1, 1, -1)
        inside = (target < sizes) & (source < sizes)
        read = start + target.minimum(sizes - 1) * sizes + source.minimum(sizes - 1)
        return read, torch.where(inside, read, pair_ptr[-1])


def iterate_chunks(
    ptr: Tensor, order: Tensor, token_order: Tensor, plan: Tensor
) -> Iterator[Chunk]:
    """The chunks of a plan; an empty plan is made from ``ptr`` first."""
    if plan.size(0) == 0 and order.numel() > 0:
        plan = make_plan(ptr.diff().cpu())
    for first_atom, num_atoms, first_token, num_tokens, size in plan.tolist():
        atoms = order[first_atom : first_atom + num_atoms]
        tokens = token_order[first_token : first_token + num_tokens]
        if num_atoms == num_tokens * size:
            atoms = atoms.view(num_tokens, size)
            yield Chunk(atoms, atoms, tokens, None)
            continue
        sizes = ptr[tokens + 1] - ptr[tokens]
        place = torch.arange(size, device=order.device)
        last = sizes.cumsum(0).unsqueeze(1) - 1
        slot = last + 1 - sizes.unsqueeze(1) + place
        read = atoms[slot.minimum(last)]
        write = torch.where(place < sizes.unsqueeze(1), read, order.numel())
        yield Chunk(read, write, tokens, sizes)


class RowWriter:
    """Collects computed rows into whole tensors.

    Without gradients rows are written in place as they come. With gradients they are
    kept and joined once, as an in-place write a chunk would make the backward pass
    touch the whole tensor as often as there are chunks. A row past the end takes what
    belongs to padding.

    Args:
        rows (int): The number of rows.
        shape (iterable): The shape of a row.
        like (Tensor): Of which type and device.
        all_written (bool): Whether every row will be written; else the others are
            zeros. (default: ``False``)
    """

    def __init__(
        self,
        rows: int,
        shape: Iterable[int],
        like: Tensor,
        *,
        all_written: bool = False,
    ) -> None:
        self._joins = torch.is_grad_enabled()
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
