"""Which points lie within a distance of each other."""

from typing import Optional

import numpy as np
import torch
from torch import Tensor

from pyg_atomenc.checks import check_integer, check_positive
from pyg_atomenc.errors import require_package


def neighbors(
    pos: Tensor, batch: Optional[Tensor], cutoff: float, max_neighbors: Optional[int]
) -> Tensor:
    """All pairs of points of a graph that are at most ``cutoff`` apart.

    SciPy's k-d tree finds them, on the CPU.

    Args:
        pos (Tensor): Points ``[N, 3]``; those that are not finite have no neighbours.
        batch (Tensor, optional): The graph of every point ``[N]``, int64.
        cutoff (float): In the unit of ``pos``.
        max_neighbors (int, optional): Of each point keep only that many, the nearest.

    Returns:
        Tensor: ``[2, E]``, int64, rows (neighbour, point), sorted by the point, then by
        the neighbour; no point is its own neighbour.
    """
    spatial = require_package("scipy.spatial", "neighbours in space")
    place = pos.detach().double().cpu().numpy()
    if batch is not None:
        # A fourth coordinate keeps graphs further apart than the cutoff.
        graph = batch.cpu().numpy()[:, None] * (2.0 * cutoff)
        place = np.concatenate([place, graph], axis=1)
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    place = place[known]
    pairs = spatial.cKDTree(place).query_pairs(cutoff, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    if max_neighbors is not None:
        pairs = _nearest(place, pairs, max_neighbors)
    return torch.from_numpy(known[pairs].T.copy()).to(pos.device)


def _nearest(place: np.ndarray, pairs: np.ndarray, count: int) -> np.ndarray:
    length = np.linalg.norm(place[pairs[:, 0]] - place[pairs[:, 1]], axis=1)
    order = np.lexsort((length, pairs[:, 1]))
    point = pairs[order, 1]
    rank = np.arange(len(point)) - np.searchsorted(point, point)
    return pairs[np.sort(order[rank < count])]


def check_neighbors(cutoff: float, max_neighbors: Optional[int]) -> None:
    """Raise a ValueError unless both are in range."""
    check_positive("cutoff", cutoff, "in ångström")
    if max_neighbors is not None:
        check_integer("max_neighbors", max_neighbors, 1)
