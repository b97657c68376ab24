"""Bonds as the tensors that PyG's layers take."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

BOND_TYPES = ("single", "double", "triple", "aromatic", "other")
"""The columns of ``edge_attr``; coordination and unknown bonds are ``"other"``."""


def bond_tensors(pairs: Any, types: Any) -> tuple[Tensor, Tensor]:
    """Turn a list of bonds into directed edges with one-hot types.

    Args:
        pairs (array_like): The two atoms of each of ``B`` bonds ``[B, 2]``.
        types (array_like): Their columns in :data:`BOND_TYPES` ``[B]``.

    Returns:
        tuple: ``edge_index`` ``[2, 2 * B]`` int64, each bond in both directions and
        sorted by its first atom, and ``edge_attr`` ``[2 * B, 5]`` float32, one-hot over
        :data:`BOND_TYPES`.
    """
    ends = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    ends = np.concatenate([ends, ends[:, ::-1]])
    column = np.tile(np.asarray(types, dtype=np.int64).reshape(-1), 2)
    order = np.lexsort((ends[:, 1], ends[:, 0]))
    edge_attr = np.zeros((len(order), len(BOND_TYPES)), dtype=np.float32)
    edge_attr[np.arange(len(order)), column[order]] = 1
    edge_index = np.ascontiguousarray(ends[order].T)
    return torch.from_numpy(edge_index), torch.from_numpy(edge_attr)
