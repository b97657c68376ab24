"""Structures → the tokens of Boltz-1 and Boltz-2."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.codes import Integers
from pyg_atomenc.tokenizers.features import (
    LIGAND,
    STANDARD,
    component_kinds,
    in_polymer_bond,
    residue_kinds,
)
from pyg_atomenc.tokenizers.residue import find_residues
from pyg_atomenc.tokenizers.source import as_atom_array
from pyg_atomenc.tokenizers.split import split_residues


class Boltz1:
    """Makes a standard residue or nucleotide one token, all else one an atom.

    As in `Boltz-1 <https://doi.org/10.1101/2024.11.19.624167>`_: atoms of ligands,
    waters, ions and modified residues are tokens of their own; a selenomethionine
    counts as the methionine that Boltz makes of it. Boltz removes hydrogens and waters:
    read with ``hydrogens=False, waters=False`` for its tokens. Tokens know their
    residue, as those of :class:`~pyg_atomenc.tokenizers.Residue`.

    Shapes:
        - input: a ``biotite.structure.AtomArray`` or an ``rdkit.Chem.Mol`` of ``N > 0``
          atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64, numbered by their first atoms

    Raises:
        ValueError: If the input is neither or has no atoms.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its token; see the class."""
        atoms = as_atom_array(source)
        residue, first = find_residues(atoms)
        whole = self._whole(atoms, residue, atoms.res_name[first])
        kinds = residue_kinds(atoms, residue, first)
        return split_residues(atoms, residue, kinds, ~whole)

    def _whole(
        self, atoms: Any, residue: Integers, names: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Which residues stay one token ``[R]``."""
        return np.isin(names, [*STANDARD, "MSE"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Boltz2(Boltz1):
    """Makes a residue or nucleotide of a polymer one token, all else one an atom.

    As in `Boltz-2 <https://doi.org/10.1101/2025.06.14.659707>`_: other than in
    :class:`Boltz1`, a modified residue is one token. It is told from a ligand by its
    bonds: its component is made for a polymer, and a peptide or phosphodiester bond
    joins it to another residue.

    Shapes:
        - input: as of :class:`Boltz1`; an ``AtomArray`` needs bonds
        - output: as of :class:`Boltz1`

    Raises:
        ValueError: If the input is neither or has no atoms.
    """

    def _whole(
        self, atoms: Any, residue: Integers, names: NDArray[Any]
    ) -> NDArray[np.bool_]:
        linking = component_kinds(names) != LIGAND
        modified = linking & in_polymer_bond(atoms, residue, len(names))
        return super()._whole(atoms, residue, names) | modified
