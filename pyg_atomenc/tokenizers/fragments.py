"""Molecules → fragments: the pieces between BRICS bonds, or rings and chains."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional

import numpy as np

from pyg_atomenc.chem.codes import Integers, by_first_atom, connected
from pyg_atomenc.chem.rdkit import (
    as_mol,
    atoms_of,
    bond_ends,
    bonds_of,
    with_hydrogens,
    without_hydrogens,
)
from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import chemical_tokens

# More than a molecule can have; RDKit stops at 1,000 unless told otherwise.
_MOST_MATCHES = 100_000_000


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
        return fragments(source, _brics_bonds, mark="*")


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
        return fragments(source, _bonds_that_leave_rings)


Cuts = Callable[[Any, list[Any], Integers], Any]


def fragments(source: Any, find_cuts: Optional[Cuts] = None, mark: str = "") -> Tokens:
    """Tokens that are the pieces between the bonds that are cut.

    Args:
        source (rdkit.Chem.Mol or biotite.structure.AtomArray): The atoms.
        find_cuts (callable, optional): Takes the molecule without its hydrogens, its
            bonds and their ends ``[B, 2]``, says which are cut ``[B]``. (default: none)
        mark (str): The atom at the end of every cut bond in names. (default: none)

    Returns:
        Tokens: Numbered by their first atoms, named by their canonical SMILES.
    """
    mol = as_mol(source)
    with require_package("rdkit.rdBase", "fragments").BlockLogs():
        # Hydrogens change no fragment: BRICS counts an atom's explicit neighbours.
        heavy, index = without_hydrogens(mol)
        bonds = bonds_of(heavy)
        ends = bond_ends(bonds)
        cuts = find_cuts(heavy, bonds, ends) if find_cuts else np.zeros(len(bonds))
        joins = ends[~np.array(cuts, dtype=bool)]
        piece, _ = by_first_atom(connected(len(index), joins))
        names = _names(heavy, bonds, piece.tolist(), mark)
    full = np.full(mol.GetNumAtoms(), -1)
    full[index] = piece
    return chemical_tokens(source, with_hydrogens(mol, full), names)


def _bonds_that_leave_rings(mol: Any, bonds: list[Any], ends: Integers) -> Any:
    in_ring = np.array([bond.IsInRing() for bond in bonds], dtype=bool)
    ring_atom = np.zeros(mol.GetNumAtoms(), dtype=bool)
    ring_atom[ends[in_ring].ravel()] = True
    # A bond that leaves a ring joins nothing; one in a chain does.
    return ~in_ring & ring_atom[ends].any(axis=1)


def _brics_bonds(mol: Any, bonds: list[Any], ends: Integers) -> list[bool]:
    """Which bonds BRICS cuts; RDKit's own function stops at 1,000 of a kind."""
    environments = _brics_environments()
    # Of each atom, as bits: its environments, and those that it is cut from.
    own, partners = [0] * mol.GetNumAtoms(), [[0] * mol.GetNumAtoms() for _ in "-="]
    for bit, (query, *others) in enumerate(environments):
        for match in mol.GetSubstructMatches(query, False, maxMatches=_MOST_MATCHES):
            own[match[0]] |= 1 << bit
            for of, more in zip(partners, others, strict=True):
                of[match[0]] |= more
    kinds = {"SINGLE": partners[0], "DOUBLE": partners[1]}
    cuts = []
    for bond, (a, b) in zip(bonds, ends.tolist(), strict=True):
        wanted = kinds.get(bond.GetBondType().name)
        cuts.append(
            wanted is not None and wanted[a] & own[b] != 0 and not bond.IsInRing()
        )
    return cuts


@lru_cache(maxsize=1)
def _brics_environments() -> list[tuple[Any, int, int]]:
    """RDKit's BRICS: the query of each environment, and as bits the environments from
    which single and double bonds to it are cut."""
    brics = require_package("rdkit.Chem.BRICS", "BRICS")
    rules = [rule for group in brics.reactionDefs for rule in group]
    # Of several names for one environment, such as 14 and 14b, the rules use one.
    names = sorted({name for *pair, _ in rules for name in pair})
    bits = {name: {"-": 0, "=": 0} for name in names}
    for one, other, kind in rules:
        bits[one][kind] |= 1 << names.index(other)
        bits[other][kind] |= 1 << names.index(one)
    return [(brics.environMatchers[f"L{n}"], *bits[n].values()) for n in names]


def _names(mol: Any, bonds: list[Any], of: list[int], mark: str) -> list[str]:
    """The canonical SMILES of every piece, each of which is built as a molecule.

    RDKit's own ways of cutting a molecule take a time that grows as its square. At the
    end of every bond that is cut stands a ``mark``, if there is one.
    """
    chem = require_package("rdkit.Chem", "names of fragments")
    made = [chem.RWMol() for _ in range(max(of) + 1)]
    place = [made[i].AddAtom(a) for i, a in zip(of, atoms_of(mol), strict=True)]
    star = chem.Atom(mark) if mark else None
    # Where the neighbour of an atom, across a cut, stands in its piece.
    across: dict[tuple[int, int], int] = {}
    double = []
    for bond in bonds:
        a, b, kind = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondType()
        if of[a] != of[b]:
            for this, that in ((a, b), (b, a)) if star else ():
                across[this, that] = made[of[this]].AddAtom(star)
                made[of[this]].AddBond(place[this], across[this, that], kind)
            continue
        made[of[a]].AddBond(place[a], place[b], kind)
        if bond.GetIsAromatic():
            made[of[a]].GetBondBetweenAtoms(place[a], place[b]).SetIsAromatic(True)
        if bond.GetStereo() > chem.BondStereo.STEREOANY:
            double.append(bond)
    for bond in double:
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        pairs = list(zip(ends, bond.GetStereoAtoms(), strict=False))
        at = [
            place[far] if of[far] == of[near] else across.get((near, far), -1)
            for near, far in pairs
        ]
        if len(at) == 2 and min(at) >= 0:
            copy = made[of[ends[0]]].GetBondBetweenAtoms(*(place[i] for i in ends))
            copy.SetStereoAtoms(*at)
            copy.SetStereo(bond.GetStereo())
            # By them RDKit perceives the stereo anew when it writes.
            chem.SetDoubleBondNeighborDirections(made[of[ends[0]]])
    for fragment in made:
        fragment.UpdatePropertyCache(strict=False)
    return [chem.MolToSmiles(fragment) for fragment in made]
