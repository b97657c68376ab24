"""Structures and molecules → atoms: every atom is a token."""

from typing import Any

import numpy as np

from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import residue_kinds
from pyg_atomenc.tokenizers.molecule import molecule_tokens
from pyg_atomenc.tokenizers.residue import find_residues
from pyg_atomenc.tokenizers.source import check_atom_array, check_mol, is_mol
from pyg_atomenc.tokenizers.split import split_residues


class Atom:
    """Makes every atom a token.

    For a structure the tokens know their residue, as those of
    :class:`~pyg_atomenc.tokenizers.Residue`; for a molecule ``token_name`` is the
    element's symbol.

    Shapes:
        - input: a ``biotite.structure.AtomArray`` or an ``rdkit.Chem.Mol`` of ``N > 0``
          atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64: 0 to ``N - 1``

    Raises:
        ValueError: If the input is neither or has no atoms.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom a token; see the class."""
        if is_mol(source):
            check_mol(source)
            names = [atom.GetSymbol() for atom in source.GetAtoms()]
            return molecule_tokens(source, np.arange(len(names)), names)
        check_atom_array(source)
        residue, first = find_residues(source)
        kinds = residue_kinds(source, residue, first)
        every = np.ones(len(first), dtype=bool)
        return split_residues(source, residue, kinds, every)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
