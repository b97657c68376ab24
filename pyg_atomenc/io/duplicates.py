"""Atoms that are there several times, in alternate locations."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import code, join, of_columns


def choose_altloc(atoms: Any) -> NDArray[np.bool_]:
    """Which atoms stay ``[N]``: in each place, the location of the highest occupancy.

    A place has one chain, residue number and insertion code, whatever its residues'
    names: of a serine that is a threonine in other copies, only one may stay.
    """
    ids = np.where(np.isin(atoms.altloc_id, (".", "?", " ")), "", atoms.altloc_id)
    keep = ids == ""
    if keep.all():
        return keep
    place = of_columns(atoms, ("chain_id", "res_id", "ins_code"))
    # Of an atom with a location and the same without one, one is an alternative.
    atom = join(place, code(atoms.atom_name))
    keep &= ~np.isin(atom, atom[~keep])
    option = join(place, code(ids))
    weight = np.bincount(option, np.where(keep, 0.0, atoms.occupancy))[option]
    some = np.flatnonzero(~keep)
    # Within each place: the heaviest option first, of equal ones the one met first.
    order = some[np.lexsort((some, -weight[some], place[some]))]
    _, best = np.unique(place[order], return_index=True)
    chosen = np.zeros(option.max() + 1, dtype=bool)
    chosen[option[order[best]]] = True
    return keep | chosen[option]
