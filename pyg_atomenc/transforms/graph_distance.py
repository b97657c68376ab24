"""How many bonds apart two atoms are, for chosen pairs of atoms."""

import torch
from torch import Tensor


def bonds_apart(edge_index: Tensor, num_atoms: int, pairs: Tensor, most: int) -> Tensor:
    """The length of the shortest path over bonds, for every pair.

    A breadth-first search from all atoms at once, that ends after ``most`` bonds and
    goes on only from atoms of which a pair is still open. Its cost grows with the
    atoms within ``most`` bonds of an atom, whatever the size of the graph.

    Args:
        edge_index (Tensor): Bonds in both directions ``[2, E]``, int64.
        num_atoms (int): The number of atoms ``N``.
        pairs (Tensor): The pairs ``[2, P]``, int64; none may be there twice.
        most (int): The longest path to look for.

    Returns:
        Tensor: ``[P]``, int64, from 0 to ``most``; ``most + 1`` where the path is
        longer, or where there is none.
    """
    distance = torch.full_like(pairs[0], most + 1)
    wanted, where = (pairs[0] * num_atoms + pairs[1]).sort()
    first, last = edge_index[:, edge_index[0].argsort(stable=True)]
    degree = first.bincount(minlength=num_atoms)
    start = degree.cumsum(0) - degree
    open_pairs = pairs[0].bincount(minlength=num_atoms)
    # A pair is one number, so that sets of pairs are sorted vectors.
    front = torch.arange(num_atoms, device=pairs.device) * (num_atoms + 1)
    before = front[:0]
    for step in range(most + 1):
        slot = _find(wanted, front)
        found = slot[slot >= 0]
        distance[where[found]] = step
        sources = front // num_atoms
        open_pairs -= sources[slot >= 0].bincount(minlength=num_atoms)
        going = front[open_pairs[sources] > 0]
        if step == most or going.numel() == 0:
            break
        source, atom = going // num_atoms, going % num_atoms
        count = degree[atom]
        skip = (start[atom] - count.cumsum(0) + count).repeat_interleave(count)
        reached = last[skip + torch.arange(skip.numel(), device=skip.device)]
        after = (source.repeat_interleave(count) * num_atoms + reached).unique()
        # Bonds lead one step back, aside, or on.
        after = after[(_find(front, after) < 0) & (_find(before, after) < 0)]
        before, front = front, after
    return distance


def _find(values: Tensor, wanted: Tensor) -> Tensor:
    """Where each of ``wanted`` stands in the sorted ``values``, or -1."""
    if values.numel() == 0:
        return torch.full_like(wanted, -1)
    slot = torch.searchsorted(values, wanted).clamp(max=values.numel() - 1)
    return torch.where(values[slot] == wanted, slot, -1)
