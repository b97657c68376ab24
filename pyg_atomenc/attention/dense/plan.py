"""How the dense backend cuts a layout into chunks, which it works on one at a time.

Tokens are taken in the order of their sizes. Neighbouring sizes share a chunk where
padding the smaller tokens to the largest costs less than another chunk would.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Optional

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


# Fewer query rows make no efficient matrix product.
MIN_ROWS = 16


class Group(NamedTuple):
    """Tokens that follow each other in the order of sizes, and share a chunk."""

    first_token: int  # the place of the first one among all tokens by size
    num_tokens: int
    num_atoms: int  # of all of them together
    size: int  # the atoms of the largest, to which the others are padded


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

    def pair_stretch(self, rows: slice) -> Optional[slice]:
        """Rows of the edge list where they are one stretch: those of one token."""
        if self.tokens.numel() != 1:
            return None
        first = self.first_pair
        return slice(first + rows.start * self.size, first + rows.stop * self.size)

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


def chunks_of(context: OperatorContext) -> list[Chunk]:
    """The chunks of a layout, made once; empty tokens are in none."""
    return plan_once(context, "dense", lambda: _make_chunks(context))


def _make_chunks(context: OperatorContext) -> list[Chunk]:
    device = context.perm.device
    sizes = context.host_ptr.diff()
    by_size = sizes.argsort(stable=True)
    sizes = sizes[by_size]
    order = ranges(context.host_ptr[by_size], sizes, context.num_atoms)
    atoms = context.perm[order.to(device, non_blocking=True)]
    tokens = by_size.to(device, non_blocking=True)
    first_pair = pointers(context.host_ptr.diff() ** 2)[by_size]
    chunks, first_atom = [], 0
    for group in make_groups(sizes, limits_of(device)):
        rows = atoms[first_atom : first_atom + group.num_atoms]
        first_atom += group.num_atoms
        kept = slice(group.first_token, group.first_token + group.num_tokens)
        pair = int(first_pair[group.first_token])
        if group.num_atoms == group.num_tokens * group.size:
            rows = rows.view(group.num_tokens, group.size)
            chunks.append(Chunk(rows, rows, tokens[kept], None, pair))
            continue
        count = sizes[kept].to(device, non_blocking=True)
        place = torch.arange(group.size, device=device)
        last = count.cumsum(0).unsqueeze(1) - 1
        slot = last + 1 - count.unsqueeze(1) + place
        read = rows[slot.minimum(last)]
        write = torch.where(place < count.unsqueeze(1), read, context.num_atoms)
        chunks.append(Chunk(read, write, tokens[kept], count, pair))
    return chunks


def make_groups(sizes: Tensor, limits: Limits) -> list[Group]:
    """Share tokens out among chunks; empty ones are in none.

    Sizes ``[T]`` are the tokens' numbers of atoms, in rising order, on the CPU.
    """
    values, counts = sizes.unique_consecutive(return_counts=True)
    groups: list[Group] = []
    token = 0
    # By `int`: torch 2.6 has no `tolist` inside of torch.func's transforms.
    listed = [int(v) for v in values], [int(c) for c in counts]
    for runs in _share(*listed, limits.chunk_cost):
        largest = runs[-1][0]
        if largest == 0:
            token += runs[0][1]
            continue
        for taken in _cut(runs, largest, limits):
            num_tokens = sum(count for _, count in taken)
            num_atoms = sum(size * count for size, count in taken)
            groups.append(Group(token, num_tokens, num_atoms, taken[-1][0]))
            token += num_tokens
    return groups


# Sizes and how many tokens have each, in rising order.
_Runs = list[tuple[int, int]]


def _share(values: list[int], counts: list[int], cost: int) -> list[_Runs]:
    """Join neighbouring sizes where padding is cheaper than another chunk."""
    shared: list[_Runs] = []
    padding = tokens = 0
    for size, count in zip(values, counts, strict=True):
        if shared and shared[-1][-1][0] > 0:
            last = shared[-1][-1][0]
            padding += tokens * (size * size - last * last)
            if padding <= cost:
                shared[-1].append((size, count))
                tokens += count
                continue
        shared.append([(size, count)])
        padding, tokens = 0, count
    return shared


def _cut(runs: _Runs, largest: int, limits: Limits) -> Iterator[_Runs]:
    """Cut runs into chunks of bounded atoms and pairs."""
    limit = max(1, min(limits.atoms // largest, limits.pairs // largest**2))
    current: _Runs = []
    room = limit
    for size, count in runs:
        while count > 0:
            taken = min(room, count)
            current.append((size, taken))
            count -= taken
            room -= taken
            if room == 0:
                yield current
                current, room = [], limit
    if current:
        yield current
