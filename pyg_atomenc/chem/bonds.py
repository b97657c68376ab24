"""Bonds: their types, as tensors, and by tables of components along polymers."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyg_atomenc.checks import check_shape
from pyg_atomenc.chem import codes
from pyg_atomenc.chem.codes import Integers
from pyg_atomenc.chem.residues import POLYMER_LINKS, Residues, find_residues, link_type
from pyg_atomenc.errors import require_package

BOND_TYPES = ("single", "double", "triple", "aromatic", "other")
"""The columns of ``edge_attr``; coordination and unknown bonds are ``"other"``."""

BOND_COLUMNS = len(BOND_TYPES)

Table = Mapping[str, Mapping[tuple[str, str], int]]
# How far the atoms of a bond may be apart, where the residues' numbers do not tell of
# it, and where they do; in ångström.
_LONGEST, _FARTHEST = 2.0, 4.0
# That of any bond to hydrogen, and of one between sulfurs.
_HYDROGEN, _DISULFIDE = 1.5, 2.3


@lru_cache(maxsize=100)
def bond_column(name: str) -> int:
    """The column in :data:`BOND_TYPES` of a bond type's name in RDKit or biotite."""
    # AROMATIC_SINGLE and its like are one type here, as in RDKit.
    name = "aromatic" if name.startswith("AROMATIC") else name.lower()
    return BOND_TYPES.index(name if name in BOND_TYPES else "other")


