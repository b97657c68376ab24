"""mmCIF and BinaryCIF files → biotite's `AtomArray`."""

import re
from math import prod
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pyg_atomenc.chem.bonds import are_near, residue_bonds
from pyg_atomenc.chem.residues import POLYMER_LINKS
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.cif_blocks import read_binary, read_text
from pyg_atomenc.io.duplicates import NO_ALTLOC, check_duplicates, choose_altloc
from pyg_atomenc.io.limits import Limits

_LABELS = ("label_asym_id", "label_seq_id")
_POSITION = ("Cartn_x", "Cartn_y", "Cartn_z")
# What biotite reads of the atoms, and to find the atoms of `struct_conn`.
_COLUMNS = {
    *_LABELS, *_POSITION, "group_PDB", "type_symbol", "label_atom_id", "label_alt_id",
    "label_comp_id", "auth_asym_id", "auth_seq_id", "auth_comp_id", "auth_atom_id",
    "pdbx_PDB_ins_code", "pdbx_PDB_model_num", "pdbx_formal_charge", "occupancy",
}  # fmt: skip
_BOND = ("comp_id", "atom_id_1", "atom_id_2", "value_order", "pdbx_aromatic_flag")
# Orders and aromatic flags → biotite's BondType; 0 is any.
_KINDS = {
    ("SING", "N"): 1, ("DOUB", "N"): 2, ("TRIP", "N"): 3, ("QUAD", "N"): 4,
    ("SING", "Y"): 5, ("DOUB", "Y"): 6, ("TRIP", "Y"): 7, ("AROM", "Y"): 9,
}  # fmt: skip
_GENERATOR = ("assembly_id", "oper_expression", "asym_id_list")
# What is read beside the atoms.
_CATEGORIES = (
    "cell chem_comp_bond pdbx_poly_seq_scheme pdbx_struct_assembly "
    "pdbx_struct_assembly_gen pdbx_struct_oper_list struct_conn"
).split()


class CifDocument:
    """A parsed mmCIF or BinaryCIF file.

    Args:
        file (pathlib.Path): Its name, for messages.
        content (bytes): The file.
        limits (Limits): Of which the number of atoms is checked before they are made.
        binary (bool): Whether it is BinaryCIF. (default: ``False``)

    Raises:
        ValueError: If the file is damaged, or over the limit.
    """

    def __init__(
        self, file: Path, content: bytes, limits: Limits, binary: bool = False
    ) -> None:
        self.pdbx = require_package("biotite.structure.io.pdbx", "from_structure")
        if binary:
            wanted = {"atom_site": _COLUMNS, **dict.fromkeys(_CATEGORIES)}
            self.block = read_binary(content, wanted, file, limits)
        else:
            self.block = read_text(content, _COLUMNS, file, limits)
        self.site = self.block["atom_site"]
        self.file, self.limits = file, limits
        self.num_atoms = len(self.site["Cartn_x"])
        self._starts = _check(self.site)

    @property
    def num_models(self) -> int:
        """How many models there are."""
        return len(self._starts) - 1

    @property
    def assemblies(self) -> list[str]:
        """The ids of the biological assemblies."""
        if "pdbx_struct_assembly_gen" not in self.block:
            return []
        ids = self.block["pdbx_struct_assembly_gen"]["assembly_id"].as_array(str)
        return list(dict.fromkeys(ids.tolist()))

    def read(self, model: int, assembly: Optional[str]) -> Any:
        """One model, or an assembly of it, with one location per residue.

        Args:
            model (int): Which model, from 1.
            assembly (str, optional): Which assembly.

        Returns:
            biotite.structure.AtomArray: With bonds, ``charge`` and ``occupancy``, and
            ``label_asym_id`` and ``label_seq_id`` where the file has them.
        """
        labels = [name for name in _LABELS if name in self.site]
        rows = slice(*self._starts[model - 1 : model + 1])
        block = self._rows(rows)
        read = self.pdbx.get_structure
        fields = ["charge", "occupancy", *labels]
        options: dict[str, Any] = {"model": 1, "extra_fields": fields}
        # Which fields biotite takes unasked depends on its version.
        options["use_author_fields"] = True
        if assembly is not None:
            self.limits.check_atoms(self.file, self._count(rows, assembly))
            read, options["assembly_id"] = self.pdbx.get_assembly, assembly
        atoms = read(block, include_bonds=True, **options)
        atoms.ins_code = np.char.strip(atoms.ins_code)
        bonds = residue_bonds(atoms, self._table(atoms))
        # Of two lists that hold a bond, the second one's type wins.
        atoms.bonds = bonds.merge(_connections(atoms, bonds))
        return atoms

    def _table(self, atoms: Any) -> dict[str, Any]:
        """The bonds of the components, by the file where it tells them."""
        info = require_package("biotite.structure.info", "from_structure")
        table: dict[str, Any] = {}
        bonds = self.block.get("chem_comp_bond")
        if bonds is not None and set(_BOND) <= set(bonds):
            columns = [bonds[key].as_array(str).tolist() for key in _BOND]
            for name, a, b, order, aromatic in zip(*columns, strict=True):
                kind = _KINDS.get((order.upper(), aromatic), 0)
                table.setdefault(name, {})[a, b] = kind
        for name in np.unique(atoms.res_name).tolist():
            if name not in table:
                table[name] = info.bonds_in_residue(name)
        return table

    def _rows(self, rows: slice) -> Any:
        """A block with these rows alone, and of alternate locations the chosen ones."""
        table = {name: _take(column, rows) for name, column in self.site.items()}
        site = type(self.site)(table)
        altlocs = table.get("label_alt_id")
        ids = np.array(["."]) if altlocs is None else altlocs.as_array(str)
        some = ~np.isin(ids, NO_ALTLOC)
        if some.any():
            keep = choose_altloc(_places(site))
            if not np.char.isalpha(ids[some]).all():
                # biotite drops every location that is not named by a letter.
                del table["label_alt_id"]
            table = {name: _take(column, keep) for name, column in table.items()}
            site = type(self.site)(table)
        check_duplicates(_places(site))
        others = {name: self.block[name] for name in _CATEGORIES if name in self.block}
        # For biotite nothing but connections: our own bonds in residues take less time.
        others["chem_comp_bond"] = type(self.site)({key: ["."] for key in _BOND})
        return type(self.block)({"atom_site": site, **others})

    def _count(self, rows: slice, assembly: str) -> int:
        """How many atoms an assembly has at most, told without making them."""
        table = self.block["pdbx_struct_assembly_gen"]
        chain = self.site["label_asym_id"].as_array(str)[rows]
        columns, count = [table[key].as_array(str).tolist() for key in _GENERATOR], 0
        for name, expression, chains in zip(*columns, strict=True):
            if name == assembly:
                steps = [step for step in re.split(r"[()]", expression) if step]
                copies = prod(sum(map(_span, step.split(","))) for step in steps)
                count += copies * int(np.isin(chain, chains.split(",")).sum())
        return count


