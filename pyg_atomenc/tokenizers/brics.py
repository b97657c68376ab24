"""Molecules → fragments: one token for every piece between BRICS bonds."""

from typing import Any

import numpy as np

from pyg_atomenc.chem.codes import Integers
from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.molecule import chemical_tokens, smiles_of_parts
from pyg_atomenc.tokenizers.source import as_mol

_INDEX = "_pyg_atomenc_index"


class BRICS:
    """Cuts a molecule at its BRICS bonds; every connected piece is a token.

    BRICS bonds are those that retrosynthesis would make, such as amides, esters, ethers
    and bonds to rings (`"On the Art of Compiling and Using 'Drug-Like' Chemical
    Fragment Spaces" <https://doi.org/10.1002/cmdc.200800178>`_). A ring is never cut. A
    molecule without a BRICS bond is one token for each connected component, so a salt
    gives one token for each ion. Tokens are numbered by their first atom.

    Explicit hydrogens go with the atom that they are bonded to, and change no fragment.
    Aromaticity is taken from the molecule as it is: a molecule whose aromatic flags are
    cleared may be cut elsewhere.

    ``token_name`` is the canonical SMILES of each fragment without its hydrogens, with
    ``*`` at every cut: aspirin has ``*C(C)=O``, ``*O*`` and ``*c1ccccc1*`` among
    others.

    Shapes:
        - input: an ``rdkit.Chem.Mol``, or a ``biotite.structure.AtomArray`` with bonds,
          of ``N > 0`` atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64

    Raises:
        ValueError: If the input is neither, has no atoms or an array no bonds.

    Example:
        >>> from rdkit import Chem
        >>> mol = Chem.MolFromSmiles("CC(=O)Oc1ccccc1")
        >>> BRICS()(mol).attributes["token_name"]
        ['*C(C)=O', '*O*', '*c1ccccc1']
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its fragment; see the class."""
        mol = as_mol(source)
        base = require_package("rdkit.rdBase", "BRICS")
        with base.BlockLogs():
            return chemical_tokens(source, *_cut(mol))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _cut(mol: Any) -> tuple[Integers, list[str]]:
    """The piece of every atom ``[N]``, and the name of every piece."""
    chem = require_package("rdkit.Chem", "BRICS")
    heavy = _without_hydrogens(mol)
    num_heavy = heavy.GetNumAtoms()
    index = [atom.GetIntProp(_INDEX) for atom in heavy.GetAtoms()]
    bonds = _brics_bonds(heavy)
    if bonds:
        # Label 0 writes a cut as a bare '*', without the BRICS environment's number.
        broken = chem.FragmentOnBonds(heavy, bonds, dummyLabels=[(0, 0)] * len(bonds))
    else:
        broken = heavy

    piece = [-1] * mol.GetNumAtoms()
    fragments = chem.GetMolFrags(broken)
    part = np.empty(broken.GetNumAtoms(), dtype=np.int64)
    for number, atoms in enumerate(fragments):
        part[list(atoms)] = number
        for atom in atoms:
            # Atoms behind the molecule's own are the '*' that mark the cuts.
            if atom < num_heavy:
                piece[index[atom]] = number
    names = smiles_of_parts(broken, part, len(fragments))
    for atom in mol.GetAtoms():
        if piece[atom.GetIdx()] < 0:
            piece[atom.GetIdx()] = piece[atom.GetNeighbors()[0].GetIdx()]
    return np.array(piece), names


def _without_hydrogens(mol: Any) -> Any:
    """A copy without hydrogens: BRICS counts an atom's explicit neighbours."""
    chem = require_package("rdkit.Chem", "BRICS")
    copy = chem.Mol(mol)
    for atom in copy.GetAtoms():
        atom.SetIntProp(_INDEX, atom.GetIdx())
    copy.UpdatePropertyCache(strict=False)
    heavy = chem.RemoveHs(copy, sanitize=False)
    # A molecule that was never sanitized knows neither its valences nor its rings.
    heavy.UpdatePropertyCache(strict=False)
    chem.GetSymmSSSR(heavy)
    return heavy


def _brics_bonds(mol: Any) -> list[int]:
    brics = require_package("rdkit.Chem.BRICS", "BRICS")
    return sorted(
        mol.GetBondBetweenAtoms(*pair).GetIdx() for pair, _ in brics.FindBRICSBonds(mol)
    )
