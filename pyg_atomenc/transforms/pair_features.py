"""`PairFeatures`: what is known of every pair of atoms in a token."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn.models.schnet import GaussianSmearing
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import cumsum, to_undirected

from pyg_atomenc.checks import check, check_integer, check_positive
from pyg_atomenc.chem.bonds import BOND_COLUMNS, check_bond_types
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import check_graph, check_pos

_FARTHEST = 6


@dataclass(eq=False)
class PairFeatures(BaseTransform):
    r"""Adds ``pair_attr`` ``[P, D]``, float32: features of the pairs inside tokens.

    There is a row for each column of ``data.token_layout().to_edge_index()``, ``P`` the
    sum of the tokens' squared sizes; an encoder reads it as ``edge_attr``. Columns are

    - bond type: one-hot over the 5 :data:`~pyg_atomenc.io.BOND_TYPES`, or zeros
    - graph distance: one-hot over 0, 1, …, 6 bonds on the shortest path, and a column
      for what is further or not connected; paths may leave the token
    - spatial distance: ``num_rbf`` Gaussians of ‖r_a − r_b‖, with centres spread evenly
      from 0 to ``cutoff`` (`SchNet <https://arxiv.org/abs/1706.08566>`_),
      differentiable; zeros where a position is not known

    Args:
        num_rbf (int): How many Gaussians; 0 without positions. (default: ``16``)
        cutoff (float): The centre of the last one, in ångström. (default: ``10.0``)

    Raises:
        ValueError: If an argument is out of range, if ``pos`` is missing where there
            are Gaussians, or if ``edge_attr`` holds no bond types.
    """

    num_rbf: int = 16
    cutoff: float = 10.0

    def __post_init__(self) -> None:
        count = check_integer("num_rbf", self.num_rbf, 0)
        check(count != 1, "'num_rbf' is 1: pass 2 or more, or 0 for none.")
        check_positive("cutoff", self.cutoff, "in ångström")

    @property
    def edge_dim(self) -> int:
        """The number of columns ``D``."""
        return BOND_COLUMNS + _FARTHEST + 2 + self.num_rbf

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the features to a shallow copy."""
        edges, attr = check_graph(data)
        pairs, count = data.token_layout().to_edge_index(), data.atom_to_token.numel()
        types = torch.empty((0, BOND_COLUMNS), device=pairs.device)
        types = check_bond_types(attr) if edges.numel() else types
        bonds, types = to_undirected(edges, types, num_nodes=count, reduce="max")
        slot = _find(bonds[0] * count + bonds[1], pairs[0] * count + pairs[1])
        apart = bonds_apart(bonds, count, pairs, _FARTHEST)
        # Where no bond is found, -1, stands a row of zeros.
        parts = [F.pad(types, (0, 0, 0, 1))[slot], F.one_hot(apart, _FARTHEST + 2)]
        dtype = torch.get_default_dtype()
        if self.num_rbf:
            pos = check_pos(data, "pass num_rbf=0, or give every atom a position.")
            known, dtype = pos.isfinite().all(dim=1, keepdim=True), pos.dtype
            # Zeros stand in for unknown positions: a NaN would reach others' gradients.
            source, target = torch.where(known, pos, 0.0)[pairs]
            # The root has no gradient at 0, where an atom meets itself.
            distance = (source - target).square().sum(dim=1).clamp(min=1e-12).sqrt()
            gaussians = GaussianSmearing(0.0, self.cutoff, self.num_rbf).to(pos)
            parts.append(gaussians(distance) * known[pairs].all(0))
        data.pair_attr = torch.cat([part.to(dtype) for part in parts], dim=1)
        return data


def bonds_apart(edge_index: Tensor, num_atoms: int, pairs: Tensor, most: int) -> Tensor:
    """Bonds on the shortest path of distinct pairs, ``most + 1`` for more or none."""
    # A breadth-first search from all atoms at once, over bonds in both directions,
    # which goes on only from atoms of which a pair is still open.
    distance = torch.full_like(pairs[0], most + 1)
    wanted, where = (pairs[0] * num_atoms + pairs[1]).sort()
    first, last = edge_index[:, edge_index[0].argsort(stable=True)]
    degree = first.bincount(minlength=num_atoms)
    start, open_pairs = cumsum(degree)[:-1], pairs[0].bincount(minlength=num_atoms)
    # A pair is one number, so that sets of pairs are sorted vectors.
    front = torch.arange(num_atoms, device=pairs.device) * (num_atoms + 1)
    before = front[:0]
    for step in range(most + 1):
        slot, sources = _find(wanted, front), front // num_atoms
        distance[where[slot[slot >= 0]]] = step
        open_pairs -= sources[slot >= 0].bincount(minlength=num_atoms)
        going = front[open_pairs[sources] > 0]
        if step == most or going.numel() == 0:
            break
        atom, count = going % num_atoms, degree[going % num_atoms]
        # The neighbours of each atom, one atom's behind the other's.
        shift = (start[atom] - cumsum(count)[:-1]).repeat_interleave(count)
        reached = last[shift + torch.arange(len(shift), device=pairs.device)]
        after = ((going - atom).repeat_interleave(count) + reached).unique()
        # Bonds lead one step back, aside, or on.
        after = after[~torch.isin(after, torch.cat([before, front]))]
        before, front = front, after
    return distance


def _find(values: Tensor, wanted: Tensor) -> Tensor:
    """Where each of ``wanted`` stands in the sorted ``values``, or -1."""
    slot = torch.searchsorted(values, wanted)
    # Behind the last value stands one that is never wanted.
    return torch.where(F.pad(values, (0, 1), value=-1)[slot] == wanted, slot, -1)
