"""Structures → the tokens of AlphaFold 3, of Boltz-1 and of Boltz-2."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyg_atomenc.chem.codes import Booleans
from pyg_atomenc.chem.rdkit import residues_of
from pyg_atomenc.chem.residues import LIGAND, POLYMER_LINKS, Residues, check_bonds
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import split_residues


@dataclass(eq=False)
class AF3:
    """Makes a standard residue of a polymer one token, all else one an atom.

    As in section 2.6 of `AlphaFold 3's supplement
    <https://doi.org/10.1038/s41586-024-07487-w>`_, in the reading of OpenFold-3: atoms
    of ligands, of modified residues (MSE among them) and of standard residues that are
    no part of a polymer are tokens of their own. So are, with ``atomize_modified``,
    those of a standard residue with any bond to another residue, to a metal, too, that
    is neither a peptide bond (both atoms named N or C) nor a phosphodiester bond (both
    named P, O3' or O5'): a disulfide splits both its cysteines, a glycan its
    asparagine. Read with ``hydrogens=False, waters=False``, as AlphaFold 3 does.
    Shapes, features and errors are those of :class:`~pyg_atomenc.tokenizers.Residue`.

    Args:
        atomize_modified (bool): Split modified standard residues. (default: ``True``)

    Raises:
        ValueError: Also if an array has no bonds, which ``atomize_modified`` needs.
    """

    atomize_modified: bool = True

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its token; see the class."""
        residues = residues_of(source)
        split = ~residues.standard
        if self.atomize_modified:
            check_bonds(residues.atoms)
            ends = residues.bonds_between()
            names = residues.atoms.atom_name[ends]
            for link in POLYMER_LINKS:
                other = ~np.isin(names, link.backbone).all(axis=1)
                ends, names = ends[other], names[other]
            split[residues.index[ends].ravel()] = True
        return split_residues(residues, split)


@dataclass(eq=False)
class Boltz1:
    """Makes a standard residue or nucleotide one token, all else one an atom.

    As in `Boltz-1 <https://doi.org/10.1101/2024.11.19.624167>`_: atoms of ligands,
    waters, ions and modified residues are tokens of their own; a selenomethionine
    counts as a methionine. Read with ``hydrogens=False, waters=False``, as Boltz does.
    Shapes, features and errors are those of :class:`~pyg_atomenc.tokenizers.Residue`.

    Raises:
        ValueError: Also if an array has no bonds and no ``label_seq_id``, for chains.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its token; see the class."""
        residues = residues_of(source)
        if residues.numbered is None:
            check_bonds(residues.atoms)
        return split_residues(residues, ~self._whole(residues))

    def _whole(self, residues: Residues) -> Booleans:
        """Which residues are one token ``[R]``."""
        # An amino acid that is no part of a chain is a ligand.
        methionine = (residues.names == "MSE") & (residues.kinds != LIGAND)
        return residues.standard | methionine


@dataclass(eq=False)
class Boltz2(Boltz1):
    """Makes a residue or nucleotide of a polymer one token, all else one an atom.

    As in `Boltz-2 <https://doi.org/10.1101/2025.06.14.659707>`_: as :class:`Boltz1`,
    but a modified residue is one token. It is told from a ligand by its number in the
    sequence, if any, else by a peptide or phosphodiester bond to another residue.
    """

    def _whole(self, residues: Residues) -> Booleans:
        told = residues.numbered
        return super()._whole(residues) | (residues.linked if told is None else told)
