"""mmCIF files, by gemmi, and the tables of mmCIF and BinaryCIF → `Entry`."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem import codes
from pyg_atomenc.chem.residues import STANDARD
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.entry import PLACE, Entry, Table
from pyg_atomenc.io.limits import Limits, check_text
from pyg_atomenc.io.notes import Notes

POSITION = ("Cartn_x", "Cartn_y", "Cartn_z")
# What is read of the atoms, and which tables beside them.
ATOM_COLUMNS = {
    *POSITION, "label_asym_id", "label_seq_id", "group_PDB", "type_symbol",
    "label_atom_id", "label_alt_id", "label_comp_id", "auth_asym_id", "auth_seq_id",
    "auth_comp_id", "auth_atom_id", "pdbx_PDB_ins_code", "pdbx_PDB_model_num",
    "pdbx_formal_charge", "occupancy",
}  # fmt: skip
TABLES = (
    "chem_comp_bond pdbx_poly_seq_scheme pdbx_struct_assembly_gen "
    "pdbx_struct_oper_list struct_conn"
).split()
# Of these, few values are there twice.
_NUMBERS = (*POSITION, "occupancy")
_NOTHING = (".", "?", "")
_BOND = ("comp_id", "atom_id_1", "atom_id_2", "value_order", "pdbx_aromatic_flag")
# Orders and aromatic flags → biotite's BondType; 0 is any.
_KINDS = {
    ("SING", "N"): 1, ("DOUB", "N"): 2, ("TRIP", "N"): 3, ("QUAD", "N"): 4,
    ("SING", "Y"): 5, ("DOUB", "Y"): 6, ("TRIP", "Y"): 7, ("AROM", "Y"): 9,
}  # fmt: skip
# What struct_conn lists that is a bond → its type; 8 is a coordination.
_LINKS = {"covale": 1, "disulf": 1, "metalc": 8, "modres": 1} | {
    f"covale_{part}": 1 for part in ("base", "phosphate", "sugar")
}
# The longest text of a table that may have a row for every atom.
_LONGEST = 1024
# The head of the archive's files, which close each of their categories with '#'.
_ARCHIVE = re.compile(rb"data_\S*\s*\n#\s*\n_entry\.id")
_UNCERTAINTY = re.compile(r"\(\d+\)$")


def read_cif(
    content: bytes, file: Path, limits: Limits, notes: Notes, block: Optional[str]
) -> Entry:
    """Parse an mmCIF file.

    Args:
        content (bytes): The file.
        file (pathlib.Path): Its name, for messages.
        limits (Limits): Of which the number of atoms is checked.
        notes (Notes): Keeps what was assumed.
        block (str, optional): The name of the data block. (default: the first that has
            atoms)

    Returns:
        Entry: All of the file.

    Raises:
        ValueError: If the file is damaged, has no atoms, or is over the limit.
    """
    gemmi = require_package("gemmi", "from_structure")
    content = check_text(content)
    document = gemmi.cif.read_string(content)
    names = [found.name for found in document]
    if block is not None and block not in names:
        raise AtomEncodingError(f"'block' is {block!r}, but its blocks are {names}")
    if block is not None:
        document = [document[names.index(block)]]
    some = [b for b in document if len(b.find_mmcif_category("_atom_site."))]
    if not some:
        raise AtomEncodingError("it has no atom_site")
    if len(some) > 1:
        notes.add("blocks with atoms that are not read", len(some) - 1)
    if _ARCHIVE.match(content.lstrip()) and content.rstrip()[-1:] != b"#":
        notes.add("the last category is not closed, the file may have been cut short")
    elif content[-1:] != b"\n" and content.split()[-1] + b"\n" not in content:
        # What ends no other line may be half of a value.
        notes.add("the last line has no end, the file may have been cut short")
    tables = {name: _table(gemmi.cif, some[0], name, limits, file) for name in TABLES}
    site = _table(gemmi.cif, some[0], "atom_site", limits, file, ATOM_COLUMNS)
    return entry_of({**tables, "atom_site": site}, notes)


def _table(
    cif: Any,
    block: Any,
    name: str,
    limits: Limits,
    file: Path,
    columns: Optional[Collection[str]] = None,
) -> Table:
    """A category's columns by name, as texts; none of one that is not there."""
    table = block.find_mmcif_category(f"_{name}.")
    if len(table) == 0:
        return {}
    tags = [tag.rpartition(".")[2] for tag in table.tags]
    limits.check_atoms(file, len(table) if columns else len(table) // 16)
    values = table.loop.values if table.loop is not None else list(table[0])
    wanted = {name.lower(): name for name in columns or ()}
    found: Table = {}
    for i, tag in enumerate(tags):
        key = wanted.get(tag.lower()) if columns else tag
        if key in _NUMBERS:
            found[key] = np.array(values[i :: len(tags)], dtype=object)
        elif key is not None:
            found[key] = _texts(cif, values[i :: len(tags)])
    return found


def _texts(cif: Any, values: list[str]) -> NDArray[np.str_]:
    """Texts without their quotes; NumPy makes few distinct ones much faster."""
    number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    known = [v if v in _NOTHING else cif.as_string(v) for v in number]
    longest = max(map(len, known))
    if longest > max(_LONGEST, 2**24 // len(values)):
        raise AtomEncodingError(f"it has a value of {longest:,} characters")
    index = np.fromiter(map(number.__getitem__, values), np.int64, len(values))
    return np.array(known)[index]


def entry_of(tables: Table, notes: Notes) -> Entry:
    """Make an entry of the tables of an mmCIF or BinaryCIF file.

    Args:
        tables (dict): Category → its columns by name, ``atom_site`` among them; texts,
            or of BinaryCIF numbers, too.
        notes (Notes): Keeps what was assumed.

    Raises:
        ValueError: If a value cannot be.
    """
    site = tables["atom_site"]
    for name in POSITION:
        if name not in site:
            raise AtomEncodingError(f"atom_site has no {name}")
    count = len(site["Cartn_x"])
    atoms: Table = _names(site, count, notes)
    atoms["coord"] = np.column_stack([_numbers(site, name) for name in POSITION])
    weight = _numbers(site, "occupancy") if "occupancy" in site else np.ones(count)
    atoms["occupancy"] = np.where(np.isnan(weight), 1.0, weight)
    model = _integers(site, "pdbx_PDB_model_num", np.ones(count, dtype=np.int64))
    starts = np.flatnonzero(np.diff(model, prepend=model[:1] - 1))
    if len(starts) > len(np.unique(model)):
        raise AtomEncodingError("the rows of a model do not stand together")
    entry = Entry(atoms, np.append(starts, count))
    _read_links(entry, tables.get("struct_conn") or {})
    bonds = tables.get("chem_comp_bond") or {}
    if set(_BOND) <= set(bonds):
        for name, a, b, order, aromatic in _rows(bonds, _BOND):
            kind = _KINDS.get((order.upper(), aromatic.upper()), 0)
            entry.component_bonds.setdefault(name, {})[a, b] = kind
    _read_assemblies(entry, tables)
    entry.sequence = tables.get("pdbx_poly_seq_scheme") or None
    return entry


def _names(site: Table, count: int, notes: Notes) -> Table:
    """All that names atoms, by the author where the author tells."""
    atoms: Table = {}
    for name, column in {
        "chain_id": "asym_id", "res_name": "comp_id", "atom_name": "atom_id"
    }.items():  # fmt: skip
        found = [_told(site[key]) for key in (f"auth_{column}", f"label_{column}")
                 if key in site]  # fmt: skip
        if not found:
            if name != "chain_id":
                raise AtomEncodingError(f"atom_site has no label_{column}")
            notes.add("atoms without a chain", count)
            found = [np.full(count, "")]
        atoms[name] = np.where(found[0] == "", found[-1], found[0])
        if name != "chain_id" and (atoms[name] == "").any():
            row = int((atoms[name] == "").argmax())
            raise AtomEncodingError(f"no label_{column} in row {row} of atom_site")
    label = _integers(site, "label_seq_id", np.zeros(count, dtype=np.int64))
    atoms["res_id"] = _integers(site, "auth_seq_id", label)
    marks = {"ins_code": "pdbx_PDB_ins_code", "altloc_id": "label_alt_id"}
    for name, column in marks.items():
        values = _told(site[column]) if column in site else np.full(count, "")
        atoms[name] = codes.of_distinct(str.strip, values)
        if (np.char.str_len(atoms[name]) > 1).any():
            raise AtomEncodingError(f"a value of {column} has several characters")
    if "label_asym_id" in site:
        atoms["label_asym_id"] = _text(site["label_asym_id"])
    if "label_seq_id" in site and label.any():
        atoms["label_seq_id"] = np.where(label > 0, label.astype(str), ".")
    elif "label_seq_id" in site:
        atoms["label_seq_id"] = np.full(count, ".")
    if "group_PDB" in site:
        group = codes.of_distinct(str.upper, _text(site["group_PDB"]))
        other = (group != "ATOM") & (group != "HETATM")
        if other.any():
            row = int(other.argmax())
            raise AtomEncodingError(f"group_PDB is {str(group[row])!r} in row {row}")
        atoms["hetero"] = group == "HETATM"
    else:
        atoms["hetero"] = ~np.isin(atoms["res_name"], STANDARD)
    symbol = _told(site["type_symbol"]) if "type_symbol" in site else np.full(count, "")
    atoms["element"] = codes.of_distinct(str.upper, symbol)
    atoms["charge"] = _integers(site, "pdbx_formal_charge", 0 * label)
    return atoms


def _text(values: NDArray[Any]) -> NDArray[np.str_]:
    return values if values.dtype.kind == "U" else values.astype(str)


def _told(values: NDArray[Any]) -> NDArray[np.str_]:
    """Texts, empty where there is none."""
    values = _text(values)
    return np.where((values == ".") | (values == "?"), "", values)


def _rows(table: Table, names: Collection[str]) -> Any:
    columns = [_text(table[name]).tolist() for name in names]
    return zip(*columns, strict=True)


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    """A column of numbers, NaN where there is none; uncertainties are dropped."""
    values = table[name]
    if values.dtype.kind not in "UO":
        return values.astype(np.float64)
    texts = values.tolist()
    try:
        found = list(map(float, texts))
        # Python reads 1_0 as 10.
        if "_" not in "".join(texts):
            return np.array(found)
    except ValueError:
        pass
    found = []
    for row, text in enumerate(texts):
        text = "nan" if text in _NOTHING else _UNCERTAINTY.sub("", text)
        try:
            found.append(float(text if "_" not in text else "_"))
        except ValueError:
            raise AtomEncodingError(
                f"{name} is {texts[row][:20]!r} in row {row} of atom_site"
            ) from None
    return np.array(found)


def _integers(table: Table, name: str, other: Any) -> NDArray[np.int64]:
    """A column of whole numbers ``[A]``, with others where there is none."""
    if name not in table:
        return other
    texts, which = codes.distinct(_told(table[name]))
    told = texts != ""
    if not np.char.isdigit(np.char.lstrip(texts[told], "+-")).all():
        raise AtomEncodingError(f"a value of {name} is no whole number")
    found = np.where(told, texts, "0").astype(np.float64)
    if (np.abs(found) > 2**31).any():
        raise AtomEncodingError(f"a value of {name} is too large")
    return np.where(told[which], found.astype(np.int64)[which], other)


def _read_links(entry: Entry, table: Table) -> None:
    """The bonds of ``struct_conn``, whose atoms are named like those of the table."""
    if "conn_type_id" not in table:
        return
    columns = {
        "chain_id": "auth_asym_id", "res_id": "auth_seq_id",
        "ins_code": "PDB_ins_code", "res_name": "label_comp_id",
        "atom_name": "label_atom_id", "altloc_id": "label_alt_id",
        "label_asym_id": "label_asym_id",
    }  # fmt: skip
    place = (*PLACE, "label_asym_id") if "label_asym_id" in entry.atoms else PLACE
    ends = []
    for i in "12":
        end = []
        for name in place:
            options = (f"ptnr{i}_{columns[name]}", f"pdbx_ptnr{i}_{columns[name]}",
                       f"ptnr{i}_{columns[name].replace('auth', 'label')}")  # fmt: skip
            values = next((table[key] for key in options if key in table), None)
            if values is None and name not in ("ins_code", "altloc_id"):
                return
            count = len(table["conn_type_id"])
            end.append(["?"] * count if values is None else _text(values).tolist())
        ends.append([tuple("" if v in _NOTHING else v for v in row)
                     for row in zip(*end, strict=True)])  # fmt: skip
    same = np.ones(len(ends[0]), dtype=bool)
    for i in "12":
        if f"ptnr{i}_symmetry" in table:
            same &= np.isin(_told(table[f"ptnr{i}_symmetry"]), ("", "1_555"))
    kinds = [
        _LINKS.get(kind.lower(), 0) for kind in _text(table["conn_type_id"]).tolist()
    ]
    entry.place = place
    entry.links = [
        (one, other, kind)
        for one, other, kind, near in zip(*ends, kinds, same.tolist(), strict=True)
        if kind
        and near
        and one[1].lstrip("-").isdigit()
        and other[1].lstrip("-").isdigit()
    ]


def _read_assemblies(entry: Entry, tables: Table) -> None:
    made, how = (tables.get(f"pdbx_struct_{name}") or {}
                 for name in ("assembly_gen", "oper_list"))  # fmt: skip
    generator = ("assembly_id", "oper_expression", "asym_id_list")
    if set(generator) <= set(made):
        entry.generators = [
            (name, expression, chains.split(","))
            for name, expression, chains in _rows(made, generator)
        ]
    if "label_asym_id" in entry.atoms:
        entry.chain_column = "label_asym_id"
    names = [f"matrix[{i}][{j}]" for i in "123" for j in "123"]
    names += [f"vector[{i}]" for i in "123"]
    if {"id", *names} <= set(how):
        values = np.column_stack([_numbers(how, name) for name in names])
        for name, row in zip(_text(how["id"]).tolist(), values, strict=True):
            entry.operators[name] = row[:9].reshape(3, 3), row[9:]
