"""Molecules → fragments: the pieces between BRICS bonds, or rings and chains."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pyg_atomenc.chem import rdkit
from pyg_atomenc.chem.codes import connected
from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import chemical_tokens


@dataclass(eq=False)
class BRICS:
    """Cuts a molecule at its BRICS bonds; every connected piece is a token.

    BRICS bonds are those that retrosynthesis would make, such as amides, esters, ethers
    and bonds to rings (`"On the Art of Compiling and Using 'Drug-Like' Chemical
    Fragment Spaces" <https://doi.org/10.1002/cmdc.200800178>`_). A ring is never cut;
    a salt gives one token for each ion. Tokens are numbered by their first atom.

    Explicit hydrogens go with their atom and change no fragment. Aromaticity is kept.
    ``token_name`` is the canonical SMILES of each fragment without its hydrogens, with
    ``*`` at every cut: aspirin has ``*C(C)=O``, ``*O*``, ``*c1ccccc1*`` and others.
    Shapes and errors are those of :class:`~pyg_atomenc.tokenizers.Residue`.

    Raises:
        ValueError: Also if an array has no bonds.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its fragment; see the class."""
        return fragments(source, _brics_bonds, mark="*")


@dataclass(eq=False)
class RingsAndChains:
    """Makes every ring system one token, and every chain of what joins them.

    Rings that share an atom (fused, spiro, bridged) are one system; two rings joined by
    a bond are two. The other atoms form one token for each stretch that bonds connect.
    ``token_name`` is the canonical SMILES of each piece; hydrogens, order, shapes and
    errors are as those of :class:`BRICS`.

    Example:
        >>> from rdkit import Chem
        >>> mol = Chem.MolFromSmiles("c1ccccc1CCC1CC1")
        >>> RingsAndChains()(mol).attributes["token_name"]
        ['c1ccccc1', 'CC', 'C1CC1']
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its ring system or chain; see the class."""
        return fragments(source, _bonds_that_leave_rings)


Ends = list[tuple[int, int]]


def fragments(source: Any, find_cuts: Any = None, mark: str = "") -> Tokens:
    """Tokens that are the pieces between bonds that are cut, by their first atoms."""
    # `find_cuts(heavy, bonds, ends)` tells which; names have `mark` in their place.
    mol = rdkit.as_mol(source)
    with require_package("rdkit.rdBase", "fragments").BlockLogs():
        # Hydrogens change no fragment: BRICS counts an atom's explicit neighbours.
        heavy, index = rdkit.without_hydrogens(mol)
        bonds = rdkit.bonds_of(atoms := rdkit.atoms_of(heavy))
        ends = rdkit.ends_of(bonds)
        cuts = find_cuts(heavy, bonds, ends) if find_cuts else [False] * len(bonds)
        joins = [pair for pair, cut in zip(ends, cuts, strict=True) if not cut]
        of = connected(len(atoms), np.array(joins, dtype=int).reshape(-1, 2))
        names = _names(atoms, bonds, ends, of.tolist(), mark)
    piece = np.full(mol.GetNumAtoms(), -1)
    piece[index] = of
    return chemical_tokens(source, rdkit.with_hydrogens(mol, piece), names)


def _bonds_that_leave_rings(mol: Any, bonds: list[Any], ends: Ends) -> list[bool]:
    # All at once: older releases of RDKit find the rings anew for each bond.
    inside = {bond for ring in mol.GetRingInfo().BondRings() for bond in ring}
    atoms = {atom for bond in inside for atom in ends[bond]}
    # A bond that leaves a ring joins nothing; one in a chain does.
    return [i not in inside and not atoms.isdisjoint(p) for i, p in enumerate(ends)]


def _brics_bonds(mol: Any, bonds: list[Any], ends: Ends) -> list[bool]:
    """Which bonds BRICS cuts; RDKit's own function stops at 1,000 of a kind."""
    # Of each atom, as bits: its environments, and those that it is cut from.
    own, partners = [0] * mol.GetNumAtoms(), [[0] * mol.GetNumAtoms() for _ in "-="]
    for bit, (query, *others) in enumerate(_brics_environments()):
        for match in mol.GetSubstructMatches(query, False, maxMatches=10**8):
            own[match[0]] |= 1 << bit
            for of, more in zip(partners, others, strict=True):
                of[match[0]] |= more
    cuts = []
    in_ring = {bond for ring in mol.GetRingInfo().BondRings() for bond in ring}
    for index, (a, b) in enumerate(ends):
        single, double = (of[a] & own[b] for of in partners)
        # Few bonds are asked for their type, which takes long in Python.
        known = (single or double) and index not in in_ring
        cut = known and bonds[index].GetBondType().name
        cuts.append(bool(cut == "SINGLE" and single or cut == "DOUBLE" and double))
    return cuts


