"""How large graphs are, and how batches are filled with them up to budgets."""

from bisect import bisect_left, insort_left
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from pyg_atomenc.data.atom_token_data import AtomTokenData, check_graph_type
from pyg_atomenc.errors import AtomEncodingError


def graph_size(data: AtomTokenData) -> tuple[int, int]:
    """The atoms of a graph or batch, and Σ n² over its tokens of n atoms, integers.

    Raises:
        ValueError: If it is no ``AtomTokenData``, or does not know its tokens.
    """
    check_graph_type(data, "dataset[i]")._check_has_tokens()
    counts = data.atom_to_token.bincount()
    return data.atom_to_token.numel(), int(counts.square().sum())


def dataset_sizes(dataset: Any) -> tuple[Tensor, ...]:
    """The atoms and the pairs of every graph of a dataset, each ``[S]``, int64.

    A dataset with a method ``graph_sizes()`` is asked; of subsets and concatenations,
    the datasets inside. Any other dataset or sequence of
    :class:`~pyg_atomenc.data.AtomTokenData` is loaded, one graph after the other.

    Raises:
        ValueError: If it gives something else.
    """
    if isinstance(dataset, Subset):
        atoms, pairs = dataset_sizes(dataset.dataset)
        index = torch.as_tensor(dataset.indices, dtype=torch.long)
        return atoms[index], pairs[index]
    if isinstance(dataset, ConcatDataset):
        parts = [dataset_sizes(part) for part in dataset.datasets]
        return tuple(map(torch.cat, zip(*parts, strict=True)))
    if hasattr(dataset, "graph_sizes"):
        return dataset.graph_sizes()
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise AtomEncodingError(
            f"'dataset' is of type {type(dataset).__name__}: pass a dataset or list of "
            f"AtomTokenData, or the sizes of its graphs."
        )
    sizes = [graph_size(dataset[i]) for i in range(len(dataset))]
    return torch.tensor(sizes, dtype=torch.long).view(-1, 2).unbind(dim=1)


def pack(
    order: Iterable[int], sizes: Sequence[tuple[int, int]], budget: int, most_open: int
) -> list[list[int]]:
    """Pack samples into batches, of which neither sum exceeds the budget.

    A sample goes to the fullest open batch that has room, else to a new one; where
    ``most_open`` are open, the fullest is then closed. So with one (next fit) the
    batches keep the order, and with some ten they are nearly full.
    """
    closed: list[list[int]] = []
    # Each open batch behind the smaller and both of its rests, the fullest first.
    batches, smaller = list[tuple[int, int, int, list[int]]](), itemgetter(0)
    for sample in order:
        size, other = sizes[sample]
        # In batches before this one, a rest is below both sizes.
        first = bisect_left(batches, min(size, other), key=smaller)
        for place in range(first, len(batches)):
            _, rest, other_rest, batch = batches[place]
            if size <= rest and other <= other_rest:
                del batches[place]
                break
        else:
            if len(batches) == most_open:
                closed.append(batches.pop(0)[-1])
            rest, other_rest, batch = budget, budget, []
        batch.append(sample)
        rest, other_rest = rest - size, other_rest - other
        entry = (min(rest, other_rest), rest, other_rest, batch)
        insort_left(batches, entry, key=smaller)
    return closed + [batch for *_, batch in batches]
