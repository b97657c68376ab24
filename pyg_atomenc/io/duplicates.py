"""Atoms that are there several times: alternate locations, and equal names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import code, code_runs, join
from pyg_atomenc.chem.residues import find_residues
from pyg_atomenc.errors import AtomEncodingError

NO_ALTLOC = (".", "?", " ", "")
_NAMES = ("chain_id", "res_id", "ins_code", "res_name", "atom_name")
# The most atoms that no name tells apart.
_MOST = 64


def choose_altloc(atoms: Any) -> NDArray[np.bool_]:
    """Which atoms stay ``[N]``, where one alternate location is chosen per residue.

    It goes by chain, residue number and insertion code, wherever the atoms stand and
    whatever the residue's name: of a serine that is a threonine in other copies of
    the molecule, only one may stay, that with the highest summed occupancy, or the
    first in the file.
    """
    keep = np.isin(atoms.altloc_id, NO_ALTLOC)
    if keep.all():
        return keep
    known = atoms.get_annotation_categories()
    names = ("chain_id", "res_id", "ins_code", "sym_id")
    place = join(*(code(getattr(atoms, name)) for name in names if name in known))
    option = join(place, code(atoms.altloc_id))
    weight = np.bincount(option, np.where(keep, 0.0, atoms.occupancy))[option]
    some = np.flatnonzero(~keep)
    # Within each place: the heaviest option first, of equal ones the one met first.
    order = some[np.lexsort((some, -weight[some], place[some]))]
    _, best = np.unique(place[order], return_index=True)
    chosen = np.zeros(option.max() + 1, dtype=bool)
    chosen[option[order[best]]] = True
    return keep | chosen[option]


def check_duplicates(atoms: Any) -> None:
    """Raise a ValueError if very many atoms of one residue have the same name.

    The bonds of such a residue go from each of them to each of their neighbours, which
    would fill the memory: so it is where all waters have the same number.
    """
    codes = join(*(code_runs(getattr(atoms, name)) for name in _NAMES))
    count = np.bincount(codes)
    if len(count) and count.max() > _MOST:
        # Numbers that start anew, as after 9,999 waters, name other molecules.
        codes = join(find_residues(atoms).index, code(atoms.atom_name))
        count = np.bincount(codes)
    if len(count) and count.max() > _MOST:
        atom = int((codes == count.argmax()).argmax())
        raise AtomEncodingError(
            f"it has {count.max()} atoms {atoms.atom_name[atom]} in residue "
            f"{atoms.res_name[atom]} {atoms.res_id[atom]} of chain "
            f"{atoms.chain_id[atom]}: give every molecule a number of its own"
        )
