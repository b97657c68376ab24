"""Structures and molecules → connected components."""

from typing import Any

from pyg_atomenc.chem.codes import by_first_atom, connected
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import residue_kinds, structure_tokens
from pyg_atomenc.tokenizers.molecule import bond_ends, chemical_tokens, fragment_names
from pyg_atomenc.tokenizers.residue import find_residues
from pyg_atomenc.tokenizers.source import (
    check_atom_array,
    check_bonds,
    check_mol,
    is_mol,
)


class Components:
    """Makes all atoms that bonds connect one token: a chain, a ligand, a water, an ion.

    The tokens of a structure have the features of the residue of their first atom, as
    in :class:`~pyg_atomenc.tokenizers.Residue`; those of a molecule have their
    canonical SMILES as ``token_name``.

    Shapes:
        - input: an ``rdkit.Chem.Mol``, or a ``biotite.structure.AtomArray`` with bonds,
          of ``N > 0`` atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64, numbered by their first atoms

    Raises:
        ValueError: If the input is neither, has no atoms or an array no bonds.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its component; see the class."""
        if is_mol(source):
            check_mol(source)
            piece, first = by_first_atom(
                connected(source.GetNumAtoms(), bond_ends(source))
            )
            names = fragment_names(source, piece, len(first))
            return chemical_tokens(source, piece, names)
        check_atom_array(source)
        check_bonds(source)
        ends = source.bonds.as_array()[:, :2]
        token, first = by_first_atom(connected(source.array_length(), ends))
        residue, start = find_residues(source)
        kinds = residue_kinds(source, residue, start)
        return structure_tokens(source, token, len(first), residue, kinds)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
