"""Bonds as the tensors that PyG's layers take."""

from collections.abc import Sequence

import torch
from torch import Tensor

BOND_TYPES = ("single", "double", "triple", "aromatic", "other")
"""The columns of ``edge_attr``; coordination and unknown bonds are ``"other"``."""

_COLUMN = {name: column for column, name in enumerate(BOND_TYPES)}


def bond_tensors(
    pairs: Sequence[tuple[int, int]], types: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Turn a list of bonds into directed edges with one-hot types.

    Args:
        pairs (sequence): The two atoms of each of ``B`` bonds.
        types (sequence): Their types ``[B]``; one that is not in :data:`BOND_TYPES`
            counts as ``"other"``.

    Returns:
        tuple: ``edge_index`` ``[2, 2 * B]`` int64, each bond in both directions and
        sorted by its first atom, and ``edge_attr`` ``[2 * B, 5]`` float32, one-hot over
        :data:`BOND_TYPES`.
    """
    ends = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t()
    other = _COLUMN["other"]
    column = torch.tensor([_COLUMN.get(name, other) for name in types]).long()
    edge_index = torch.cat([ends, ends.flip(0)], dim=1)
    column = torch.cat([column, column])
    order = edge_index[1].argsort(stable=True)
    order = order[edge_index[0][order].argsort(stable=True)]
    edge_attr = torch.zeros(len(order), len(BOND_TYPES))
    edge_attr[torch.arange(len(order)), column[order]] = 1.0
    return edge_index[:, order].contiguous(), edge_attr