@lru_cache(maxsize=1)
def _brics_environments() -> list[tuple[Any, int, int]]:
    """Each query and, as bits, those that single and double bonds cut it from."""
    chem = require_package("rdkit.Chem", "BRICS")
    brics = require_package("rdkit.Chem.BRICS", "BRICS")
    # By their SMARTS: some have several names.
    smarts = {name[1:]: text for name, text in brics.environs.items()}
    rules = [rule for group in brics.reactionDefs for rule in group]
    known = sorted({smarts[name] for *pair, _ in rules for name in pair})
    bits = {text: {"-": 0, "=": 0} for text in known}
    for one, other, kind in rules:
        bits[smarts[one]][kind] |= 1 << known.index(smarts[other])
        bits[smarts[other]][kind] |= 1 << known.index(smarts[one])
    return [(chem.MolFromSmarts(text), *bits[text].values()) for text in known]


def _names(
    atoms: list[Any], bonds: list[Any], ends: Ends, of: list[int], mark: str
) -> dict[int, str]:
    """The canonical SMILES of every piece, each of which is built as a molecule."""
    # RDKit's own ways of cutting a molecule take a time that grows as its square.
    chem = require_package("rdkit.Chem", "names of fragments")
    made = {piece: chem.RWMol() for piece in dict.fromkeys(of)}
    place = [made[i].AddAtom(a) for i, a in zip(of, atoms, strict=True)]
    star = chem.Atom(mark) if mark else None
    # Where the neighbour of an atom, across a cut, stands in its piece.
    across: dict[tuple[int, int], int] = {}
    double, any_stereo = [], chem.BondStereo.STEREOANY
    for bond, (a, b) in zip(bonds, ends, strict=True):
        kind = bond.GetBondType()
        if of[a] != of[b]:
            for this, that in ((a, b), (b, a)) if star else ():
                across[this, that] = made[of[this]].AddAtom(star)
                made[of[this]].AddBond(place[this], across[this, that], kind)
            continue
        made[of[a]].AddBond(place[a], place[b], kind)
        if bond.GetIsAromatic():
            made[of[a]].GetBondBetweenAtoms(place[a], place[b]).SetIsAromatic(True)
        elif bond.GetStereo() > any_stereo:
            double.append((bond, (a, b)))
    for bond, pair in double:
        sides = zip(pair, bond.GetStereoAtoms(), strict=False)
        at = [place[b] if of[a] == of[b] else across.get((a, b), -1) for a, b in sides]
        if len(at) == 2 and min(at) >= 0:
            piece = made[of[pair[0]]]
            copy = piece.GetBondBetweenAtoms(*(place[i] for i in pair))
            copy.SetStereoAtoms(*at)
            copy.SetStereo(bond.GetStereo())
            # By them RDKit perceives the stereo anew when it writes.
            chem.SetDoubleBondNeighborDirections(piece)
    for fragment in made.values():
        fragment.UpdatePropertyCache(strict=False)
    return {piece: chem.MolToSmiles(fragment) for piece, fragment in made.items()}
