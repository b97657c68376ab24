"""Structures → the tokens of Boltz-1 and Boltz-2."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.residue import Residue, check_atom_array
from pyg_atomenc.tokenizers.split import split_residues

# Boltz reads selenomethionine (MSE) as methionine.
STANDARD = (
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET MSE PHE PRO SER THR TRP TYR "
    "VAL UNK A C G U N DA DC DG DT DN"
).split()
_LINKS = (("C", "N"), ("O3'", "P"))


class Boltz1:
    """Makes a standard residue or nucleotide one token, all else one an atom.

    As in `Boltz-1 <https://doi.org/10.1101/2024.11.19.624167>`_: atoms of ligands,
    waters, ions and modified residues are tokens of their own; a selenomethionine
    counts as the methionine that Boltz makes of it. Boltz removes hydrogens and waters:
    read with ``hydrogens=False, waters=False`` for its tokens. Tokens know their
    residue, as those of :class:`~pyg_atomenc.tokenizers.Residue`.

    Shapes:
        - input: a ``biotite.structure.AtomArray`` of ``N > 0`` atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64, numbered by their first atoms

    Raises:
        ValueError: If the input is no ``AtomArray`` or has no atoms.
    """

    def __call__(self, atoms: Any) -> Tokens:
        """Assign every atom to its token; see the class."""
        check_atom_array(atoms)
        residues = Residue()(atoms)
        names = np.array(residues.attributes["token_name"])
        whole = self._whole(atoms, residues, names)
        return split_residues(residues, torch.from_numpy(~whole))

    def _whole(
        self, atoms: Any, residues: Tokens, names: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Which residues stay one token ``[T]``."""
        return np.isin(names, STANDARD)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Boltz2(Boltz1):
    """Makes a residue or nucleotide of a polymer one token, all else one an atom.

    As in `Boltz-2 <https://doi.org/10.1101/2025.06.14.659707>`_: other than in
    :class:`Boltz1`, a modified residue is one token. It is told from a ligand by its
    bonds: its component is made for a polymer, and a peptide or phosphodiester bond
    joins it to another residue.

    Shapes:
        - input: a ``biotite.structure.AtomArray`` of ``N > 0`` atoms, with bonds, left
          unchanged
        - output: as of :class:`Boltz1`

    Raises:
        ValueError: If the input is no ``AtomArray`` or has no atoms.
    """

    def _whole(
        self, atoms: Any, residues: Tokens, names: NDArray[Any]
    ) -> NDArray[np.bool_]:
        whole = super()._whole(atoms, residues, names)
        if atoms.bonds is None:
            return whole
        info = require_package("biotite.structure.info", "Boltz2")
        kinds, kind = np.unique(names, return_inverse=True)
        # `link_type` is None for a component that the dictionary lacks.
        linking = ["LINKING" in (info.link_type(str(k)) or "").upper() for k in kinds]
        ends = atoms.bonds.as_array()[:, :2]
        token = residues.atom_to_token.numpy()[ends]
        name = atoms.atom_name[ends]
        joined = np.zeros(len(names), dtype=bool)
        for link in (*_LINKS, *(pair[::-1] for pair in _LINKS)):
            joins = (name[:, 0] == link[0]) & (name[:, 1] == link[1])
            joins &= token[:, 0] != token[:, 1]
            joined[token[joins].ravel()] = True
        modified: NDArray[np.bool_] = np.array(linking)[kind.reshape(-1)] & joined
        return whole | modified
