"""Structures → the tokens of Boltz-1 and Boltz-2."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.rdkit import as_atom_array
from pyg_atomenc.chem.residues import LIGAND, Residues, check_bonds, find_residues
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import split_residues


@dataclass(eq=False)
class Boltz1:
    """Makes a standard residue or nucleotide one token, all else one an atom.

    As in `Boltz-1 <https://doi.org/10.1101/2024.11.19.624167>`_: atoms of ligands,
    waters, ions and modified residues are tokens of their own; a selenomethionine
    counts as the methionine that Boltz makes of it. Boltz removes hydrogens and waters:
    read with ``hydrogens=False, waters=False`` for its tokens. Tokens know their
    residue, as those of :class:`~pyg_atomenc.tokenizers.Residue`.

    Shapes:
        - input and output: as of :class:`~pyg_atomenc.tokenizers.Residue`

    Raises:
        ValueError: As that, or if an array has neither bonds nor the annotation
            ``label_seq_id``, which tell a chain from a ligand.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its token; see the class."""
        residues = find_residues(as_atom_array(source))
        if residues.numbered is None:
            check_bonds(residues.atoms)
        return split_residues(residues, ~self._whole(residues))

    def _whole(self, residues: Residues) -> NDArray[np.bool_]:
        """Which residues are one token ``[R]``."""
        # An amino acid that is no part of a chain is a ligand.
        methionine = (residues.names == "MSE") & (residues.kinds != LIGAND)
        return residues.standard | methionine


@dataclass(eq=False)
class Boltz2(Boltz1):
    """Makes a residue or nucleotide of a polymer one token, all else one an atom.

    As in `Boltz-2 <https://doi.org/10.1101/2025.06.14.659707>`_: other than in
    :class:`Boltz1`, a modified residue is one token. It is told from a ligand by its
    number in the sequence where the file tells, else by a peptide or phosphodiester
    bond to another residue. Shapes and errors are those of :class:`Boltz1`.
    """

    def _whole(self, residues: Residues) -> NDArray[np.bool_]:
        numbered = residues.numbered
        polymer = residues.linked if numbered is None else numbered
        return super()._whole(residues) | polymer
