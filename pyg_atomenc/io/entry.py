"""`Entry`: what a structure file holds, whatever its format, and one model of it."""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any, Optional

import numpy as np

from pyg_atomenc.checks import check
from pyg_atomenc.chem import codes
from pyg_atomenc.chem.bonds import bond_disulfides, bond_hydrogens, residue_bonds
from pyg_atomenc.chem.codes import Array, Booleans, Floats, Integers
from pyg_atomenc.chem.components import component_atoms, component_bonds
from pyg_atomenc.chem.ligands import bond_ligands
from pyg_atomenc.chem.names import standard_names
from pyg_atomenc.chem.residues import STANDARD
from pyg_atomenc.errors import require_package
from pyg_atomenc.io.limits import Notes

# What names an atom in a table of bonds; the last one is not in every format.
PLACE = "chain_id res_id ins_code res_name atom_name altloc_id label_asym_id".split()
Table = dict[str, Any]


@dataclass
class Entry:
    """A structure file: what all parsers give."""

    atoms: Table  # `coord` [A, 3] in ångström, and annotations [A], of all models
    models: Integers  # where each model starts, and the end [M + 1]
    # Declared bonds: two atoms, as values of what PLACE names, and biotite's type.
    links: list[Any] = field(default_factory=list)
    pairs: Any = None  # bonds of two rows of `atoms`, how often each is listed [B, 3]
    component_bonds: Table = field(default_factory=dict)  # by the file itself
    # Of each assembly the id, an expression of operators, and the chains they copy.
    generators: list[tuple[str, str, list[str]]] = field(default_factory=list)
    operators: Table = field(default_factory=dict)  # name → rotation [3, 3], shift [3]
    sequence: Optional[Table] = None  # pdbx_poly_seq_scheme

    def read(self, model: int, assembly: Any, notes: Notes, ligands: Table) -> Any:
        """One model as an ``AtomArray`` with bonds, or an assembly of it."""
        structure = require_package("biotite.structure", "from_structure")
        rows = np.arange(*self.models[model - 1 : model + 1])
        atoms = structure.AtomArray(len(rows))
        atoms.coord = self.atoms["coord"][rows]
        for name in [name for name in self.atoms if name != "coord"]:
            values = self.atoms[name][rows]
            # Names may become longer, as of an ion without its element.
            wide = values.dtype.kind == "U" and values.dtype < np.dtype("U4")
            atoms.set_annotation(name, values.astype("U4") if wide else values)
        keep = choose_altloc(atoms)
        rows, atoms = rows[keep], atoms if keep.all() else atoms[keep]
        atoms.bonds = structure.BondList(len(rows), self._declared(atoms, rows))
        atoms.del_annotation("altloc_id")
        atoms = standard_names(atoms, notes)
        bond_disulfides(atoms, notes)
        if assembly is not None:
            atoms = self._assembly(atoms, assembly, notes)
        tables = self._tables(atoms) | dict.fromkeys(ligands, {})
        # Of two lists that hold a bond, the second one's type wins.
        atoms.bonds = atoms.bonds.merge(residue_bonds(atoms, tables))
        # Ions have no bonds, and need none.
        some = [name for name, table in tables.items() if not table]
        unknown = [name for name in some if len(component_atoms(name)[0]) != 1]
        bond_ligands(atoms, unknown, ligands, notes)
        bond_hydrogens(atoms, notes)
        atoms.del_annotation("segment")
        hidden = np.isnan(atoms.coord).any(axis=1)
        notes.add("atoms without a position are unresolved", hidden.sum())
        atoms.coord[hidden] = np.nan
        atoms.set_annotation("is_resolved", ~hidden)
        return atoms

    def _tables(self, atoms: Any) -> Table:
        """The bonds of components that have all atoms there are, the file's first."""
        tables, heavy = {}, ~np.isin(atoms.element, ("H", "D", "T"))
        for name in codes.distinct(atoms.res_name)[0].tolist():
            table = self.component_bonds.get(name) or component_bonds(name)
            if name not in STANDARD:
                named = {*component_atoms(name)[0].tolist()}.union(*table)
                found = atoms.atom_name[heavy & (atoms.res_name == name)]
                # A ligand's name may mean another component.
                table = table if named.issuperset(found.tolist()) else {}
            tables[name] = table
        return tables

    def _declared(self, atoms: Any, rows: Array) -> Integers:
        """The bonds that the file lists, between atoms that are kept ``[B, 3]``."""
        parts = [np.zeros((0, 3), dtype=np.int64)]
        if self.links:
            wanted = {end[1] for *ends, _ in self.links for end in ends}
            near = codes.of_distinct(lambda n: str(n) in wanted, atoms.res_id)
            some = np.flatnonzero(near)
            columns = (getattr(atoms, name)[some].astype(str).tolist()
                       for name in PLACE if name in self.atoms)  # fmt: skip
            keys = zip(*columns, strict=True)
            # Of atoms that are named alike, the first one.
            found = dict(zip([*keys][::-1], some.tolist()[::-1], strict=True))
            ends = [[found.get(a, -1), found.get(b, -1), t] for a, b, t in self.links]
            listed = np.array(ends, dtype=np.int64)
            parts.append(listed[(listed[:, :2] >= 0).all(axis=1)])
        if self.pairs is not None:
            place = np.full(len(self.atoms["coord"]), -1)
            place[rows] = np.arange(len(rows))
            listed = np.column_stack([place[self.pairs[:, :2]], self.pairs[:, 2]])
            listed = listed[(listed >= 0).all(axis=1)]
            listed[:, 2] = _kinds(atoms, listed[:, :2], listed[:, 2])
            parts.append(listed)
        return np.concatenate(parts)

    def _assembly(self, atoms: Any, assembly: str, notes: Notes) -> Any:
        chain = getattr(atoms, "label_asym_id", atoms.chain_id)
        made: list[Any] = []
        copies, total = Counter[str](), 0
        for _, expression, chains in [g for g in self.generators if g[0] == assembly]:
            rows = np.flatnonzero(np.isin(chain, chains))
            steps = [_ranges(step) for step in re.split(r"[()]", expression) if step]
            total += len(rows) * prod(sum(map(len, step)) for step in steps)
            notes.check_atoms(total)
            before = np.array([copies[name] for name in chain[rows].tolist()], int)
            names = [[str(n) for part in step for n in part] for step in steps]
            for copy, operation in enumerate(product(*names)):
                moved = atoms[rows]
                for operator in reversed(operation):
                    rotation, shift = self.operators[operator]
                    moved.coord = moved.coord @ rotation.T + shift
                moved.set_annotation("sym_id", before + copy)
                made.append(moved)
            copies.update(dict.fromkeys(chain[rows].tolist(), prod(map(len, names))))
        check(made, f"assembly {assembly!r} has no atoms")
        whole = require_package("biotite.structure", "assembly").concatenate(made)
        return whole[np.argsort(whole.sym_id, kind="stable")]


