"""What the Chemical Component Dictionary knows of a component's atoms."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import require_package

_COLUMNS = (
    "atom_id", "type_symbol", "charge", "pdbx_leaving_atom_flag", "pdbx_stereo_config",
)  # fmt: skip


@lru_cache(maxsize=10_000)
def component_atoms(name: str) -> tuple[NDArray[Any], ...]:
    """What is known of every atom of a component.

    Args:
        name (str): The component, such as ``"ALA"``.

    Returns:
        tuple: Five arrays ``[A]``, to be left as they are: names and elements, in
        capitals, as text, charges as int64, whether an atom leaves when the component
        is bonded to another, and handedness as ``"R"``, ``"S"`` or ``"N"``. Empty for a
        component that is not known.
    """
    info = require_package("biotite.structure.info", "components")
    found = [info.get_from_ccd("chem_comp_atom", name, key) for key in _COLUMNS]
    if found[0] is None:
        empty = np.array([], dtype="U1")
        return empty, empty, empty.astype(np.int64), empty.astype(bool), empty
    names, elements, charges, leaving, stereo = (c.as_array(str) for c in found)
    charges = np.where(np.isin(charges, (".", "?", "")), "0", charges).astype(np.int64)
    return names, np.char.upper(elements), charges, leaving == "Y", stereo
