"""How the dense backend cuts a layout into stretches of tokens, and these into chunks.

Tokens are taken by size, unless one chunk takes all. A stretch has as many atoms as
stay in a cache together; they are projected at once. Its neighbouring sizes share a
chunk where padding the smaller tokens to the largest costs less than another would.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Optional, Union

import numpy as np
import torch
from torch import Tensor

from pyg_atomenc.attention.context import OperatorContext
from pyg_atomenc.attention.ragged import stable_order


class Limits(NamedTuple):
    """How large stretches and chunks are; pairs are entries of one head's matrices."""

    atoms: int  # at most in a stretch, but for a token that has more
    chunk_cost: int  # of one more chunk, in pairs: what sizes may share of padding,
    copy_cost: int  # of an atom of a chunk with padding, whose rows are copied,
    entries: int  # and pairs that are in memory at once, at most


# On a CPU a stretch's activations stay in a core's cache between its steps; elsewhere
# launches cost more than memory.
CPU = Limits(2**11, 10_000, 12, 2**16)
ACCELERATOR = Limits(2**17, 2**21, 0, 2**23)


def limits_of(device: torch.device) -> Limits:
    """How large stretches and chunks are on a device."""
    return CPU if device.type == "cpu" else ACCELERATOR


# Rows of the edge list: an index, or a stretch of them.
Pairs = Union[Tensor, slice]

# To project an atom costs as much as so many pairs.
PROJECTED = 2**6

# Fewer query rows make no efficient matrix product.
MIN_ROWS = 32


@dataclass(frozen=True, eq=False)
class Padding:
    """How tokens of several sizes are padded to the largest, ``n`` atoms."""

    sizes: Tensor  # [G]
    slot: Tensor  # the atom in every place [G * n], a token's last again as padding
    inside: Tensor  # the places that hold an atom [A]
    closed: Tensor  # what is added to logits [G * H, 1, n]: -inf for padding
    share: Tensor  # 1 / size, 0 for padding [G * H, 1, n], float32
    # On a CPU places [2 * G * H * n] of each head's queries, then keys, in atoms, and
    # the reverse [A * 2 * H]. Elsewhere chunks are too large to keep these.
    split: Optional[Tensor] = None
    joined: Optional[Tensor] = None

    @staticmethod
    def of_sizes(sizes: Any, size: int, heads: int, device: torch.device) -> "Padding":
        """The padding of tokens ``[G]``, of NumPy, that stand one after the other."""
        place, count = np.arange(size), sizes[:, None]
        there = place < count
        slot = sizes.cumsum()[:, None] - count + np.minimum(place, count - 1)
        closed = np.where(there, np.float32(0), np.float32(-np.inf))
        masks = closed, (there / count).astype(np.float32)
        by_head = (mask.repeat(heads, 0)[:, None] for mask in masks)
        inside, step = np.flatnonzero(there), heads * size
        parts: Any = sizes, slot.ravel(), inside, *by_head
        if device.type == "cpu":
            of_heads = np.arange(2 * heads).reshape(2, 1, heads, 1)
            split = slot[:, None] * (2 * heads) + of_heads
            # Where the first head's queries are, and how far behind all others.
            first = inside + inside // size * (step - size)
            behind = np.arange(0, step, size) + [[0], [step * len(sizes)]]
            parts += split.ravel(), (first[:, None] + behind.ravel()).ravel()
        return Padding(*[_put(part, device) for part in parts])