def numbers(texts: list[str], nothing: Collection[str], where: Any) -> Floats:
    """Numbers of texts, without uncertainties; NaN for ``nothing`` and for ``nan``."""
    as_number = require_package("gemmi", "from_structure").cif.as_number
    found = np.array(list(map(as_number, texts)), dtype=np.float64)
    for row in np.flatnonzero(np.isnan(found)).tolist():
        known = texts[row].lower() in (*nothing, "nan")
        check(known, f"{where(row)} has the number {texts[row][:20]!r}")
    return found


def _ranges(step: str) -> list[Any]:
    """The operators of one step: names, and ranges of them, which may be long."""
    ends = [part.strip().partition("-") for part in step.split(",")]
    return [range(int(a), int(b) + 1) if dash else [a] for a, dash, b in ends]


def _kinds(atoms: Any, ends: Array, times: Array) -> Integers:
    """Biotite's types of bonds that are listed so often ``[B]``."""
    # Within residues, one that is listed once is of any order (0). As in mmCIF, between
    # residues they are single, or coordinate a metal (8).
    element = require_package("gemmi", "from_structure").Element
    metal = codes.of_distinct(lambda e: element(e).is_metal, atoms.element)
    residue = codes.of_columns(atoms, PLACE[:4])[ends]
    # Where even those to hydrogens are, the whole table is there more than once.
    hydrogen = np.isin(atoms.element[ends], ("H", "D", "T")).any(axis=1)
    order = np.where(times > 1, times, 0) * (times[hydrogen] < 2).all()
    between = np.where(metal[ends].any(axis=1), 8, 1)
    return np.where(residue[:, 0] == residue[:, 1], order, between)


def choose_altloc(atoms: Any) -> Booleans:
    """Which atoms stay ``[N]``: of each place the location of highest occupancy."""
    ids = np.where(np.isin(atoms.altloc_id, (".", "?", " ")), "", atoms.altloc_id)
    if (keep := ids == "").all():
        return keep
    # Whatever the names: of a serine that is a threonine elsewhere, only one may stay.
    place = codes.of_columns(atoms, ("chain_id", "res_id", "ins_code"))
    # Of an atom with a location and the same without one, one is an alternative.
    atom = codes.join(place, codes.code(atoms.atom_name))
    keep &= ~np.isin(atom, atom[~keep])
    option = codes.join(place, codes.code(ids))
    weight = np.bincount(option, np.where(keep, 0.0, atoms.occupancy))[option]
    some = np.flatnonzero(~keep)
    # Within each place: the heaviest option first, of equal ones the one met first.
    order = some[np.lexsort((some, -weight[some], place[some]))]
    _, best = np.unique(place[order], return_index=True)
    return keep | np.isin(option, option[order[best]])
