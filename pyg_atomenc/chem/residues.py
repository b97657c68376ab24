"""The one truth about residues: which there are, of what kind, and what links them."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Optional

import numpy as np

from pyg_atomenc.checks import check, check_type
from pyg_atomenc.chem import codes
from pyg_atomenc.chem.codes import Array, Booleans, Integers
from pyg_atomenc.chem.components import PLACEHOLDERS, component_atoms
from pyg_atomenc.errors import require_package

ENTITY_KINDS = ("protein", "DNA", "RNA", "ligand")
"""What ``token_entity_kind`` counts through; waters and ions are ligands."""

PROTEIN, DNA, RNA, LIGAND = range(4)

AMINO_ACIDS = """ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP
TYR VAL""".split()
STANDARD = [*AMINO_ACIDS, *"UNK A C G U N DA DC DG DT DN".split()]
"""Standard residues and nucleotides: Table 13 of AlphaFold 3's supplement."""

REPRESENTATIVES = {PROTEIN: "CA", DNA: "C1'", RNA: "C1'"}
"""The atom that stands for a residue of each kind of polymer."""

NO_SEQUENCE = (".", "?", "", "-1")
"""What stands in ``label_seq_id`` for no number."""


class PolymerLink(NamedTuple):
    """The bond that joins a residue of a polymer to the next one."""

    tail: str  # its atom in the residue before
    head: str  # and in the residue behind
    backbone: tuple[str, ...]  # atoms between which a bond is one of the backbone
    types: tuple[str, ...]  # what the dictionary calls components that are joined so
    caps: tuple[tuple[str, ...], tuple[str, ...]]  # others at the start, at the end


_PEPTIDES = ("PEPTIDE LINKING", "L-PEPTIDE LINKING", "D-PEPTIDE LINKING")
_NUCLEOTIDES = ("RNA LINKING", "DNA LINKING")
POLYMER_LINKS = (
    PolymerLink("C", "N", ("C", "N"), _PEPTIDES, (("ACE", "FOR"), ("NME", "NH2"))),
    PolymerLink("O3'", "P", ("O3'", "P", "O5'"), _NUCLEOTIDES, ((), ())),
)
"""The peptide bond and the phosphodiester bond."""


@dataclass(frozen=True)
class Residues:
    """The residues of an ``AtomArray``, as :func:`find_residues` tells them apart."""

    atoms: Any  # biotite's AtomArray of N atoms
    index: Integers  # the residue of every atom [N], int64
    first: Integers  # the first atom of every residue [R], int64

    def __len__(self) -> int:
        return len(self.first)

    @property
    def names(self) -> Array:
        """The component of every residue ``[R]``, text."""
        return self.atoms.res_name[self.first]

    @cached_property
    def kinds(self) -> Integers:
        """Every residue's kind ``[R]``, int64: positions in :data:`ENTITY_KINDS`."""
        own, polymer = self._made_for, self.numbered
        made = own != LIGAND
        # In a polymer by its number, where atoms tell of any, by a polymer bond, or if
        # made for one and not hetero. What is made for none is there as its chain is.
        if polymer is None:
            polymer = (~self.atoms.hetero[self.first] & made) | self.linked
        else:
            polymer = polymer | (self.linked & made)
        names = ("chain_id", "label_asym_id", "sym_id")
        chain = codes.code(codes.of_columns(self.atoms, names)[self.first])
        votes = np.bincount((chain * 4 + own)[polymer & made], minlength=4 * len(self))
        votes = votes.reshape(-1, 4)
        of_chain = np.where(votes.any(axis=1), votes.argmax(axis=1), LIGAND)[chain]
        return np.where(polymer, np.where(made, own, of_chain), LIGAND)

    @property
    def standard(self) -> Booleans:
        """Which residues are standard ones, and in a polymer ``[R]``."""
        return codes.among(self.names, STANDARD) & (self.kinds != LIGAND)

    @cached_property
    def numbered(self) -> Optional[Booleans]:
        """Which have a number in a sequence ``[R]``; ``None`` if none are told."""
        known = ~untold(getattr(self.atoms, "label_seq_id", np.array([""])))
        if not known.any():
            return None
        # Some programs number all residues, ligands and waters, too.
        told = np.bincount(self.index[known], minlength=len(self)) > 0
        return told & (self.linked | (self._made_for != LIGAND))

    @cached_property
    def _made_for(self) -> Integers:
        """The kind of polymer that every residue's component is made for ``[R]``."""
        words = {"PEPTIDE": PROTEIN, "DNA": DNA, "RNA": RNA}.items()
        return codes.of_distinct(
            lambda name: next((k for w, k in words if w in link_type(name)), LIGAND),
            self.names,
        )

    @cached_property
    def linked(self) -> Booleans:
        """Which a peptide or phosphodiester bond joins to another residue ``[R]``."""
        ends = self.bonds_between()
        names, joined = self.atoms.atom_name[ends], np.zeros(len(self), dtype=bool)
        for link in POLYMER_LINKS:
            joins = ((names == link.tail) & (names == link.head)[:, ::-1]).any(axis=1)
            joined[self.index[ends[joins]].ravel()] = True
        return joined

    def bonds_between(self) -> Array:
        """The bonds between two residues ``[B, 2]``; none of atoms without bonds."""
        if self.atoms.bonds is None:
            return np.zeros((0, 2), dtype=np.int64)
        ends = self.atoms.bonds.as_array()[:, :2]
        return ends[self.index[ends[:, 0]] != self.index[ends[:, 1]]]


