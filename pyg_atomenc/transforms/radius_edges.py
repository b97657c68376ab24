"""`RadiusEdges`: edges between atoms that are close in space."""

from typing import Optional

from torch_geometric.transforms import BaseTransform

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import check_pos
from pyg_atomenc.transforms.neighbors import check_neighbors, neighbors


class RadiusEdges(BaseTransform):
    """Joins every two atoms that are at most ``cutoff`` apart, beside the bonds.

    Adds, for ``E`` directed edges,

    - ``radius_edge_index`` ``[2, E]``, int64: rows (source, target), sorted by target;
      no loops. Atoms whose position is not known have no edges.
    - ``radius_distance`` ``[E]``, of the type of ``pos``: in ångström, differentiable

    The bonds in ``edge_index`` stay as they are. In a batch no edge joins two graphs.

    Args:
        cutoff (float): In ångström. (default: ``5.0``)
        max_neighbors (int, optional): Keep only the nearest sources of every target;
            edges may then go one way. (default: all)

    Raises:
        ValueError: If an argument is out of range, or ``pos`` is missing.
        ImportError: If SciPy is not installed.

    Example:
        >>> data = AtomTokenData(pos=torch.tensor([[0.0, 0, 0], [3, 0, 0], [9, 0, 0]]))
        >>> RadiusEdges(cutoff=4.0)(data).radius_edge_index.tolist()
        [[1, 0], [0, 1]]
    """

    def __init__(
        self, cutoff: float = 5.0, max_neighbors: Optional[int] = None
    ) -> None:
        check_neighbors(cutoff, max_neighbors)
        self.cutoff = cutoff
        self.max_neighbors = max_neighbors

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the edges to a shallow copy."""
        pos = check_pos(data, "edges by distance need every atom's.")
        edges = neighbors(pos, data.batch, self.cutoff, self.max_neighbors)
        data.radius_edge_index = edges
        data.radius_distance = (pos[edges[0]] - pos[edges[1]]).norm(dim=1)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cutoff={self.cutoff})"
