"""Stereocentres as the Chemical Component Dictionary names them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.components import component_atoms


def dictionary_chirality(atoms: Any) -> NDArray[np.int64]:
    """The CIP code that the dictionary gives every atom.

    Args:
        atoms (biotite.structure.AtomArray): The atoms.

    Returns:
        numpy.ndarray: ``[N]``, int64: 0 for no stereocentre, 1 for R, 2 for S, −1 where
        the dictionary does not know the component.
    """
    code = np.full(atoms.array_length(), -1, dtype=np.int64)
    # A structure repeats few components: one comparison for each of their centres.
    names, component = np.unique(atoms.res_name, return_inverse=True)
    for i, name in enumerate(names.tolist()):
        known, *_, stereo = component_atoms(name)
        if len(known) == 0:
            continue
        rows = np.flatnonzero(component == i)
        code[rows] = 0
        for text, value in (("R", 1), ("S", 2)):
            centres = known[stereo == text]
            code[rows[np.isin(atoms.atom_name[rows], centres)]] = value
    return code