def bond_tensors(pairs: Any, types: Any, stereo: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Bonds ``[B, 2]``, columns of types ``[B]`` and codes ``[B]`` as PyG's tensors.

    ``edge_index`` ``[2, 2 * B]`` int64, each in both directions and sorted by its first
    atom, ``edge_attr`` ``[2 * B, 5]`` float32, one-hot, and ``edge_stereo`` ``[2 * B]``
    int64, the codes.
    """
    ends = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    ends = np.concatenate([ends, ends[:, ::-1]])
    column = np.tile(np.asarray(types, dtype=np.int64).reshape(-1), 2)
    order = np.lexsort((ends[:, 1], ends[:, 0]))
    edge_attr = np.zeros((len(order), BOND_COLUMNS), dtype=np.float32)
    edge_attr[np.arange(len(order)), column[order]] = 1
    edge_index = np.ascontiguousarray(ends[order].T)
    edge_stereo = np.tile(np.asarray(stereo, dtype=np.int64).reshape(-1), 2)[order]
    one, other, more = map(torch.from_numpy, (edge_index, edge_attr, edge_stereo))
    return one, other, more


def unique_bonds(
    edge_index: Tensor, edge_attr: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    """Each bond of ``edge_index``, listed one way or both, once, with its type.

    The two atoms ``[2, B]``, the lesser first, and the column in :data:`BOND_TYPES`
    ``[B]``, int64 on the CPU; a ValueError if there are bonds, but no one-hot types.
    """
    if edge_attr is None and edge_index.numel() == 0:
        edge_attr = torch.empty((0, BOND_COLUMNS))
    types = check_bond_types(edge_attr)
    # Which of the two ways stands first does not matter.
    apart = edge_index[0] != edge_index[1]
    ends = edge_index[:, apart].cpu().sort(dim=0).values
    key = ends[0] * (ends.max() + 1 if ends.numel() else 1) + ends[1]
    first = torch.from_numpy(np.unique(key.numpy(), return_index=True)[1])
    return ends[:, first], types[apart].cpu()[first].argmax(dim=1)


def check_bond_types(edge_attr: Optional[Tensor]) -> Tensor:
    """The one-hot bond types ``[E, 5]``, or a ValueError if it is none."""
    hint = (
        "read the data with from_structure, from_atom_array, from_smiles or "
        "from_rdmol, or set the one-hot bond types of pyg_atomenc.io.BOND_TYPES"
    )
    return check_shape("edge_attr", edge_attr, "E", BOND_COLUMNS, hint=hint)


def residue_bonds(atoms: Any, table: Table) -> Any:
    """Bond the atoms of every residue, and each residue to the next of its polymer.

    The atoms of a residue need not stand together. ``table`` has biotite's bond type
    of pairs of atom names of every component.
    """
    structure = require_package("biotite.structure", "bonds")
    residues = find_residues(atoms)
    residue = residues.index
    parts = [_along(residues)]
    for rows in codes.places(codes.code(atoms.res_name)):
        bonds = table.get(str(atoms.res_name[rows[0]]))
        if bonds:
            parts.append(_within(rows, residue[rows], atoms.atom_name[rows], bonds))
    return structure.BondList(len(residue), np.concatenate(parts))


def bond_hydrogens(atoms: Any, notes: Any) -> None:
    """Bond hydrogens of unknown names to the nearest heavy atom of their residue.

    So are those that their names bond to an atom far away, as programs number them
    in ways of their own.
    """
    hydrogen = np.isin(atoms.element, ("H", "D", "T"))
    heavy = np.flatnonzero(~hydrogen & np.isfinite(atoms.coord).all(axis=1))
    bonds = atoms.bonds.as_array()
    far = hydrogen[bonds[:, :2]].any(axis=1)
    far[far] = _distance(atoms, *bonds[far, :2].T) > _HYDROGEN
    alone = hydrogen.copy()
    alone[bonds[:, :2].ravel()] = False
    alone[bonds[far, :2].ravel()] = True
    rows = np.flatnonzero(alone & hydrogen & np.isfinite(atoms.coord).all(axis=1))
    if len(rows) == 0 or len(heavy) == 0:
        return
    spatial = require_package("scipy.spatial", "bonds of hydrogens")
    tree = spatial.cKDTree(atoms.coord[heavy])
    distance, nearest = tree.query(atoms.coord[rows], distance_upper_bound=_HYDROGEN)
    near = np.isfinite(distance)
    rows, ends = rows[near], heavy[nearest[near]]
    residue = find_residues(atoms).index
    same = residue[rows] == residue[ends]
    pairs = np.stack([rows, ends, np.ones_like(rows)], axis=1)[same]
    # Those of the first residue and deuterium are where the PDB says they are.
    told = np.isin(atoms.atom_name[pairs[:, 0]], ("H1", "H2", "H3"))
    told &= codes.of_distinct(link_type, atoms.res_name[pairs[:, 0]]) != ""
    told |= np.char.startswith(atoms.atom_name[pairs[:, 0]], "D")
    odd = pairs[~told]
    notes.add("hydrogens bonded to the nearest atom", len(odd))
    far[far] = np.isin(bonds[far, :2], pairs[:, 0]).any(axis=1)
    # Of a bond that is there twice, the first one's type stays.
    pairs = np.concatenate([pairs, bonds[~far]])
    atoms.bonds = type(atoms.bonds)(len(hydrogen), pairs)


def bond_disulfides(atoms: Any, notes: Any) -> None:
    """Bond the sulfurs of cysteines that are as near as in a disulfide.

    Many programs declare none.
    """
    found = (atoms.res_name == "CYS") & (atoms.atom_name == "SG")
    rows = np.flatnonzero(found & np.isfinite(atoms.coord).all(axis=1))
    ends = atoms.bonds.as_array()[:, :2]
    # Those that are bonded to each other already.
    rows = np.setdiff1d(rows, ends[found[ends].all(axis=1)])
    if len(rows) > 1:
        spatial = require_package("scipy.spatial", "disulfides")
        tree = spatial.cKDTree(atoms.coord[rows])
        pairs = rows[tree.query_pairs(_DISULFIDE, output_type="ndarray").reshape(-1, 2)]
        notes.add("disulfides bonded by distance", len(pairs))
        pairs = np.insert(pairs, 2, 1, axis=1)
        atoms.bonds = atoms.bonds.merge(type(atoms.bonds)(len(found), pairs))


def _within(
    rows: Integers,
    residue: Integers,
    names: NDArray[Any],
    bonds: Mapping[tuple[str, str], int],
) -> NDArray[np.int64]:
    """Bonds in all the residues of one component."""
    named = dict.fromkeys(name for pair in bonds for name in pair)
    number = {name: i for i, name in enumerate(named)}
    column = codes.of_distinct(lambda name: number.get(name, -1), names)
    row = codes.code(residue)
    there = column >= 0
    # Which atom each name is in each residue.
    place = np.full((row.max() + 1, len(number)), -1)
    place[row[there], column[there]] = rows[there]
    one, other = np.array([[number[a], number[b]] for a, b in bonds]).T
    kind = np.broadcast_to([int(k) for k in bonds.values()], (len(place), len(one)))
    found = np.stack([place[:, one], place[:, other], kind], axis=-1).reshape(-1, 3)
    return found[(found[:, :2] >= 0).all(axis=1)]


def _along(residues: Residues) -> NDArray[np.int64]:
    """Bonds from each residue to the next in a peptide or nucleic acid ``[B, 3]``."""
    atoms, first = residues.atoms, residues.first
    same, follows = _follows(atoms, first)
    types = codes.of_distinct(link_type, residues.names)
    parts = [np.zeros((0, 3), dtype=np.int64)]
    for link in POLYMER_LINKS:
        fits = np.isin(types, link.types)
        head, tail = (fits | np.isin(residues.names, caps) for caps in link.caps)
        # Of a component made for no polymer, as GTP is, only the distance tells.
        sure = follows & head[:-1] & tail[1:]
        start = np.flatnonzero(same & (head[:-1] | tail[1:]))
        ends = []
        for name, of in ((link.tail, start), (link.head, start + 1)):
            atom = np.full(len(first), -1)
            rows = np.flatnonzero(atoms.atom_name == name)[::-1]
            atom[residues.index[rows]] = rows
            ends.append(atom[of])
        # Where nobody saw the atoms, their numbers have to do.
        distance = _distance(atoms, *ends)
        near = ~(distance > np.where(sure[start], _FARTHEST, _LONGEST))
        near &= sure[start] | ~np.isnan(distance)
        near &= (ends[0] >= 0) & (ends[1] >= 0)
        parts.append(np.stack([*ends, np.ones_like(start)], axis=1)[near])
    return np.concatenate(parts)


def _distance(atoms: Any, one: Integers, other: Integers) -> NDArray[Any]:
    """How far two atoms are apart ``[B]``, in ångström."""
    return np.linalg.norm(atoms.coord[one] - atoms.coord[other], axis=1)


def _follows(
    atoms: Any, first: Integers
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether a residue may be bonded to the next one, and comes next ``[R - 1]``.

    Numbers may jump, above all those of authors, or stay as insertion codes count.
    """
    known = atoms.get_annotation_categories()
    same = np.ones(len(first) - 1, dtype=bool)
    for name in ("chain_id", "label_asym_id", "sym_id", "segment"):
        if name in known:
            value = getattr(atoms, name)[first]
            same &= value[1:] == value[:-1]
    number = atoms.res_id[first]
    if "label_seq_id" in known:
        label = atoms.label_seq_id[first].astype(str)
        told = np.char.isdigit(label)
        if told.any():
            same &= told[1:] & told[:-1]
            number = np.where(told, label, "0").astype(int)
    step = np.diff(number)
    return same, (step == 0) | (step == 1)
