"""`PairBias`: what is known of every pair of atoms in a token."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn.models.schnet import GaussianSmearing
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import is_undirected, to_undirected

from pyg_atomenc.checks import check_integer, check_positive
from pyg_atomenc.chem.bonds import BOND_COLUMNS, check_bond_types
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.checks import check_graph, check_pos
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.transforms.graph_distance import bonds_apart

_FARTHEST = 6


class PairBias(BaseTransform):
    r"""Adds ``pair_attr`` ``[P, D]``, float32: features of the pairs inside tokens.

    There is a row for every column of ``data.token_layout().to_edge_index()``, ``P``
    the sum of the tokens' squared sizes, in that order; so it feeds an encoder as
    ``edge_attr``, for one graph and for a batch of graphs alike. The columns are

    - bond type: one-hot over the 5 :data:`~pyg_atomenc.io.BOND_TYPES`, zeros where no
      bond joins the two atoms
    - graph distance: one-hot over 0, 1, …, 6 bonds on the shortest path, and a column
      for what is further or not connected; paths may leave the token
    - spatial distance: ``num_rbf`` Gaussians of ‖r_a − r_b‖, with centres spread evenly
      from 0 to ``cutoff`` (`SchNet <https://arxiv.org/abs/1706.08566>`_); zeros where
      a position is not known. They are differentiable with respect to ``pos``.

    Args:
        num_rbf (int): The number of Gaussians; 0 for data without positions.
            (default: ``16``)
        cutoff (float): The centre of the last one, in ångström. (default: ``10.0``)

    Raises:
        ValueError: If an argument is out of range, if ``pos`` is missing where there
            are Gaussians, or if ``edge_attr`` holds no bond types.

    Example:
        >>> from pyg_atomenc.io import from_smiles
        >>> bias = PairBias(num_rbf=0)
        >>> data = bias(from_smiles("CC(=O)Oc1ccccc1"))
        >>> encoder = AtomAttentionEncoder(119, edge_dim=bias.edge_dim)
        >>> x = torch.nn.functional.one_hot(data.z, 119).float()
        >>> encoder(x, data.token_layout(), edge_attr=data.pair_attr).shape
        torch.Size([3, 128])
    """

    def __init__(self, num_rbf: int = 16, cutoff: float = 10.0) -> None:
        if check_integer("num_rbf", num_rbf, 0) == 1:
            raise AtomEncodingError(
                "'num_rbf' is 1: pass 2 or more Gaussians, or 0 for none."
            )
        check_positive("cutoff", cutoff, "in ångström")
        self.num_rbf = num_rbf
        self.cutoff = cutoff

    @property
    def edge_dim(self) -> int:
        """The number of columns ``D``."""
        return BOND_COLUMNS + _FARTHEST + 2 + self.num_rbf

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the features to a shallow copy."""
        check_graph(data)
        pairs = data.token_layout().to_edge_index()
        count = data.atom_to_token.numel()
        bonds, kind = _bonds_both_ways(data, count)
        apart = bonds_apart(bonds, count, pairs, _FARTHEST)
        known = _bond_types(bonds, kind, pairs, count)
        parts = [known, F.one_hot(apart, _FARTHEST + 2)]
        if self.num_rbf:
            check_pos(data, "pass num_rbf=0, or give every atom a position.")
            parts.append(_gaussians(data.pos, pairs, self.num_rbf, self.cutoff))
        like = parts[-1] if self.num_rbf else torch.empty(0, device=pairs.device)
        data.pair_attr = torch.cat([part.to(like.dtype) for part in parts], dim=1)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_rbf={self.num_rbf}, cutoff={self.cutoff})"


def _bonds_both_ways(data: AtomTokenData, count: int) -> tuple[Tensor, Tensor]:
    bonds = data.edge_index
    if bonds is None or bonds.numel() == 0:
        index = data.atom_to_token
        none = index.new_empty((0, BOND_COLUMNS), dtype=torch.float32)
        return index.new_empty((2, 0)), none
    check_bond_types(data)
    if is_undirected(bonds, num_nodes=count):
        return bonds, data.edge_attr
    both = to_undirected(bonds, data.edge_attr, num_nodes=count, reduce="max")
    return both[0], both[1]


def _bond_types(bonds: Tensor, kind: Tensor, pairs: Tensor, count: int) -> Tensor:
    if bonds.numel() == 0:
        return kind.new_zeros((pairs.size(1), BOND_COLUMNS))
    known, order = (bonds[0] * count + bonds[1]).sort(stable=True)
    pair = pairs[0] * count + pairs[1]
    slot = torch.searchsorted(known, pair).clamp(max=known.numel() - 1)
    return kind[order[slot]] * (known[slot] == pair).unsqueeze(1)


def _gaussians(pos: Tensor, pairs: Tensor, count: int, cutoff: float) -> Tensor:
    known = pos.isfinite().all(dim=1)
    # Zeros stand in for unknown positions: a NaN would reach the others' gradients.
    pos = torch.where(known.unsqueeze(1), pos, 0.0)
    square = (pos[pairs[0]] - pos[pairs[1]]).square().sum(dim=1)
    # The root has no gradient at 0, where an atom meets itself.
    distance = square.clamp(min=1e-12).sqrt()
    rbf = GaussianSmearing(0.0, cutoff, count).to(pos)(distance)
    return rbf * known[pairs].all(dim=0).unsqueeze(1)
