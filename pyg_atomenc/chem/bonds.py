"""Bonds: their types, as tensors, and by tables of components along polymers."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_atomenc.checks import check_shape
from pyg_atomenc.chem import codes
from pyg_atomenc.chem.codes import Array, Booleans, Integers
from pyg_atomenc.chem.residues import POLYMER_LINKS, Residues, find_residues, link_type
from pyg_atomenc.errors import require_package

BOND_TYPES = ("single", "double", "triple", "aromatic", "other")
"""The columns of ``edge_attr``; coordination and unknown bonds are ``"other"``."""

BOND_COLUMNS = len(BOND_TYPES)

# Two atoms' names → biotite's bond type, and that of every component.
Bonds = Mapping[tuple[str, str], int]
Table = Mapping[str, Bonds]
# The longest bonds in ångström: where the residues' numbers do not tell of it, and do;
# to hydrogen; and between sulfurs.
_LONGEST, _FARTHEST, _HYDROGEN, _DISULFIDE = 2.0, 4.0, 1.5, 2.3


@lru_cache(maxsize=100)
def bond_column(name: str) -> int:
    """The column in :data:`BOND_TYPES` of a bond type's name in RDKit or biotite."""
    # AROMATIC_SINGLE and its like are one type here, as in RDKit.
    name = "aromatic" if name.startswith("AROMATIC") else name.lower()
    return BOND_TYPES.index(name if name in BOND_TYPES else "other")


def bond_tensors(pairs: Any, types: Any, stereo: Any) -> tuple[Tensor, Tensor, Tensor]:
    """PyG's tensors, sorted, of bonds ``[B, 2]``, columns ``[B]`` and codes ``[B]``."""
    ends = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    ends = np.concatenate([ends, ends[:, ::-1]])
    order = np.lexsort((ends[:, 1], ends[:, 0]))
    column, code = (torch.tensor(np.tile(c, 2)[order]).long() for c in (types, stereo))
    edge_index = torch.from_numpy(np.ascontiguousarray(ends[order].T))
    return edge_index, torch.eye(BOND_COLUMNS)[column], code


def unique_bonds(edge_index: Tensor, edge_attr: Any) -> tuple[Tensor, Tensor]:
    """Each bond once, on the CPU: its atoms ``[2, B]``, sorted, and column ``[B]``."""
    if edge_attr is None and edge_index.numel() == 0:
        edge_attr = torch.empty((0, BOND_COLUMNS))
    types = check_bond_types(edge_attr)
    apart = edge_index[0] != edge_index[1]
    ends = edge_index[:, apart].cpu().sort(dim=0).values
    key = ends[0] * (ends.max() + 1 if ends.numel() else 1) + ends[1]
    first = torch.from_numpy(np.unique(key.numpy(), return_index=True)[1])
    return ends[:, first], types[apart].cpu()[first].argmax(dim=1)


def check_bond_types(edge_attr: Optional[Tensor]) -> Tensor:
    """The one-hot bond types ``[E, 5]``, or a ValueError if it is none."""
    hint = "read the data with pyg_atomenc.io, or set one-hot types as its BOND_TYPES"
    return check_shape("edge_attr", edge_attr, "E", BOND_COLUMNS, hint=hint)


def residue_bonds(atoms: Any, table: Table) -> Any:
    """Bond the atoms of every residue, by a table, and polymers along their chains."""
    structure = require_package("biotite.structure", "bonds")
    residues = find_residues(atoms)
    parts = [_along(residues)]
    for rows in codes.places(codes.code(atoms.res_name)):
        if bonds := table.get(str(atoms.res_name[rows[0]])):
            parts.append(_within(residues, rows, bonds))
    return structure.BondList(atoms.array_length(), np.concatenate(parts))


def bond_hydrogens(atoms: Any, notes: Any) -> None:
    """Bond hydrogens of unknown names, or far away, to their residue's nearest atom."""
    # Programs number hydrogens in ways of their own.
    hydrogen, bonds = np.isin(atoms.element, ("H", "D", "T")), atoms.bonds.as_array()
    far = hydrogen[bonds[:, :2]].any(axis=1)
    far[far] = _distance(atoms, *bonds[far, :2].T) > _HYDROGEN
    alone = hydrogen.copy()
    alone[bonds[:, :2].ravel()] = False
    alone[bonds[far, :2].ravel()] = True
    if len(pairs := _near(atoms, alone & hydrogen, ~hydrogen, _HYDROGEN)) == 0:
        return
    residue = find_residues(atoms).index
    pairs = pairs[residue[pairs[:, 0]] == residue[pairs[:, 1]]]
    # Those of the first residue and deuterium are where the PDB says they are.
    told = np.isin(atoms.atom_name[pairs[:, 0]], ("H1", "H2", "H3"))
    told &= codes.of_distinct(link_type, atoms.res_name[pairs[:, 0]]) != ""
    told |= np.char.startswith(atoms.atom_name[pairs[:, 0]], "D")
    notes.add("hydrogens bonded to the nearest atom", (~told).sum())
    far[far] = np.isin(bonds[far, :2], pairs[:, 0]).any(axis=1)
    # Of a bond that is there twice, the first one's type stays.
    atoms.bonds = type(atoms.bonds)(len(hydrogen), np.concatenate([pairs, bonds[~far]]))


