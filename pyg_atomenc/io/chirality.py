"""Stereocentres as the Chemical Component Dictionary names them."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import require_package


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
    known = _dictionary()
    names, component = np.unique(atoms.res_name, return_inverse=True)
    for i, name in enumerate(names.tolist()):
        if name not in known:
            continue
        rows = np.flatnonzero(component == i)
        code[rows] = 0
        for centre, value in known[name].items():
            code[rows[atoms.atom_name[rows] == centre]] = value
    return code


@lru_cache(maxsize=1)
def _dictionary() -> dict[str, dict[str, int]]:
    """Component → its stereocentres' names and codes, of the whole dictionary."""
    ccd = require_package("biotite.structure.info.ccd", "from_atom_array")
    table = ccd.get_ccd()["chem_comp_atom"]
    component = table["comp_id"].as_array()
    first = np.append(True, component[1:] != component[:-1])
    found: dict[str, dict[str, int]] = {name: {} for name in component[first].tolist()}
    for text, code in (("R", 1), ("S", 2)):
        rows = np.flatnonzero(table["pdbx_stereo_config"].as_array() == text)
        names = table["atom_id"].as_array()[rows].tolist()
        for name, centre in zip(component[rows].tolist(), names, strict=True):
            found[name][centre] = code
    return found