def _put(array: Any, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # Even where there is nothing to do, `to` takes as long as what made it.
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Places:
    """Which rows of a whole tensor, and in which order."""

    index: Tensor  # int64
    back: Optional[Tensor] = None  # where every row of the whole is, if all are there
    in_order: bool = False  # whether these are all rows as they stand

    def take(self, x: Tensor) -> Tensor:
        """These rows."""
        return x if self.in_order else x.index_select(0, self.index)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tokens of the same padded size, worked on as one batch of small matrices."""

    rows: Tensor  # their ``A`` atoms, token by token [A], int64
    tokens: Tensor  # [G], int64
    size: int  # ``n``
    padding: Optional[Padding]  # None where all have n atoms
    first_pair: int  # the first edge of the first token in to_edge_index()
    atoms: slice  # where its atoms stand in the stretch,
    places: slice  # and its tokens

    def pad(self, x: Tensor) -> Tensor:
        """Rows of the atoms ``[A, …]`` as ``[G, n, …]``."""
        if self.padding is not None:
            x = x.index_select(0, self.padding.slot)
        return x.view(-1, self.size, *x.shape[1:])

    def compact(self, x: Tensor) -> Tensor:
        """Rows ``[G, n, …]`` of the atoms alone ``[A, …]``."""
        x = x.flatten(0, 1)
        return x if self.padding is None else x.index_select(0, self.padding.inside)

    def split(self, x: Tensor, heads: int) -> Tensor:
        """Queries and keys of the atoms ``[A, 2 H d]`` as ``[2, G * H, n, d]``."""
        if self.padding is None or self.padding.split is None:
            x = self.pad(x).view(-1, self.size, 2, heads, x.size(1) // (2 * heads))
            # In one piece, because every product would make it so once more.
            return x.permute(2, 0, 3, 1, 4).flatten(1, 2).contiguous()
        rows = x.reshape(len(x) * 2 * heads, -1).index_select(0, self.padding.split)
        return rows.view(2, -1, self.size, rows.size(1))

    def join(self, x: Tensor, heads: int) -> Tensor:
        """The reverse of :meth:`split`."""
        if self.padding is None or self.padding.joined is None:
            x = x.unflatten(1, (-1, heads)).permute(1, 3, 0, 2, 4)
            return self.compact(x.flatten(2))
        rows = x.flatten(0, 2).index_select(0, self.padding.joined)
        return rows.view(-1, 2 * heads * x.size(3))

    @cached_property
    def row_blocks(self) -> list[slice]:
        """Query rows whose attention weights fit in memory together."""
        entries = limits_of(self.rows.device).entries
        step = max(MIN_ROWS, entries // (self.size * len(self.tokens)))
        starts = range(0, self.size, step)
        return [slice(start, min(start + step, self.size)) for start in starts]

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
        if self.padding is None:
            read = start + place[rows].view(-1, 1) * self.size + place
            return read, read
        sizes = self.padding.sizes.view(-1, 1, 1)
        target, source = place[rows].view(1, -1, 1), place.view(1, 1, -1)
        inside = (target < sizes) & (source < sizes)
        read = start + target.minimum(sizes - 1) * sizes + source.minimum(sizes - 1)
        return read, torch.where(inside, read, pair_ptr[-1])


@dataclass(frozen=True, eq=False)
class Stretch:
    """Tokens whose atoms are projected together."""

    rows: Places  # their atoms, token by token
    tokens: Places
    chunks: list[Chunk]

    @property
    def single(self) -> bool:
        """Whether every token is one atom, which attends to itself alone."""
        return self.chunks[-1].size == 1

    def part(self, x: Tensor, where: slice) -> Tensor:
        """A chunk's part of what the stretch's atoms or tokens have."""
        return x if len(self.chunks) == 1 else x[where]


def stretches_of(context: OperatorContext, heads: int) -> list[Stretch]:
    """The stretches of a layout, made once for ``heads``; empty tokens are in none."""

    def make() -> list[Stretch]:
        limits = limits_of(context.perm.device)
        return make_stretches(context.perm, context.host_ptr, limits, heads)

    return context.plan_once(("dense", heads), make)


def chunks_of(context: OperatorContext, heads: int) -> Iterator[Chunk]:
    """The chunks of all stretches."""
    return (chunk for part in stretches_of(context, heads) for chunk in part.chunks)


def make_stretches(
    perm: Tensor, host_ptr: Tensor, limits: Limits, heads: int
) -> list[Stretch]:
    """Stretches of the atoms ``perm`` of tokens."""
    # NumPy's calls take a fraction of the time of torch's, and a layout is planned in
    # every step of a training.
    device, ptr = perm.device, host_ptr.numpy()
    unsorted = ptr[1:] - ptr[:-1]
    taken = stable_order(unsorted, perm.numel() + 1)
    sizes = rising = unsorted[taken]
    cut = make_groups(rising, limits)
    if sum(map(len, cut)) == 1 and cut[0][0].start == 0:
        # Where none is empty and all share a chunk, tokens and atoms stay as they come.
        taken, sizes = np.arange(len(sizes)), unsorted
    stops = sizes.cumsum()
    order = np.repeat(ptr[taken] - stops + sizes, sizes) + np.arange(perm.numel())
    atoms, tokens = perm.index_select(0, _put(order, device)), _put(taken, device)
    first_pair = ((unsorted**2).cumsum() - unsorted**2)[taken]
    stretches, stop = [], 0
    for groups in cut:
        start, first = stop, groups[0].start
        chunks = []
        for group in groups:
            count, size = sizes[group], int(rising[group.stop - 1])
            num_atoms, padding = int(stops[group.stop - 1]) - stop, None
            if num_atoms != len(count) * size:
                padding = Padding.of_sizes(count, size, heads, device)
            rows, pair = atoms[stop : stop + num_atoms], int(first_pair[group.start])
            here = slice(stop - start, stop - start + num_atoms)
            places = slice(group.start - first, group.stop - first)
            chunk = Chunk(rows, tokens[group], size, padding, pair, here, places)
            chunks.append(chunk)
            stop += num_atoms
        whole = len(cut) == 1
        of_atoms = _places(atoms[start:stop], whole)
        of_tokens = _places(tokens[first : groups[-1].stop], whole and first == 0)
        stretches.append(Stretch(of_atoms, of_tokens, chunks))
    return stretches


def _places(index: Tensor, whole: bool) -> Places:
    """Rows of a tensor, the whole of it where so told."""
    if not whole:
        return Places(index)
    if index.device.type != "cpu":
        # Whether they are in order would be waited for.
        return Places(index, index.argsort())
    given, order = index.numpy(), np.arange(len(index))
    back = np.empty_like(order)
    back[given] = order
    return Places(index, torch.from_numpy(back), np.array_equal(given, order))


def make_groups(sizes: Any, limits: Limits) -> list[list[slice]]:
    """Which tokens share a chunk, and which chunks a stretch; empty ones are in none.

    Sizes ``[T]``, of NumPy, are the tokens' numbers of atoms in rising order. Those of
    one atom are in stretches of their own, if many.
    """
    stretches: list[list[Any]] = [[]]
    room = limits.atoms
    changes = np.flatnonzero(sizes[1:] != sizes[:-1]) + 1
    firsts = [0, *changes.tolist()][: len(sizes)]
    values, stops = sizes[firsts].tolist(), [*firsts, len(sizes)][1:]
    apart = np.count_nonzero(sizes == 1) * PROJECTED > limits.chunk_cost
    for size, first, stop in zip(values, firsts, stops, strict=True):
        while size > 0 and first < stop:
            runs = stretches[-1]
            taken = min(stop - first, max(room // size, 0 if runs else 1))
            if taken == 0 or (runs and runs[-1][0] == 1 < size and apart):
                stretches.append([])
                room = limits.atoms
                continue
            runs.append((size, first, first + taken))
            first, room = first + taken, room - taken * size
    return [_share_chunks(runs, limits) for runs in stretches if runs]


def _share_chunks(runs: list[Any], limits: Limits) -> list[slice]:
    """The chunks of a stretch that cost least, by dynamic programming.

    Its tokens of one size are a run: the size, and where they start and stop.
    """
    cost, needed = 0, 0  # the least so far, and that of the pairs without padding
    starts: list[tuple[int, int]] = []  # of chunks: both in front of it, and its token
    cuts: list[list[slice]] = [[]]
    for size, start, stop in runs:
        place = size**2 + size * limits.copy_cost
        padded = [before - first * place for before, first in starts]
        starts.append((cost + needed, start))
        needed += (stop - start) * size**2
        least, begin = cost, len(padded)  # as a chunk alone
        if padded and (shared := min(padded) + stop * place - needed) <= cost:
            least, begin = shared, padded.index(min(padded))
        cost = least + limits.chunk_cost
        cuts.append([*cuts[begin], slice(starts[begin][1], stop)])
    return cuts[-1]