def bond_disulfides(atoms: Any, notes: Any) -> None:
    """Bond the sulfurs of cysteines that are near; many programs declare none."""
    sulfur = (atoms.res_name == "CYS") & (atoms.atom_name == "SG")
    bonds = atoms.bonds.as_array()
    alone = sulfur.copy()
    alone[bonds[sulfur[bonds[:, :2]].all(axis=1), :2].ravel()] = False
    pairs = _near(atoms, alone, alone, _DISULFIDE)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    notes.add("disulfides bonded by distance", len(pairs))
    atoms.bonds = type(atoms.bonds)(len(sulfur), np.concatenate([bonds, pairs]))


def _near(atoms: Any, some: Booleans, others: Booleans, most: float) -> Integers:
    """Single bonds ``[B, 3]`` from some atoms to the nearest of others, if it is so."""
    known = np.isfinite(atoms.coord).all(axis=1)
    rows, ends = np.flatnonzero(some & known), np.flatnonzero(others & known)
    if len(rows) == 0 or len(ends) == 0:
        return np.zeros((0, 3), dtype=np.int64)
    tree = require_package("scipy.spatial", "bonds by distance").cKDTree
    # An atom is the nearest to itself.
    which = [2 if some[ends].any() else 1]
    distance, nearest = tree(atoms.coord[ends]).query(atoms.coord[rows], which)
    near = distance[:, 0] < most
    rows, ends = rows[near], ends[nearest[near, 0]]
    return np.stack([rows, ends, np.ones_like(rows)], axis=1)


def _within(residues: Residues, rows: Integers, bonds: Bonds) -> Integers:
    """Bonds ``[B, 3]`` in all the residues of one component, whose atoms are given."""
    named = dict.fromkeys(name for pair in bonds for name in pair)
    number = {name: i for i, name in enumerate(named)}
    names = residues.atoms.atom_name[rows]
    column = codes.of_distinct(lambda name: number.get(name, -1), names)
    row, there = codes.code(residues.index[rows]), column >= 0
    # Which atom each name is in each residue.
    place = np.full((row.max() + 1, len(number)), -1)
    place[row[there], column[there]] = rows[there]
    one, other = np.array([[number[a], number[b]] for a, b in bonds]).T
    kind = np.broadcast_to([int(k) for k in bonds.values()], (len(place), len(one)))
    found = np.stack([place[:, one], place[:, other], kind], axis=-1).reshape(-1, 3)
    return found[(found[:, :2] >= 0).all(axis=1)]


def _along(residues: Residues) -> Integers:
    """Bonds from each residue to the next in a peptide or nucleic acid ``[B, 3]``."""
    atoms, first = residues.atoms, residues.first
    # Numbers may jump, above all those of authors, or stay as insertion codes count.
    names = ("chain_id", "label_asym_id", "sym_id", "segment")
    same = np.diff(codes.of_columns(atoms, names)[first]) == 0
    number = atoms.res_id[first]
    label = getattr(atoms, "label_seq_id", np.full(len(atoms), "."))[first].astype(str)
    if (told := np.char.isdigit(label)).any():
        same &= told[1:] & told[:-1]
        number = np.where(told, label, "0").astype(int)
    follows = np.isin(np.diff(number), (0, 1))
    types = codes.of_distinct(link_type, residues.names)
    parts = [np.zeros((0, 3), dtype=np.int64)]
    for link in POLYMER_LINKS:
        fits = np.isin(types, link.types)
        head, tail = (fits | np.isin(residues.names, caps) for caps in link.caps)
        # Of a component made for no polymer, as GTP is, only the distance tells.
        sure = follows & head[:-1] & tail[1:]
        start, ends = np.flatnonzero(same & (head[:-1] | tail[1:])), []
        for name, of in ((link.tail, start), (link.head, start + 1)):
            atom = np.full(len(first), -1)
            rows = np.flatnonzero(atoms.atom_name == name)[::-1]
            atom[residues.index[rows]] = rows
            ends.append(atom[of])
        # Where nobody saw the atoms, their numbers have to do.
        distance = _distance(atoms, *ends)
        near = distance <= np.where(sure[start], _FARTHEST, _LONGEST)
        near |= np.isnan(distance) & sure[start]
        near &= np.minimum(*ends) >= 0
        parts.append(np.stack([*ends, np.ones_like(start)], axis=1)[near])
    return np.concatenate(parts)


def _distance(atoms: Any, one: Integers, other: Integers) -> Array:
    """How far two atoms are apart ``[B]``, in ångström."""
    return np.linalg.norm(atoms.coord[one] - atoms.coord[other], axis=1)
