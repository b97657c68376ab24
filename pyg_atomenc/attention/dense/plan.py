"""How tokens are cut into chunks that the dense backend works on one at a time.

A plan is an int64 tensor ``[chunks, 5]`` on the CPU. Every row is one run of tokens in
the order of their sizes::

    first atom, number of atoms, first token, number of tokens, atoms a token

The first four count in ``TokenLayout.order`` and ``TokenLayout.token_order``. The last
is the size of the largest token of the chunk: where the product of the last two equals
the number of atoms, all tokens of the chunk have that size; else the chunk's smaller
tokens are padded to it.
"""

import torch
from torch import Tensor

# A chunk's activations should stay in a core's cache between its steps.
MAX_ATOMS = 2048
# Entries of one head's attention matrices in a chunk.
MAX_PAIRS = 2**18
# What an extra chunk costs, as a number of attention matrix entries: sizes whose
# padding costs less than that share a chunk.
CHUNK_COST = 2**12


def make_plan(sizes: Tensor) -> Tensor:
    """Group tokens of equal or similar size into chunks.

    Args:
        sizes (Tensor): The number of atoms of every token ``[T]``, int64, on the CPU.

    Returns:
        Tensor: The plan, int64 ``[chunks, 5]``; empty tokens are in no chunk.
    """
    values, counts = sizes.unique(return_counts=True)
    rows: list[tuple[int, int, int, int, int]] = []
    atom, token = 0, 0
    for group in _share(values.tolist(), counts.tolist()):
        largest = group[-1][0]
        if largest == 0:
            token += group[0][1]
            continue
        # The sizes of the group's tokens, in order, as runs to take chunks from.
        for taken in _cut(group, largest):
            num_tokens = sum(count for _, count in taken)
            num_atoms = sum(size * count for size, count in taken)
            rows.append((atom, num_atoms, token, num_tokens, taken[-1][0]))
            atom += num_atoms
            token += num_tokens
    return torch.tensor(rows, dtype=torch.long, device="cpu").reshape(-1, 5)


_Runs = list[tuple[int, int]]


def _share(values: list[int], counts: list[int]) -> list[_Runs]:
    """Join neighbouring sizes where padding is cheaper than another chunk."""
    groups: list[_Runs] = []
    padding = 0
    tokens = 0
    for size, count in zip(values, counts, strict=True):
        if groups and groups[-1][-1][0] > 0:
            last = groups[-1][-1][0]
            padding += tokens * (size * size - last * last)
            if padding <= CHUNK_COST:
                groups[-1].append((size, count))
                tokens += count
                continue
        groups.append([(size, count)])
        padding, tokens = 0, count
    return groups


def _cut(group: _Runs, largest: int) -> list[_Runs]:
    """Cut a group's runs into chunks of bounded atoms and pairs."""
    limit = max(1, min(MAX_ATOMS // largest, MAX_PAIRS // largest**2))
    chunks: list[_Runs] = []
    current: _Runs = []
    room = limit
    for size, count in group:
        while count > 0:
            take = min(room, count)
            current.append((size, take))
            count -= take
            room -= take
            if room == 0:
                chunks.append(current)
                current, room = [], limit
    if current:
        chunks.append(current)
    return chunks
