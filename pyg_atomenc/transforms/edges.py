"""`RadiusEdges` and `TokenEdges`: edges that go by distance, or by bonds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import coalesce, remove_self_loops

from pyg_atomenc.checks import check, check_integer, check_positive, check_rows
from pyg_atomenc.chem.codes import count_before
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import check_graph, check_pos
from pyg_atomenc.errors import require_package

_KINDS = ("bond", "representative", "contact")


@dataclass(eq=False)
class RadiusEdges(BaseTransform):
    """Joins every two atoms that are at most ``cutoff`` apart, beside the bonds.

    Adds, for ``E`` directed edges,

    - ``radius_edge_index`` ``[2, E]``, int64: rows (source, target), sorted by target;
      no loops, none of atoms whose position is not known, none between graphs
    - ``radius_distance`` ``[E]``, of the type of ``pos``: in ångström, differentiable

    Args:
        cutoff (float): In ångström. (default: ``5.0``)
        max_neighbors (int, optional): Keep only the nearest sources of every target;
            edges may then go one way. (default: all)

    Raises:
        ValueError: If an argument is out of range, or ``pos`` is missing.
        ImportError: If SciPy is not installed.
    """

    cutoff: float = 5.0
    max_neighbors: Optional[int] = None

    def __post_init__(self) -> None:
        check_neighbors(self.cutoff, self.max_neighbors)

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the edges to a shallow copy."""
        pos = check_pos(data, "edges by distance need every atom's.")
        edges = neighbors(pos, data.batch, self.cutoff, self.max_neighbors)
        data.radius_edge_index = edges
        data.radius_distance = (pos[edges[0]] - pos[edges[1]]).norm(dim=1)
        return data


@dataclass(eq=False)
class TokenEdges(BaseTransform):
    """Joins tokens that are bonded, or close in space.

    Adds, for ``E`` directed edges,

    - ``token_edge_index`` ``[2, E]``, int64: (source, target), sorted, no loops
    - ``token_edge_attr`` ``[E, K]``, float32: 1 in the columns of kinds that join them

    In a batch no edge joins two graphs. :func:`~pyg_atomenc.token_graph` takes these.

    Args:
        kinds (sequence): Any of ``"bond"``: a bond joins an atom of one to an atom of
            the other; ``"representative"``: their representative atoms (``token_pos``)
            are at most ``cutoff`` apart; ``"contact"``: any two of their atoms are.
            (default: ``("bond", "representative")``)
        cutoff (float): In ångström. (default: ``10.0``)
        max_neighbors (int, optional): Of the kind ``"representative"`` keep only the
            nearest sources of every target. (default: all)

    Raises:
        ValueError: If an argument is out of range, or a kind's positions are missing.
        ImportError: If SciPy is not installed and a kind goes by distance.
    """

    kinds: Sequence[str] = ("bond", "representative")
    cutoff: float = 10.0
    max_neighbors: Optional[int] = None

    def __post_init__(self) -> None:
        kinds: Any = self.kinds
        one = isinstance(kinds, str) or not isinstance(kinds, Sequence)
        self.kinds = kinds = (kinds,) if one else tuple(kinds)
        fits = kinds and set(kinds) <= set(_KINDS) and len(set(kinds)) == len(kinds)
        check(fits, f"'kinds' is {kinds!r}: pass one or more of {_KINDS}, each once.")
        check_neighbors(self.cutoff, self.max_neighbors)

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the edges to a shallow copy."""
        bonds, _ = check_graph(data)
        bonds = data.atom_to_token[bonds]
        found = [self._edges(data, bonds, kind) for kind in self.kinds]
        column = [edges.new_full(edges.shape[1:], i) for i, edges in enumerate(found)]
        attr = torch.nn.functional.one_hot(torch.cat(column), len(found)).float()
        edges, attr = remove_self_loops(torch.cat(found, dim=1), attr)
        joined = coalesce(edges, attr, num_nodes=data.total_num_tokens, reduce="max")
        data.token_edge_index, data.token_edge_attr = joined
        return data

    def _edges(self, data: AtomTokenData, bonds: Tensor, kind: str) -> Tensor:
        if kind == "bond":
            # A bond may be listed one way or both.
            return torch.cat([bonds, bonds.flip(0)], dim=1)
        why = f"edges of the kind {kind!r} go by positions in ångström."
        if kind == "representative":
            pos, graph = check_pos(data, why, "token_pos"), data.token_batch
            check_rows("token_pos", pos, len(graph), "tokens")
            return neighbors(pos, graph, self.cutoff, self.max_neighbors)
        atoms = neighbors(check_pos(data, why), data.batch, self.cutoff, None)
        return data.atom_to_token[atoms]


def neighbors(
    pos: Tensor, batch: Optional[Tensor], cutoff: float, max_neighbors: Optional[int]
) -> Tensor:
    """The pairs (neighbour, point) of finite ``pos`` up to ``cutoff`` apart, sorted."""
    spatial = require_package("scipy.spatial", "neighbours in space")
    place = pos.detach().double().cpu().numpy()
    if batch is not None:
        # A fourth coordinate keeps graphs further apart than the cutoff.
        place = np.column_stack([place, batch.cpu().numpy() * (2.0 * cutoff)])
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    place = place[known]
    pairs = spatial.cKDTree(place).query_pairs(cutoff, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    if max_neighbors is not None:
        length = np.linalg.norm(place[pairs[:, 0]] - place[pairs[:, 1]], axis=1)
        pairs = pairs[np.lexsort((pairs[:, 0], length, pairs[:, 1]))]
        pairs = pairs[count_before(pairs[:, 1]) < max_neighbors]
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    return torch.from_numpy(known[pairs].T.copy()).to(pos.device)


def check_neighbors(cutoff: float, max_neighbors: Optional[int]) -> None:
    """Raise a ValueError unless both are in range."""
    check_positive("cutoff", cutoff, "in ångström")
    if max_neighbors is not None:
        check_integer("max_neighbors", max_neighbors)
