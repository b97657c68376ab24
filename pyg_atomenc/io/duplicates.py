"""Atoms that are there several times, in alternate locations."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import code, join

NO_ALTLOC = (".", "?", " ", "")


def choose_altloc(atoms: Any) -> NDArray[np.bool_]:
    """Which atoms stay ``[N]``, where one alternate location is chosen per residue.

    It goes by chain, residue number and insertion code, wherever the atoms stand and
    whatever the residue's name: of a serine that is a threonine in other copies of
    the molecule, only one may stay, that with the highest summed occupancy, or the
    first in the file.
    """
    ids = np.where(np.isin(atoms.altloc_id, NO_ALTLOC), "", atoms.altloc_id)
    keep = ids == ""
    if keep.all():
        return keep
    known = atoms.get_annotation_categories()
    names = ("chain_id", "res_id", "ins_code", "sym_id")
    place = join(*(code(getattr(atoms, name)) for name in names if name in known))
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
