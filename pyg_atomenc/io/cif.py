"""mmCIF and BinaryCIF blocks → biotite's `AtomArray`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.altloc import NO_ALTLOC, choose_altloc


def read_block(block: Any, model: int, fields: Sequence[str]) -> Any:
    """Read a model of an mmCIF or BinaryCIF block, with one location per residue.

    Args:
        block (biotite.structure.io.pdbx.CIFBlock or BinaryCIFBlock): The file's block.
        model (int): Which model, from 1.
        fields (sequence): What to read beside the usual annotations.

    Returns:
        biotite.structure.AtomArray: With bonds.
    """
    pdbx = require_package("biotite.structure.io.pdbx", "from_structure")
    site = block["atom_site"]
    _check_present(site)
    altlocs = site.get("label_alt_id")
    ids = altlocs.as_array(str) if altlocs is not None else np.array(["."])
    if np.isin(ids, NO_ALTLOC).all():
        return pdbx.get_structure(
            block, model=model, extra_fields=list(fields), include_bonds=True
        )
    # Bonds come with locations already chosen only: so choose, then read the rest.
    atoms = pdbx.get_structure(
        block, model=model, altloc="all", extra_fields=list(fields)
    )
    numbers = site["pdbx_PDB_model_num"].as_array(int)
    _, first = np.unique(numbers, return_index=True)
    rows = np.flatnonzero(numbers == numbers[np.sort(first)[model - 1]])
    chosen = rows[choose_altloc(atoms)]
    names = set(site)
    if not np.char.isalpha(ids[~np.isin(ids, NO_ALTLOC)]).all():
        # biotite drops every location that is not named by a letter.
        names.discard("label_alt_id")
    kept = _rows(site, names, chosen)
    others = {
        name: block[name] for name in ("struct_conn", "chem_comp_bond") if name in block
    }
    return pdbx.get_structure(
        type(block)({"atom_site": kept, **others}),
        model=1,
        extra_fields=list(fields),
        include_bonds=True,
    )


def _check_present(site: Any) -> None:
    """A '?' or '.' in place of a coordinate would be read as 0."""
    for name in ("Cartn_x", "Cartn_y", "Cartn_z"):
        mask = site[name].mask
        if mask is not None and (mask.array != 0).any():
            row = int((mask.array != 0).argmax())
            raise AtomEncodingError(f"no value for {name} in row {row} of atom_site")


def _rows(category: Any, names: set[str], rows: Any) -> Any:
    column = type(category).subcomponent_class()
    data = column.subcomponent_class()
    kept = {}
    for name in names:
        values, mask = category[name].data, category[name].mask
        masked = None if mask is None else data(mask.array[rows])
        kept[name] = column(data(values.array[rows]), masked)
    return type(category)(kept)
