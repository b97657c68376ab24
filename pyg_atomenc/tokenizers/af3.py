"""Structures → the tokens of AlphaFold 3."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import Integers
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import LIGAND, STANDARD, residue_kinds
from pyg_atomenc.tokenizers.residue import find_residues
from pyg_atomenc.tokenizers.source import as_atom_array, check_bonds
from pyg_atomenc.tokenizers.split import split_residues

# A bond between two of the same set keeps its residues whole.
_BACKBONE_BONDS = (("N", "C"), ("P", "O3'", "O5'"))


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
        atomize_modified (bool): Split covalently modified standard residues.
            (default: ``True``)

    Shapes:
        - input: a ``biotite.structure.AtomArray`` with bonds, or an ``rdkit.Chem.Mol``,
          of ``N > 0`` atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64, numbered by their first atoms

    Raises:
        ValueError: If the input is neither, has no atoms, or has no bonds where
            ``atomize_modified`` asks for them.
    """

    def __init__(self, atomize_modified: bool = True) -> None:
        self.atomize_modified = atomize_modified

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its token; see the class."""
        atoms = as_atom_array(source)
        residue, first = find_residues(atoms)
        kinds = residue_kinds(atoms, residue, first)
        split = ~np.isin(atoms.res_name[first], STANDARD) | (kinds == LIGAND)
        if self.atomize_modified:
            check_bonds(atoms)
            split |= _modified(atoms, residue, len(first))
        return split_residues(atoms, residue, kinds, split)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(atomize_modified={self.atomize_modified})"


def _modified(atoms: Any, residue: Integers, count: int) -> NDArray[np.bool_]:
    """Which residues have a bond to another one that is none of a backbone ``[R]``."""
    ends = atoms.bonds.as_array()[:, :2]
    ends = ends[residue[ends[:, 0]] != residue[ends[:, 1]]]
    names = atoms.atom_name[ends]
    backbone = np.zeros(len(ends), dtype=bool)
    for linking in _BACKBONE_BONDS:
        backbone |= np.isin(names, linking).all(axis=1)
    modified = np.zeros(count, dtype=bool)
    modified[residue[ends[~backbone]].ravel()] = True
    return modified
