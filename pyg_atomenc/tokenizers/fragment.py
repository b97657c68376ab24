"""Molecules → fragments: one token for every piece between BRICS bonds."""

from typing import Any

import torch

from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.tokenizers.base import Tokens

_INDEX = "_pyg_atomenc_index"


def check_mol(mol: Any, argument: str = "mol") -> None:
    """Raise a ValueError unless ``mol`` is an RDKit molecule with atoms.

    Args:
        mol (rdkit.Chem.Mol): What the user gave.
        argument (str): Its name, for the message. (default: ``"mol"``)

    Raises:
        ValueError: If it is no molecule or has no atoms.
    """
    chem = require_package("rdkit.Chem", "a molecule")
    if mol is None:
        raise AtomEncodingError(
            f"'{argument}' is None, which is what RDKit returns for a molecule that it "
            f"cannot read: check the text or file that it was read from."
        )
    if not isinstance(mol, chem.Mol):
        raise AtomEncodingError(
            f"'{argument}' is of type {type(mol).__name__}: pass an rdkit.Chem.Mol; "
            f"for a SMILES, use pyg_atomenc.io.from_smiles."
        )
    if mol.GetNumAtoms() == 0:
        raise AtomEncodingError(
            f"'{argument}' has no atoms: pass a molecule with at least one atom."
        )


class Fragment:
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
        - input: an ``rdkit.Chem.Mol`` with ``N > 0`` atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64

    Raises:
        ValueError: If the input is no molecule or has no atoms.

    Example:
        >>> from rdkit import Chem
        >>> mol = Chem.MolFromSmiles("CC(=O)Oc1ccccc1")
        >>> Fragment()(mol).attributes["token_name"]
        ['*C(C)=O', '*O*', '*c1ccccc1']
    """

    def __call__(self, mol: Any) -> Tokens:
        """Assign every atom to its fragment; see the class."""
        check_mol(mol)
        base = require_package("rdkit.rdBase", "Fragment")
        with base.BlockLogs():
            return _cut(mol)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _cut(mol: Any) -> Tokens:
    chem = require_package("rdkit.Chem", "Fragment")
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
    names = []
    for number, atoms in enumerate(chem.GetMolFrags(broken)):
        names.append(chem.MolFragmentToSmiles(broken, atomsToUse=list(atoms)))
        for atom in atoms:
            # Atoms behind the molecule's own are the '*' that mark the cuts.
            if atom < num_heavy:
                piece[index[atom]] = number
    for atom in mol.GetAtoms():
        if piece[atom.GetIdx()] < 0:
            piece[atom.GetIdx()] = piece[atom.GetNeighbors()[0].GetIdx()]

    # A dict keeps the order in which the pieces are met, which is that of their
    # first atoms.
    token = {number: rank for rank, number in enumerate(dict.fromkeys(piece))}
    return Tokens(
        atom_to_token=torch.tensor([token[number] for number in piece]),
        num_tokens=len(token),
        attributes={"token_name": [names[number] for number in token]},
    )


def _without_hydrogens(mol: Any) -> Any:
    """A copy without hydrogens: BRICS counts an atom's explicit neighbours."""
    chem = require_package("rdkit.Chem", "Fragment")
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
    brics = require_package("rdkit.Chem.BRICS", "Fragment")
    return sorted(
        mol.GetBondBetweenAtoms(*pair).GetIdx() for pair, _ in brics.FindBRICSBonds(mol)
    )
