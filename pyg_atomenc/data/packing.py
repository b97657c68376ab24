"""How large graphs are, and how batches are filled with them up to budgets."""

from bisect import bisect_left, insort_left
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from pyg_atomenc.data.atom_token_data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError

# About this many batches are packed at once: enough to fill them well, few enough that
# a batch stays a random choice.
_BATCHES_AT_ONCE = 64
# A sample above one part in so many of the budget is placed before the others.
_LARGE = 4


def graph_size(data: AtomTokenData) -> tuple[int, int]:
    """The atoms of a graph, and Σ n² over its tokens of n atoms.

    Args:
        data (AtomTokenData): One graph, or a batch.

    Returns:
        tuple: Two integers.

    Raises:
        ValueError: If it is no ``AtomTokenData``, or does not know its tokens.
    """
    if not isinstance(data, AtomTokenData) or "atom_to_token" not in data:
        raise AtomEncodingError(
            f"'dataset' gives {type(data).__name__}: pass a dataset of AtomTokenData "
            f"with 'atom_to_token', or the sizes of its graphs."
        )
    counts = data.atom_to_token.bincount()
    return data.atom_to_token.numel(), int(counts.square().sum())


def dataset_sizes(dataset: Any) -> tuple[Tensor, Tensor]:
    """The sizes of all graphs of a dataset.

    A dataset with a method ``graph_sizes()`` is asked; of subsets and concatenations,
    the datasets inside. Any other dataset is loaded, one graph after the other.

    Args:
        dataset (Dataset or sequence): Gives
            :class:`~pyg_atomenc.data.AtomTokenData`.

    Returns:
        tuple: Atoms and pairs of every graph ``[S]``, int64.

    Raises:
        ValueError: If it gives something else.
    """
    if isinstance(dataset, Subset):
        atoms, pairs = dataset_sizes(dataset.dataset)
        index = torch.as_tensor(dataset.indices, dtype=torch.long)
        return atoms[index], pairs[index]
    if isinstance(dataset, ConcatDataset):
        parts = [dataset_sizes(part) for part in dataset.datasets]
        atoms, pairs = (torch.cat(column) for column in zip(*parts, strict=True))
        return atoms, pairs
    if hasattr(dataset, "graph_sizes"):
        return dataset.graph_sizes()
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise AtomEncodingError(
            f"'dataset' is of type {type(dataset).__name__}: pass a dataset or list of "
            f"AtomTokenData, or the sizes of its graphs."
        )
    sizes = [graph_size(dataset[i]) for i in range(len(dataset))]
    atoms, pairs = torch.tensor(sizes, dtype=torch.long).view(-1, 2).unbind(dim=1)
    return atoms, pairs


def pack_in_order(sizes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Cut samples into batches that stay in order (next fit).

    Args:
        sizes (sequence): Two sizes of every sample, on one scale.
        budget (int): What neither sum of a batch may exceed, unless one sample does.

    Returns:
        list: The batches, each the positions of its samples.
    """
    batches: list[list[int]] = []
    left = other_left = -1
    for sample, (size, other) in enumerate(sizes):
        if not batches or size > left or other > other_left:
            batches.append([])
            left = other_left = budget
        batches[-1].append(sample)
        left -= size
        other_left -= other
    return batches


def pack_evenly(sizes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Pack samples into batches that are nearly full, some 64 batches at a time.

    Consecutive samples are packed by best fit: first the large ones, by size, then the
    others as they come, so that they mix as the order mixes them. The emptiest batch
    goes on to the next samples. Arguments and result are those of
    :func:`pack_in_order`.
    """
    batches: list[list[int]] = []
    waiting: list[int] = []
    filled = 0
    # A sample over the budget fills one batch, not many.
    weights = [min(max(pair), budget) for pair in sizes]
    for sample, weight in enumerate(weights):
        waiting.append(sample)
        filled += weight
        if filled >= _BATCHES_AT_ONCE * budget:
            packed = _best_fit(waiting, sizes, weights, budget)
            waiting = packed.pop()
            filled = sum(weights[sample] for sample in waiting)
            batches += packed
    return batches + _best_fit(waiting, sizes, weights, budget)


def _best_fit(
    samples: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    weights: Sequence[int],
    budget: int,
) -> list[list[int]]:
    """The fullest batches first."""
    bound = budget // _LARGE
    large = [sample for sample in samples if weights[sample] > bound]
    large.sort(key=weights.__getitem__, reverse=True)
    small = [sample for sample in samples if weights[sample] <= bound]
    # Each batch behind the smaller and both of its rests, the fullest first.
    batches: list[tuple[int, int, int, list[int]]] = []
    smaller = itemgetter(0)
    for sample in large + small:
        size, other = sizes[sample]
        # The smaller rest of a batch that takes the larger size takes both.
        needed = size if size > other else other
        place = bisect_left(batches, needed, key=smaller)
        if place == len(batches):
            batches.append((budget, budget, budget, []))
        _, rest, other_rest, batch = batches.pop(place)
        batch.append(sample)
        rest, other_rest = rest - size, other_rest - other
        least = rest if rest < other_rest else other_rest
        insort_left(batches, (least, rest, other_rest, batch), key=smaller)
    return [batch for *_, batch in batches]
