"""Molecules → fragments: the pieces between BRICS bonds, or rings and chains."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyg_atomenc.chem.codes import Integers, by_first_atom, code, connected
from pyg_atomenc.chem.rdkit import as_mol, bond_ends, with_hydrogens
from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import chemical_tokens

_INDEX = "_pyg_atomenc_index"


@dataclass(eq=False)
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
    ``*`` at every cut: aspirin has ``*C(C)=O``, ``*O*``, ``*c1ccccc1*`` and others.

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
        with require_package("rdkit.rdBase", "BRICS").BlockLogs():
            return chemical_tokens(source, *_cut(mol))


@dataclass(eq=False)
class RingsAndChains:
    """Makes every ring system one token, and every chain of what joins them.

    Rings that share an atom (fused, spiro, bridged) are one system; two rings joined by
    a bond are two. The other atoms form one token for each stretch that bonds connect.
    Hydrogens go with the atom that they are bonded to. ``token_name`` is the canonical
    SMILES of each piece.

    Shapes:
        - input and output: as of :class:`BRICS`, numbered by their first atoms

    Raises:
        ValueError: As :class:`BRICS`.

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


def _cut(mol: Any) -> tuple[Integers, list[str]]:
    """The piece of every atom ``[N]``, and the name of every piece."""
    chem = require_package("rdkit.Chem", "BRICS")
    brics = require_package("rdkit.Chem.BRICS", "BRICS")
    # Without hydrogens: BRICS counts an atom's explicit neighbours.
    marked = chem.Mol(mol)
    for atom in marked.GetAtoms():
        atom.SetIntProp(_INDEX, atom.GetIdx())
    marked.UpdatePropertyCache(strict=False)
    heavy = chem.RemoveHs(marked, sanitize=False)
    # A molecule that was never sanitized knows neither its valences nor its rings.
    heavy.UpdatePropertyCache(strict=False)
    chem.GetSymmSSSR(heavy)
    pairs = [pair for pair, _ in brics.FindBRICSBonds(heavy)]
    bonds = sorted(heavy.GetBondBetweenAtoms(*pair).GetIdx() for pair in pairs)
    broken = heavy
    if bonds:
        # Label 0 writes a cut as a bare '*', without the BRICS environment's number.
        broken = chem.FragmentOnBonds(heavy, bonds, dummyLabels=[(0, 0)] * len(bonds))
    # Atoms behind the molecule's own are the '*' that mark the cuts.
    index = [atom.GetIntProp(_INDEX) for atom in heavy.GetAtoms()]
    part, names = _parts(broken)
    piece = np.full(mol.GetNumAtoms(), -1)
    piece[index] = part[: len(index)]
    return with_hydrogens(mol, piece), names


def fragment_names(mol: Any, piece: Integers, count: int) -> list[str]:
    """The SMILES of every piece ``[P]``, without hydrogens if it has others."""
    chem = require_package("rdkit.Chem", "names of fragments")
    number = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    heavy = np.zeros(count, dtype=bool)
    heavy[piece[number != 1]] = True
    # A hydrogen of a piece with heavy atoms is cut off, and so not named.
    named = (number != 1) | ~heavy[piece]
    apart = np.where(named, piece, count + np.arange(len(piece)))
    cut = chem.RWMol(mol)
    cut.BeginBatchEdit()
    ends = bond_ends(mol)
    for a, b in ends[apart[ends[:, 0]] != apart[ends[:, 1]]].tolist():
        cut.RemoveBond(a, b)
    cut.CommitBatchEdit()
    part, texts = _parts(cut)
    names: list[list[str]] = [[] for _ in range(count)]
    _, first = np.unique(part, return_index=True)
    for text, atom in zip(texts, first, strict=True):
        if named[atom]:
            names[piece[atom]].append(text)
    return [".".join(sorted(found)) for found in names]


def _parts(mol: Any) -> tuple[Integers, list[str]]:
    """The connected part of every atom ``[N]``, and each part's canonical SMILES.

    One call for all of them, as one for each would go through the whole molecule.
    """
    chem = require_package("rdkit.Chem", "names of fragments")
    part = code(connected(mol.GetNumAtoms(), bond_ends(mol)))
    texts = chem.MolToSmiles(mol).split(".")
    order = list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
    # Where the text of each part starts in the order in which atoms were written.
    _, start = np.unique(part[order], return_index=True)
    return part, [texts[i] for i in np.argsort(np.argsort(start))]
