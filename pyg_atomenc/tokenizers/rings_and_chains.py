"""Molecules → ring systems, and the chains between them."""

from typing import Any

import numpy as np

from pyg_atomenc.chem.codes import by_first_atom, connected
from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.molecule import (
    bond_ends,
    chemical_tokens,
    fragment_names,
    with_hydrogens,
)
from pyg_atomenc.tokenizers.source import as_mol


class RingsAndChains:
    """Makes every ring system one token, and every chain of what joins them.

    Rings that share an atom (fused, spiro, bridged) are one system; two rings joined by
    a bond are two. The other atoms form one token for each stretch that bonds connect.
    Hydrogens go with the atom that they are bonded to. ``token_name`` is the canonical
    SMILES of each piece.

    Shapes:
        - input: an ``rdkit.Chem.Mol``, or a ``biotite.structure.AtomArray`` with bonds,
          of ``N > 0`` atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64, numbered by their first atoms

    Raises:
        ValueError: If the input is neither, has no atoms or an array no bonds.

    Example:
        >>> from rdkit import Chem
        >>> mol = Chem.MolFromSmiles("c1ccccc1CCC1CC1")
        >>> RingsAndChains()(mol).attributes["token_name"]
        ['c1ccccc1', 'CC', 'C1CC1']
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its ring system or chain; see the class."""
        chem = require_package("rdkit.Chem", "RingsAndChains")
        mol = chem.Mol(as_mol(source))
        chem.FastFindRings(mol)
        ends = bond_ends(mol)
        in_ring = np.array([bond.IsInRing() for bond in mol.GetBonds()], dtype=bool)
        ring_atom = np.zeros(mol.GetNumAtoms(), dtype=bool)
        ring_atom[ends[in_ring].ravel()] = True
        # A bond that leaves a ring joins nothing; one in a chain does.
        joins = in_ring | ~ring_atom[ends].any(axis=1)
        piece = connected(mol.GetNumAtoms(), ends[joins])
        piece, first = by_first_atom(with_hydrogens(mol, piece))
        return chemical_tokens(source, piece, fragment_names(mol, piece, len(first)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
