"""How the dense backend cuts a layout into chunks, which it works on one at a time.

Tokens are taken in the order of their sizes. Neighbouring sizes share a chunk where
padding the smaller tokens to the largest costs less than another chunk would.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import OperatorContext, plan_once
from pyg_atomenc.attention.ragged import pointers, ranges


class Limits(NamedTuple):
    """How large chunks are; pairs are entries of one head's attention matrices."""

    atoms: int  # at most in a chunk
    pairs: int  # at most in a chunk
    chunk_cost: int  # of one more chunk, in pairs: what sizes may share of padding
    entries: int  # pairs that are in memory at once, at most


# On a CPU a chunk's activations stay in a core's cache between its steps; elsewhere
# launches cost more than memory.
CPU = Limits(2**11, 2**18, 2**12, 2**17)
ACCELERATOR = Limits(2**17, 2**22, 2**19, 2**22)


def limits_of(device: torch.device) -> Limits:
    """How large chunks are on a device."""
    return CPU if device.type == "cpu" else ACCELERATOR


# Rows of the edge list: an index, or a stretch of them.
Pairs = Union[Tensor, slice]

# Fewer query rows make no efficient matrix product.
MIN_ROWS = 16


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tokens of the same padded size, worked on as one batch of small matrices."""

    read: Tensor  # the atoms of every token [G, n], int64, its last again as padding
    write: Tensor  # the same, but for padding the row past the last atom's
    tokens: Tensor  # [G], int64
    sizes: Optional[Tensor]  # atoms of every token [G]; None where all have n
    first_pair: int  # the first edge of the first token in to_edge_index()

    @property
    def size(self) -> int:
        """The padded size ``n``."""
        return self.read.size(1)

    @cached_property
    def mask(self) -> Optional[Tensor]:
        """Which places hold an atom ``[G, n]``; ``None`` where all do."""
        if self.sizes is None:
            return None
        place = torch.arange(self.size, device=self.sizes.device)
        return place < self.sizes.unsqueeze(1)

    def row_blocks(self) -> Iterator[slice]:
        """Query rows whose attention weights fit in memory together."""
        entries = limits_of(self.read.device).entries
        step = max(MIN_ROWS, entries // (self.size * self.tokens.numel()))
        for start in range(0, self.size, step):
            yield slice(start, min(start + step, self.size))

    def pair_rows(self, pair_ptr: Tensor, rows: slice) -> tuple[Pairs, Pairs]:
        """Rows of the edge list to read and to write, each ``[G, rows, n]``.

        Those of one token are one stretch.
        """
        if self.tokens.numel() == 1:
            first, size = self.first_pair, self.size
            stretch = slice(first + rows.start * size, first + rows.stop * size)
            return stretch, stretch
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


def chunks_of(context: OperatorContext) -> list[Chunk]:
    """The chunks of a layout, made once; empty tokens are in none."""
    return plan_once(context, "dense", lambda: _make_chunks(context))


def _make_chunks(context: OperatorContext) -> list[Chunk]:
    device = context.perm.device
    unsorted = context.host_ptr.diff()
    sizes, by_size = unsorted.sort(stable=True)
    order = ranges(context.host_ptr[by_size], sizes, context.num_atoms)
    atoms = context.perm[order.to(device, non_blocking=True)]
    tokens = by_size.to(device, non_blocking=True)
    first_pair = pointers(unsorted**2)[by_size]
    chunks, first_atom = [], 0
    for group in make_groups(sizes, limits_of(device)):
        count, pair = sizes[group], int(first_pair[group.start])
        size, num_atoms = int(count[-1]), int(count.sum())
        rows = atoms[first_atom : first_atom + num_atoms]
        first_atom += num_atoms
        if num_atoms == len(count) * size:
            rows = rows.view(-1, size)
            chunks.append(Chunk(rows, rows, tokens[group], None, pair))
            continue
        count = count.to(device, non_blocking=True)
        place = torch.arange(size, device=device)
        last = count.cumsum(0).unsqueeze(1) - 1
        slot = last + 1 - count.unsqueeze(1) + place
        read = rows[slot.minimum(last)]
        write = torch.where(place < count.unsqueeze(1), read, context.num_atoms)
        chunks.append(Chunk(read, write, tokens[group], count, pair))
    return chunks


def make_groups(sizes: Tensor, limits: Limits) -> list[slice]:
    """Which tokens share a chunk; empty ones are in none.

    Sizes ``[T]`` are the tokens' numbers of atoms, in rising order, on the CPU.
    """
    # Of neighbouring sizes the largest, the first token, and one past the last.
    shared: list[tuple[int, int, int]] = []
    stop = padding = 0
    # By `int`: torch 2.6 has no `tolist` inside of torch.func's transforms.
    for value, count in zip(*sizes.unique_consecutive(return_counts=True), strict=True):
        size, first, stop = int(value), stop, stop + int(count)
        if size == 0:
            continue
        if shared:
            last, start, _ = shared[-1]
            padding += (first - start) * (size * size - last * last)
            if padding <= limits.chunk_cost:
                shared[-1] = size, start, stop
                continue
        shared.append((size, first, stop))
        padding = 0
    groups = []
    for size, first, stop in shared:
        step = max(1, min(limits.atoms // size, limits.pairs // size**2))
        groups += [slice(i, min(i + step, stop)) for i in range(first, stop, step)]
    return groups
