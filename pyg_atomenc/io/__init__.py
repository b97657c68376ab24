"""Readers: SMILES, molecules and structure files → `AtomTokenData`."""

from pyg_atomenc.chem.bonds import BOND_TYPES
from pyg_atomenc.io.atom_array import from_atom_array, to_atom_array
from pyg_atomenc.io.limits import Limits
from pyg_atomenc.io.molecule_file import from_mol2, from_sdf
from pyg_atomenc.io.rdmol import from_rdmol, from_smiles, with_conformer
from pyg_atomenc.io.structure import from_structure

__all__ = [
    "BOND_TYPES", "Limits", "from_atom_array", "from_mol2", "from_rdmol",
    "from_sdf", "from_smiles", "from_structure", "to_atom_array", "with_conformer",
]  # fmt: skip