def _span(part: str) -> int:
    first, dash, last = part.partition("-")
    return int(last) - int(first) + 1 if dash else 1


def _connections(atoms: Any, ours: Any) -> Any:
    """The bonds that biotite found, without those from one number to the next alone.

    It takes an amino acid that is a ligand for the next residue of the chain before it.
    """
    pairs = atoms.bonds.as_array()
    names = atoms.atom_name[pairs[:, :2]]
    links = np.zeros(len(pairs), dtype=bool)
    for link in POLYMER_LINKS:
        links |= np.isin(names, (link.tail, link.head)).all(axis=1)
    count = np.int64(len(atoms.atom_name))
    known = ours.as_array()[:, :2].astype(np.int64) @ [count, 1]
    found = np.sort(pairs[:, :2].astype(np.int64), axis=1) @ [count, 1]
    keep = ~links | np.isin(found, known) | are_near(atoms, pairs[:, 0], pairs[:, 1])
    return type(ours)(int(count), pairs[keep])


def _check(site: Any) -> list[int]:
    """Where each model starts, and the end; a ValueError if a value cannot be."""
    number = "auth_seq_id" if "auth_seq_id" in site else "label_seq_id"
    for name in (*_POSITION, number):
        column = site[name]
        # biotite reads a '?' or '.' in place of a number as 0 or −1.
        if column.mask is not None and (column.mask.array != 0).any():
            row = int((column.mask.array != 0).argmax())
            raise AtomEncodingError(f"no value for {name} in row {row} of atom_site")
        # Python reads 1_0 as 10.
        if column.data.array.dtype.kind == "U" and "_" in "".join(column.data.array):
            raise AtomEncodingError(f"a value of {name} is no number")
    if "label_seq_id" in site:
        label = site["label_seq_id"].as_array(str)
        if not (np.char.isdigit(label) | np.isin(label, (".", "?", "-1"))).all():
            raise AtomEncodingError("a value of label_seq_id is no number")
    for name in ("pdbx_PDB_ins_code", "label_alt_id"):
        if name in site:
            value = np.char.strip(site[name].as_array(str, "."))
            if (np.char.str_len(value) > 1).any():
                raise AtomEncodingError(f"a value of {name} has several characters")
    group = site["group_PDB"].as_array(str)
    other = ~np.isin(group, ("ATOM", "HETATM"))
    if other.any():
        row = int(other.argmax())
        raise AtomEncodingError(f"group_PDB is {str(group[row])!r} in row {row}")
    numbers = site["pdbx_PDB_model_num"].as_array(int)
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1)).tolist()
    if len(starts) > len(np.unique(numbers)):
        raise AtomEncodingError("the rows of a model do not stand together")
    return [*starts, len(numbers)]


def _places(site: Any) -> Any:
    """Just the annotations that tell where and what an atom is."""
    structure = require_package("biotite.structure", "from_structure")
    atoms = structure.AtomArray(len(site["Cartn_x"]))
    columns = dict(chain_id="asym_id", res_id="seq_id", res_name="comp_id")
    for name, column in {**columns, "atom_name": "atom_id"}.items():
        found = f"auth_{column}" if f"auth_{column}" in site else f"label_{column}"
        values = site[found].as_array(int if name == "res_id" else str)
        atoms.set_annotation(name, values)
    ins_code = np.char.strip(site["pdbx_PDB_ins_code"].as_array(str, ""))
    atoms.set_annotation("ins_code", ins_code)
    if "label_alt_id" in site:
        atoms.set_annotation("altloc_id", site["label_alt_id"].as_array(str))
    weight = site["occupancy"].as_array(float) if "occupancy" in site else 1.0
    atoms.set_annotation("occupancy", np.full(atoms.array_length(), weight))
    return atoms


def _take(column: Any, rows: Any) -> Any:
    mask = None if column.mask is None else column.mask.array[rows]
    return type(column)(type(column.data)(column.data.array[rows]), mask)
