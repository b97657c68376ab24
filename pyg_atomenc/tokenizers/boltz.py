"""Structures → the tokens of Boltz-1 and Boltz-2."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import Integers
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import (
    LIGAND,
    STANDARD,
    in_polymer_bond,
    in_sequence,
    residue_kinds,
)
from pyg_atomenc.tokenizers.residue import find_residues
from pyg_atomenc.tokenizers.source import as_atom_array, check_bonds
from pyg_atomenc.tokenizers.split import split_residues


class Boltz1:
    """Makes a standard residue or nucleotide one token, all else one an atom.

    As in `Boltz-1 <https://doi.org/10.1101/2024.11.19.624167>`_: atoms of ligands,
    waters, ions and modified residues are tokens of their own; a selenomethionine
    counts as the methionine that Boltz makes of it. Boltz removes hydrogens and waters:
    read with ``hydrogens=False, waters=False`` for its tokens. Tokens know their
    residue, as those of :class:`~pyg_atomenc.tokenizers.Residue`.

    Shapes:
        - input: a ``biotite.structure.AtomArray``, with bonds unless it has the
          annotation ``label_seq_id``, or an ``rdkit.Chem.Mol``, of ``N > 0`` atoms,
          left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64, numbered by their first atoms

    Raises:
        ValueError: If the input is neither, has no atoms, or no bonds where it needs
            them to tell a chain from a ligand.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its token; see the class."""
        atoms = as_atom_array(source)
        residue, first = find_residues(atoms)
        if in_sequence(atoms, first) is None:
            check_bonds(atoms)
        kinds = residue_kinds(atoms, residue, first)
        # An amino acid that is no part of a chain is a ligand.
        whole = np.isin(atoms.res_name[first], [*STANDARD, "MSE"]) & (kinds != LIGAND)
        whole |= self._modified(atoms, residue, first)
        return split_residues(atoms, residue, kinds, ~whole)

    def _modified(
        self, atoms: Any, residue: Integers, first: Integers
    ) -> NDArray[np.bool_]:
        """Which other residues are one token, too ``[R]``."""
        return np.zeros(len(first), dtype=bool)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Boltz2(Boltz1):
    """Makes a residue or nucleotide of a polymer one token, all else one an atom.

    As in `Boltz-2 <https://doi.org/10.1101/2025.06.14.659707>`_: other than in
    :class:`Boltz1`, a modified residue is one token. It is told from a ligand by its
    number in the sequence where the file tells, else by a peptide or phosphodiester
    bond to another residue.

    Shapes:
        - input: as of :class:`Boltz1`
        - output: as of :class:`Boltz1`

    Raises:
        ValueError: As :class:`Boltz1`.
    """

    def _modified(
        self, atoms: Any, residue: Integers, first: Integers
    ) -> NDArray[np.bool_]:
        numbered = in_sequence(atoms, first)
        if numbered is None:
            return in_polymer_bond(atoms, residue, len(first))
        return numbered
