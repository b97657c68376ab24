"""Bonds within residues and along polymers, by tables of components."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import Integers
from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.residue import find_residues

Table = Mapping[str, Mapping[tuple[str, str], int]]
# What the dictionary calls components of a polymer → the atoms that join two of them.
_LINKS = (
    (("PEPTIDE LINKING", "L-PEPTIDE LINKING", "D-PEPTIDE LINKING"), "C", "N"),
    (("RNA LINKING", "DNA LINKING"), "O3'", "P"),
)
# Where the numbers of two residues do not tell, their atoms are closer if bonded (Å).
_LONGEST = 2.0


def residue_bonds(atoms: Any, table: Table) -> Any:
    """Bond the atoms of every residue, and each residue to the next of its polymer.

    The atoms of a residue need not stand together.

    Args:
        atoms (biotite.structure.AtomArray): ``N`` atoms.
        table (mapping): Component → pairs of atom names → biotite's bond type.

    Returns:
        biotite.structure.BondList: Of ``N`` atoms.
    """
    structure = require_package("biotite.structure", "bonds")
    residue, first = find_residues(atoms)
    parts = [_along(atoms, residue, first)]
    rank = _copies(residue, atoms.atom_name)
    names, component = np.unique(atoms.res_name, return_inverse=True)
    order = np.argsort(component.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(component.reshape(-1)))[:-1]
    for name, rows in zip(names.tolist(), np.split(order, ends), strict=True):
        if table.get(name):
            of = (residue[rows], atoms.atom_name[rows], rank[rows])
            parts.append(_within(rows, *of, table[name]))
    return structure.BondList(len(residue), np.concatenate(parts))


def _copies(residue: Integers, names: NDArray[Any]) -> Integers:
    """How many atoms of the same name stand before each in its residue ``[N]``."""
    code = np.unique(names, return_inverse=True)[1].reshape(-1)
    key = residue * (code.max() + 1) + code
    order = np.argsort(key, kind="stable")
    key = key[order]
    start = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(key)) - np.repeat(start, np.diff([*start, len(key)]))
    return rank


def _within(
    rows: Integers,
    residue: Integers,
    names: NDArray[Any],
    rank: Integers,
    bonds: Mapping[tuple[str, str], int],
) -> NDArray[np.int64]:
    """Bonds in all the residues of one component."""
    named = dict.fromkeys(name for pair in bonds for name in pair)
    number = {name: i for i, name in enumerate(named)}
    distinct, which = np.unique(names, return_inverse=True)
    column = np.array([number.get(name, -1) for name in distinct.tolist()])[
        which.reshape(-1)
    ]
    there = column >= 0
    which_residue = np.unique(residue, return_inverse=True)[1].reshape(-1)
    # Of each copy of a name, which atom it is in each residue.
    shape = (rank.max() + 1, which_residue.max() + 1, len(number))
    place = np.full(shape, -1)
    place[rank[there], which_residue[there], column[there]] = rows[there]
    one = [number[a] for a, _ in bonds]
    other = [number[b] for _, b in bonds]
    kind = np.array([int(bond) for bond in bonds.values()])
    kind = np.broadcast_to(kind, (shape[1], len(bonds)))
    parts = []
    for a in place:
        for b in place:
            found = np.stack([a[:, one], b[:, other], kind], axis=-1).reshape(-1, 3)
            parts.append(found[(found[:, :2] >= 0).all(axis=1)])
    return np.concatenate(parts)


def _along(atoms: Any, residue: Integers, first: Integers) -> NDArray[np.int64]:
    """Bonds from each residue to the next in a peptide or nucleic acid ``[B, 3]``."""
    same, certain = _follows(atoms, first)
    names, component = np.unique(atoms.res_name[first], return_inverse=True)
    info = require_package("biotite.structure.info", "bonds")
    link = np.array([(info.link_type(name) or "").upper() for name in names.tolist()])
    link = link[component.reshape(-1)]
    parts = [np.zeros((0, 3), dtype=np.int64)]
    for kinds, tail, head in _LINKS:
        fits = np.isin(link, kinds)
        start = np.flatnonzero(same & fits[:-1] & fits[1:])
        ends = []
        for name, of in ((tail, start), (head, start + 1)):
            atom = np.full(len(first), -1)
            rows = np.flatnonzero(atoms.atom_name == name)[::-1]
            atom[residue[rows]] = rows
            ends.append(atom[of])
        near = are_near(atoms, *ends) | certain[start]
        near &= (ends[0] >= 0) & (ends[1] >= 0)
        parts.append(np.stack([*ends, np.ones_like(start)], axis=1)[near])
    return np.concatenate(parts)


def are_near(atoms: Any, one: Integers, other: Integers) -> NDArray[np.bool_]:
    """Whether two atoms are as close as bonded ones ``[B]``."""
    distance = np.linalg.norm(atoms.coord[one] - atoms.coord[other], axis=1)
    return distance < _LONGEST


def _follows(
    atoms: Any, first: Integers
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether a residue may be bonded to the next one, and surely is ``[R - 1]``.

    Numbers may jump, above all those of authors, and stay the same where insertion
    codes count.
    """
    known = atoms.get_annotation_categories()
    same = np.ones(len(first) - 1, dtype=bool)
    for name in ("chain_id", "label_asym_id", "sym_id"):
        if name in known:
            value = getattr(atoms, name)[first]
            same &= value[1:] == value[:-1]
    number = atoms.res_id[first]
    if "label_seq_id" in known:
        label = atoms.label_seq_id[first].astype(str)
        digits = np.char.isdigit(label)
        same &= digits[1:] & digits[:-1]
        number = np.where(digits, label, "0").astype(int)
    step = np.diff(number)
    return same, (step == 0) | (step == 1)
