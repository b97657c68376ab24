"""Atoms that no name tells apart."""

from typing import Any

import numpy as np

from pyg_atomenc.chem.codes import code, code_runs, join
from pyg_atomenc.chem.residues import find_residues
from pyg_atomenc.errors import AtomEncodingError

_MOST = 64
_NAMES = ("chain_id", "res_id", "ins_code", "res_name", "atom_name")


def check_crowds(atoms: Any) -> None:
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
