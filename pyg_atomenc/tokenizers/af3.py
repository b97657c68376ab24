"""Structures → the tokens of AlphaFold 3."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyg_atomenc.chem.rdkit import as_atom_array
from pyg_atomenc.chem.residues import POLYMER_LINKS, check_bonds, find_residues
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import split_residues


@dataclass(eq=False)
class AF3:
    """Makes a standard residue of a polymer one token, all else one an atom.

    As in section 2.6 of `AlphaFold 3's supplement
    <https://doi.org/10.1038/s41586-024-07487-w>`_, in the reading of OpenFold-3: atoms
    of ligands, of modified residues (MSE among them) and of standard residues that are
    no part of a polymer are tokens of their own. So are, with ``atomize_modified``,
    those of a standard residue with any bond to another residue that is neither a
    peptide bond (both atoms named N or C) nor a phosphodiester bond (both named P, O3'
    or O5'): a disulfide splits both its cysteines, a glycan its asparagine. Every bond
    of the array counts, one to a metal, too. AlphaFold 3 keeps no hydrogens and waters:
    read with ``hydrogens=False, waters=False``. Tokens know their residue, as those of
    :class:`~pyg_atomenc.tokenizers.Residue`.

    Args:
        atomize_modified (bool): Split modified standard residues. (default: ``True``)

    Shapes:
        - input and output: as of :class:`~pyg_atomenc.tokenizers.Residue`

    Raises:
        ValueError: As that, or if an array has no bonds where ``atomize_modified`` asks
            for them.
    """

    atomize_modified: bool = True

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its token; see the class."""
        residues = find_residues(as_atom_array(source))
        split = ~residues.standard
        if self.atomize_modified:
            check_bonds(residues.atoms)
            # A bond to another residue that is none of a backbone.
            ends = residues.bonds_between()
            names = residues.atoms.atom_name[ends]
            backbone = np.zeros(len(ends), dtype=bool)
            for link in POLYMER_LINKS:
                backbone |= np.isin(names, link.backbone).all(axis=1)
            split[residues.index[ends[~backbone]].ravel()] = True
        return split_residues(residues, split)
