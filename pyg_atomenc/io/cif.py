"""mmCIF files, by gemmi, and the tables of mmCIF and BinaryCIF → `Entry`."""

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem import codes
from pyg_atomenc.chem.residues import STANDARD
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
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
    "atom_site chem_comp_bond pdbx_poly_seq_scheme pdbx_struct_assembly_gen "
    "pdbx_struct_oper_list struct_conn"
).split()
# Of these, few values are there twice.
_NUMBERS = (*POSITION, "occupancy")
_NOTHING = (".", "?", "")
_UNTOLD = -(2**40)
_BOND = ("comp_id", "atom_id_1", "atom_id_2")
# Orders and aromatic flags → biotite's BondType; 0 is any.
_KINDS = {
    ("SING", "N"): 1, ("DOUB", "N"): 2, ("TRIP", "N"): 3, ("QUAD", "N"): 4,
    ("SING", "Y"): 5, ("DOUB", "Y"): 6, ("TRIP", "Y"): 7, ("AROM", "Y"): 9,
    ("AROM", "N"): 9,
}  # fmt: skip
_GENERATOR = ("assembly_id", "oper_expression", "asym_id_list")
_MATRIX = [f"matrix[{i}][{j}]" for i in "123" for j in "123"]
_MATRIX += [f"vector[{i}]" for i in "123"]
# How struct_conn names what names an atom.
_PARTNER = {
    "chain_id": ("auth_asym_id", "label_asym_id"), "ins_code": ("PDB_ins_code",),
    "res_id": ("auth_seq_id", "label_seq_id"), "altloc_id": ("label_alt_id",),
    "res_name": ("label_comp_id",), "atom_name": ("label_atom_id",),
    "label_asym_id": ("label_asym_id",),
}  # fmt: skip
# What struct_conn lists that is a bond → its type; 8 is a coordination.
_LINKS = {"covale": 1, "disulf": 1, "metalc": 8, "modres": 1} | {
    f"covale_{part}": 1 for part in ("base", "phosphate", "sugar")
}
# The longest text of a table that may have a row for every atom.
LONGEST = 1024
# The head of the archive's files, which close each of their categories with '#'.
_ARCHIVE = re.compile(rb"data_\S*\s*\n#\s*\n_entry\.id")
_NUMBER = re.compile(r"([+-]?)(\d{1,9})()")
_CHARGE = re.compile(r"([+-]?)(\d{1,9})(?:\.0*)?([+-]?)")
_UNCERTAINTY = re.compile(r"\(\d+\)$")


