"""Structures → beads of a coarse-grained mapping."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from pyg_atomenc.checks import check, check_type
from pyg_atomenc.chem.codes import Integers, by_first_atom
from pyg_atomenc.chem.rdkit import residues_of
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import structure_tokens

Mapping3 = Mapping[str, Mapping[str, Sequence[str]]]


_SIDE_CHAINS = dict(
    GLY="", ALA="CB", VAL="CB CG1 CG2", LEU="CB CG CD1 CD2", ILE="CB CG1 CG2 CD1",
    PRO="CB CG CD", MET="CB CG SD CE", CYS="CB SG", SER="CB OG", THR="CB OG1 CG2",
    ASN="CB CG OD1 ND2", ASP="CB CG OD1 OD2", GLN="CB CG CD OE1 NE2",
    GLU="CB CG CD OE1 OE2", LYS="CB CG CD,CE NZ", ARG="CB CG CD,NE CZ NH1 NH2",
    HIS="CB CG,CD2 NE2,ND1 CE1", PHE="CB CG,CD1 CE1,CD2 CE2 CZ",
    TYR="CB CG,CD1 CE1,CD2 CE2,CZ OH", TRP="CB CG,CD1 NE1,CD2 CE2,CE3 CZ3,CZ2 CH2",
)  # fmt: skip
MARTINI_PROTEIN = {
    name: {"BB": "N CA C O OXT".split()}
    | {f"SC{i}": bead.split() for i, bead in enumerate(beads.split(","), 1) if bead}
    for name, beads in _SIDE_CHAINS.items()
}
"""Beads of the 20 amino acids, close to those of Martini 3
(`doi:10.1038/s41592-021-01098-3 <https://doi.org/10.1038/s41592-021-01098-3>`_), each
atom in exactly one: residue name → bead → atom names."""


class Beads:
    """Makes every bead of a coarse-grained mapping one token.

    An atom of a mapped residue that the mapping does not name, such as a hydrogen, goes
    with the nearest bead by the bonds of its residue; those that no bond leads to one
    form one further token, as do all atoms of a residue that is not mapped.
    ``token_name`` is the residue's name and the bead's, such as ``PHE:SC1``, or the
    residue's name alone. Shapes, other features and errors are those of
    :class:`~pyg_atomenc.tokenizers.Residue`.

    Args:
        mapping (dict, optional): Residue name → bead → names of its atoms.
            (default: :data:`~pyg_atomenc.tokenizers.MARTINI_PROTEIN`)

    Raises:
        ValueError: Also if ``mapping`` is no such dict or names a residue's atom twice.
    """

    def __init__(self, mapping: Optional[Mapping3] = None) -> None:
        self.mapping = MARTINI_PROTEIN if mapping is None else mapping
        mend = "pass a dict: residue name → bead → list of atom names."
        check_type("mapping", self.mapping, Mapping, mend)  # type: ignore[type-abstract]
        for residue, beads in self.mapping.items():
            named: list[str] = []
            for names in beads.values() if isinstance(beads, Mapping) else [None]:
                fits = isinstance(names, Sequence) and not isinstance(names, str)
                fits = fits and all(isinstance(name, str) for name in names)
                check(fits, f"'mapping' has {beads!r} for residue {residue!r}: {mend}")
                named += names
            for name, count in Counter(named).items():
                where = f"atom {name!r} of residue {residue!r}"
                check(count == 1, f"'mapping' names {where} twice.")

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its bead; see the class."""
        residues = residues_of(source)
        atoms = residues.atoms
        names = sorted({bead for beads in self.mapping.values() for bead in beads})
        bead = np.full(atoms.array_length(), -1)
        for residue, beads in self.mapping.items():
            rows = np.flatnonzero(atoms.res_name == residue)
            for name, members in beads.items():
                inside = np.isin(atoms.atom_name[rows], list(members))
                bead[rows[inside]] = names.index(name)
        bead = _spread(atoms, residues.index, bead)
        token, start = by_first_atom(residues.index * (len(names) + 1) + bead + 1)
        first = zip(atoms.res_name[start].tolist(), bead[start].tolist(), strict=True)
        labels = [f"{name}:{names[i]}" if i >= 0 else name for name, i in first]
        return structure_tokens(residues, token, labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.mapping)} residues)"


def _spread(atoms: Any, residue: Integers, bead: Integers) -> Integers:
    """Give atoms without a bead that of a neighbour in their residue ``[N]``."""
    if atoms.bonds is None:
        return bead
    ends = atoms.bonds.as_array()[:, :2].astype(np.int64)
    ends = ends[residue[ends[:, 0]] == residue[ends[:, 1]]]
    ends, bead = np.concatenate([ends, ends[:, ::-1]]), bead.copy()
    while True:
        ends = ends[bead[ends[:, 1]] < 0]
        if len(reached := ends[bead[ends[:, 0]] >= 0]) == 0:
            return bead
        # Of several neighbours the one that stands first in the file decides.
        reached = reached[np.argsort(-reached[:, 0], kind="stable")]
        bead[reached[:, 1]] = bead[reached[:, 0]]
