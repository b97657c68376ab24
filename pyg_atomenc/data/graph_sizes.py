"""How large graphs are: their atoms, and the pairs of atoms that share a token."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from pyg_atomenc.data.atom_token_data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError


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
    table = torch.tensor(sizes, dtype=torch.long).view(-1, 2)
    return table[:, 0], table[:, 1]