def read_cif(
    content: bytes, file: Path, limits: Limits, notes: Notes, block: Optional[str]
) -> Entry:
    """Parse an mmCIF file; of several blocks the first with atoms, or the named one.

    Raises:
        ValueError: If the file is damaged, has no atoms, or is over the limit.
    """
    gemmi = require_package("gemmi", "from_structure")
    content = check_text(content)
    document = gemmi.cif.read_string(content)
    found = {
        part.name: part if len(part.find_mmcif_category("_atom_site.")) else None
        for part in document
    }
    chosen = choose_block(found, block, notes)
    if _ARCHIVE.match(content.lstrip()) and content.rstrip()[-1:] != b"#":
        notes.add("the last category is not closed, the file may have been cut short")
    elif content[-1:] != b"\n" and content.split()[-1] + b"\n" not in content:
        # What ends no other line may be half of a value.
        notes.add("the last line has no end, the file may have been cut short")
    tables = {name: chosen.find_mmcif_category(f"_{name}.") for name in TABLES}
    for name, table in tables.items():
        # Other tables may have several rows for each atom.
        limits.check_atoms(file, len(table) // (1 if name == "atom_site" else 16))
    return entry_of(
        {
            name: _columns(
                gemmi.cif, table, ATOM_COLUMNS if name == "atom_site" else ()
            )
            for name, table in tables.items()
            if len(table)
        },
        notes,
    )


def choose_block(found: dict[str, Any], block: Optional[str], notes: Notes) -> Any:
    """Of blocks by name, each ``None`` if it has no atoms, the one to read."""
    if block is not None and block not in found:
        raise FileFormatError(
            f"{notes.file}: 'block' is {block!r}, but its blocks are {[*found]}: pass "
            f"one of these, or None for the first with atoms."
        )
    some = [part for part in found.values() if part is not None]
    chosen = found[block] if block is not None else next(iter(some), None)
    if chosen is None:
        where = "" if block is None else f" in block {block}"
        raise AtomEncodingError(f"it has no atom_site{where}")
    if block is None:
        notes.add("blocks with atoms that are not read", len(some) - 1)
    return chosen


def _columns(cif: Any, table: Any, columns: Collection[str]) -> Table:
    """A category's columns by name, all of them if none is named."""
    tags = [tag.rpartition(".")[2] for tag in table.tags]
    wanted = {name.lower(): name for name in columns or tags}
    found: Table = {}
    for i, tag in enumerate(tags):
        key = wanted.get(tag.lower())
        if key is not None:
            # One after another: all texts of a large table crowd the memory's caches.
            values = list(table.column(i))
            number = key in _NUMBERS
            found[key] = np.array(values, object) if number else _texts(cif, values)
    return found


def _texts(cif: Any, values: list[str]) -> NDArray[np.str_]:
    """Texts without their quotes; NumPy makes few distinct ones much faster."""
    number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    known = [v if v in _NOTHING else cif.as_string(v).strip() for v in number]
    longest = max(map(len, known))
    if longest > max(LONGEST, 2**24 // len(values)):
        raise AtomEncodingError(f"it has a value of {longest:,} characters")
    index = np.fromiter(map(number.__getitem__, values), np.int64, len(values))
    return np.array(known)[index]


def entry_of(tables: Table, notes: Notes) -> Entry:
    """Make an entry of an mmCIF or BinaryCIF file's tables: columns by their names."""
    site = tables["atom_site"]
    for name in POSITION:
        if name not in site:
            raise AtomEncodingError(f"atom_site has no {name}")
    count = len(site["Cartn_x"])
    atoms = _names(site, count, notes)
    atoms["coord"] = np.column_stack([_numbers(site, name) for name in POSITION])
    weight = _numbers(site, "occupancy") if "occupancy" in site else np.ones(count)
    atoms["occupancy"] = np.where(np.isnan(weight), 1.0, weight)
    model = _integers(site, "pdbx_PDB_model_num", np.ones(count, dtype=np.int64))
    model, first = codes.by_first_atom(model)
    if len(first) > 1:
        # The rows of a model need not stand together.
        order = np.argsort(model, kind="stable")
        atoms = {name: column[order] for name, column in atoms.items()}
    ends = np.cumsum(np.bincount(model))
    entry = Entry(atoms, np.concatenate([[0], ends]))
    entry.sequence = tables.get("pdbx_poly_seq_scheme")
    for (name, a, b), kind in _component_bonds(tables.get("chem_comp_bond")):
        entry.component_bonds.setdefault(name, {})[a, b] = kind
    made = _rows(tables.get("pdbx_struct_assembly_gen"), _GENERATOR)
    entry.generators = [(name, how, chains.split(",")) for name, how, chains in made]
    operators = tables.get("pdbx_struct_oper_list") or {}
    for name, *values in _rows(operators, ("id", *_MATRIX)):
        numbers = np.array(values).astype(np.float64)
        entry.operators[name] = numbers[:9].reshape(3, 3), numbers[9:]
    if "label_asym_id" in site:
        entry.chain_column, entry.place = "label_asym_id", (*PLACE, "label_asym_id")
    if "conn_type_id" in tables.get("struct_conn", ()):
        entry.links = _links(tables["struct_conn"], entry.place)
    return entry


def _names(site: Table, count: int, notes: Notes) -> Table:
    """All that names atoms, by the author where the author tells."""
    atoms: Table = {
        name: _told(site, count, f"auth_{column}", f"label_{column}")
        for name, column in (
            ("chain_id", "asym_id"), ("res_name", "comp_id"), ("atom_name", "atom_id")
        )
    }  # fmt: skip
    for name, column in (("res_name", "comp_id"), ("atom_name", "atom_id")):
        if (atoms[name] == "").any():
            row = int((atoms[name] == "").argmax())
            raise AtomEncodingError(f"no label_{column} in row {row} of atom_site")
    standard = codes.among(atoms["res_name"], STANDARD)
    label = _integers(site, "label_seq_id", np.full(count, _UNTOLD))
    # Some programs write the authors' numbers there.
    odd = standard & (label < 1) & (label != _UNTOLD)
    notes.add("atoms whose label_seq_id counts no sequence", odd.sum())
    label = np.where(label == _UNTOLD, 0, label)
    atoms["res_id"] = _integers(site, "auth_seq_id", label)
    marks = {"ins_code": "pdbx_PDB_ins_code", "altloc_id": "label_alt_id"}
    for name, column in marks.items():
        atoms[name] = codes.of_distinct(str.strip, _told(site, count, column))
        if (np.char.str_len(atoms[name]) > 1).any():
            raise AtomEncodingError(f"a value of {column} has several characters")
    if "label_asym_id" in site:
        atoms["label_asym_id"] = _told(site, count, "label_asym_id")
    if "label_seq_id" in site and not odd.any():
        atoms["label_seq_id"] = codes.of_distinct(
            lambda number: str(number) if number > 0 else ".", label
        )
    group = codes.of_distinct(str.upper, _told(site, count, "group_PDB"))
    other = (group != "ATOM") & (group != "HETATM") & (group != "")
    if other.any():
        row = int(other.argmax())
        raise AtomEncodingError(f"group_PDB is {str(group[row])!r} in row {row}")
    atoms["hetero"] = np.where(group == "", ~standard, group == "HETATM")
    symbol = _told(site, count, "type_symbol")
    atoms["element"] = codes.of_distinct(str.upper, symbol)
    atoms["charge"] = _integers(site, "pdbx_formal_charge", 0 * label)
    return atoms


def _component_bonds(table: Optional[Table]) -> Any:
    """Rows of a component and two atoms, each with biotite's type of their bond."""
    rows = list(_rows(table, _BOND))
    if table is None or not rows:
        return ()
    orders = _told(table, len(rows), "value_order", "type").tolist()
    rings = _told(table, len(rows), "pdbx_aromatic_flag", "aromatic").tolist()
    # Some programs write whole words, and no flag.
    return [
        (row, _KINDS.get((order[:4].upper(), ring[:1].upper() or "N"), 0))
        for row, order, ring in zip(rows, orders, rings, strict=True)
    ]


def _told(table: Table, count: int, *names: str) -> NDArray[np.str_]:
    """The first of some columns that tells a text, which is empty where none does."""
    found = None
    for name in names:
        if name in table:
            values = table[name].astype(str, copy=False)
            values = np.where((values == ".") | (values == "?"), "", values)
            found = values if found is None else np.where(found == "", values, found)
    return np.full(count, "") if found is None else found


def _rows(table: Optional[Table], names: Collection[str]) -> Any:
    """Rows of some columns, as texts; none where one of them is missing."""
    if table is None or not set(names) <= set(table):
        return ()
    columns = [table[name].astype(str).tolist() for name in names]
    return zip(*columns, strict=True)


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    """A column of numbers, NaN where there is none; uncertainties are dropped."""
    values = table[name]
    if values.dtype.kind not in "UO":
        return values.astype(np.float64)
    texts = values.tolist()
    # Python reads 1_0 as 10.
    if "_" not in "".join(texts):
        with suppress(ValueError):
            return np.array(list(map(float, texts)))
    found = []
    for row, text in enumerate(texts):
        text = text.strip("'\"")
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
    values = table.get(name)
    if values is not None and values.dtype.kind in "iu":
        return values.astype(np.int64)
    texts = _told(table, len(other), name)
    found = codes.of_distinct(lambda text: _whole(text, name), texts)
    return np.where(texts == "", other, found)


def _whole(text: str, name: str) -> int:
    # Charges may have zeros behind a point, or their sign at the end.
    how = _CHARGE if name == "pdbx_formal_charge" else _NUMBER
    found = how.fullmatch(text or "0")
    if found is None:
        raise AtomEncodingError(f"a value of {name} is no whole number: {text[:20]!r}")
    return int(f"{found[1] or found[3]}{found[2]}")


def _links(table: Table, place: Collection[str]) -> list[Any]:
    """The bonds of ``struct_conn``: their two atoms, and biotite's type."""
    count = len(table["conn_type_id"])
    kinds = [_LINKS.get(kind.lower(), 0) for (kind,) in _rows(table, ["conn_type_id"])]
    ends = []
    for i in "12":
        columns = [
            _told(table, count, *(f"{start}ptnr{i}_{name}" for start in ("", "pdbx_")
                                  for name in _PARTNER[key])).tolist()
            for key in place
        ]  # fmt: skip
        ends.append(list(zip(*columns, strict=True)))
        moved = ~np.isin(_told(table, count, f"ptnr{i}_symmetry"), ("", "1_555"))
        kinds = [0 if m else kind for m, kind in zip(moved, kinds, strict=True)]
    return [link for link in zip(*ends, kinds, strict=True) if link[2]]
