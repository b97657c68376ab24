"""Structures and molecules → atoms: every atom is a token."""

from typing import Any

import torch

from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.fragment import check_mol
from pyg_atomenc.tokenizers.residue import Residue, check_atom_array
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
        if type(source).__module__.startswith("rdkit"):
            require_package("rdkit.Chem", "Atom")
            check_mol(source)
            names = [atom.GetSymbol() for atom in source.GetAtoms()]
            return Tokens(torch.arange(len(names)), len(names), {"token_name": names})
        check_atom_array(source)
        residues = Residue()(source)
        return split_residues(residues, torch.ones(residues.num_tokens).bool())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