def find_residues(atoms: Any) -> Residues:
    """Tell residues apart by all that names them; their first atoms number them."""
    residue = codes.of_columns(atoms, ("chain_id", "res_id", "ins_code", "res_name"))
    # Where all atoms of a residue tell these, they tell residues apart, too.
    for name in ("sym_id", "label_asym_id", "auth_seq_id"):
        if (values := getattr(atoms, name, None)) is not None:
            partly = np.isin(residue, residue[untold(values)])
            residue = codes.join(residue, np.where(partly, 0, codes.code(values) + 1))
    atom = codes.of_columns(atoms, ("atom_name", "altloc_id"))
    run = np.cumsum(np.diff(residue, prepend=residue[:1]) != 0)
    # Where an atom name comes back, as in waters of one number, a residue starts; but
    # atoms of an unknown component that stand together may all have one name.
    if split_repeats(run, atom)[-1:] > run[-1:]:
        size = codes.of_distinct(lambda n: len(component_atoms(n)[0]), atoms.res_name)
        named = (size > 0) & (atoms.atom_name != "")
        run = split_repeats(run, np.where(named, atom, np.arange(-len(atom), 0)))
    runs = residue[np.flatnonzero(np.diff(run, prepend=-1))]
    if len(np.unique(runs)) < len(runs):
        # How many runs of the same residue before each run repeat one of its names.
        copies = np.zeros(run.max() + 1, dtype=np.int64)
        keys = np.unique(codes.join(residue, atom) * len(copies) + run)
        named, of = np.divmod(keys, len(copies))
        np.maximum.at(copies, of, codes.count_before(named))
        residue = codes.join(residue, copies[run])
    return Residues(atoms, *codes.by_first_atom(residue))


def untold(values: Array) -> Booleans:
    """Where an annotation ``[N]`` holds what stands for nothing told."""
    nothing = NO_SEQUENCE if values.dtype.kind == "U" else (-1,)
    return np.logical_or.reduce([values == value for value in nothing])


def split_repeats(run: Integers, name: Integers) -> Integers:
    """Number stretches ``[N]`` anew: within each, no name ``[N]`` stands twice."""
    new, name = np.diff(run, prepend=run[:1]) != 0, name - name.min(initial=0)
    key = run * (name.max(initial=0) + 1) + name
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(np.diff(key[order]) == 0)
    before, last = np.full(len(run), -1), 0
    before[order[again + 1]] = order[again]
    for atom in np.flatnonzero(before >= 0).tolist():
        if before[atom] >= last:
            new[atom], last = True, atom
    return np.cumsum(new)


@lru_cache(maxsize=100_000)
def link_type(name: str) -> str:
    """What the dictionary calls a component's place in polymers, in capitals."""
    info = require_package("biotite.structure.info", "entity kinds")
    return "" if name in PLACEHOLDERS else (info.link_type(name) or "").upper()


def check_atom_array(atoms: Any) -> None:
    """Raise a ValueError unless ``atoms`` is a biotite ``AtomArray`` with atoms."""
    structure = require_package("biotite.structure", "an AtomArray")
    mend = "pass a biotite.structure.AtomArray, one model as stack[0] of a stack."
    check_type("atoms", atoms, structure.AtomArray, mend)
    check(atoms.array_length(), "'atoms' has no atoms: check what filtered them.")


def check_bonds(atoms: Any) -> None:
    """Raise a ValueError unless an ``AtomArray`` knows its bonds."""
    mend = "set atoms.bonds, as by biotite's connect_via_residue_names."
    check(atoms.bonds is not None, f"'atoms' has no bonds, which this needs: {mend}")
