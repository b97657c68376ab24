"""mmCIF files, by gemmi, and the tables of mmCIF and BinaryCIF → `Entry`."""

import re
from collections.abc import Collection
from typing import Any, Optional

import numpy as np

from pyg_atomenc.checks import check, check_file
from pyg_atomenc.chem import codes
from pyg_atomenc.chem.codes import Array, Floats, Integers, Texts
from pyg_atomenc.chem.residues import STANDARD
from pyg_atomenc.errors import require_package
from pyg_atomenc.io.entry import PLACE, Entry, Table, numbers
from pyg_atomenc.io.limits import Notes, check_text

POSITION = ("Cartn_x", "Cartn_y", "Cartn_z")
# Which tables are read, and of the atoms, which columns; () for all.
TABLES: dict[str, Collection[str]] = {
    "chem_comp_bond": (), "pdbx_poly_seq_scheme": (), "pdbx_struct_assembly_gen": (),
    "pdbx_struct_oper_list": (), "struct_conn": (),
}  # fmt: skip
TABLES["atom_site"] = """Cartn_x Cartn_y Cartn_z label_asym_id label_seq_id auth_seq_id
label_atom_id label_alt_id label_comp_id auth_asym_id auth_comp_id auth_atom_id
group_PDB type_symbol pdbx_PDB_ins_code pdbx_PDB_model_num pdbx_formal_charge
occupancy""".split()
_NOTHING = (".", "?", "")
_UNTOLD = -(2**40)
# Orders → biotite's BondType, which is 4 more for aromatic single to triple bonds.
_KINDS = {"SING": 1, "DOUB": 2, "TRIP": 3, "QUAD": 4, "AROM": 9}
_OPERATOR = ["id", *(f"matrix[{i}][{j}]" for i in "123" for j in "123")]
_OPERATOR += [f"vector[{i}]" for i in "123"]
# How struct_conn names what names an atom.
_PARTNER = {
    "chain_id": ("auth_asym_id", "label_asym_id"), "ins_code": ("PDB_ins_code",),
    "res_id": ("auth_seq_id", "label_seq_id"), "altloc_id": ("label_alt_id",),
    "res_name": ("label_comp_id",), "atom_name": ("label_atom_id",),
    "label_asym_id": ("label_asym_id",),
}  # fmt: skip
# What struct_conn lists that is a bond, as covale_base is → its type; 8 coordinates.
_LINKS = {"covale": 1, "disulf": 1, "metalc": 8, "modres": 1}
LONGEST = 1024  # characters of a text in a table that may have a row for every atom
# The head of the archive's files, which close each of their categories with '#'.
_ARCHIVE = re.compile(rb"data_\S*\s*\n#\s*\n_entry\.id")
_NUMBER = re.compile(r"([+-]?)(\d{1,9})()")
_CHARGE = re.compile(r"([+-]?)(\d{1,9})(?:\.0*)?([+-]?)")


def read_cif(content: bytes, notes: Notes, block: Optional[str]) -> Entry:
    """Parse an mmCIF file; of several blocks the first with atoms, or the named one."""
    cif, content = require_package("gemmi", "from_structure").cif, check_text(content)
    document = cif.read_string(content)
    found = {part.name: part if len(part.find_mmcif_category("_atom_site.")) else None
             for part in document}  # fmt: skip
    chosen = choose_block(found, block, notes)
    if _ARCHIVE.match(content.lstrip()) and content.rstrip()[-1:] != b"#":
        notes.add("the last category is not closed, the file may have been cut short")
    elif content[-1:] != b"\n" and content.split()[-1] + b"\n" not in content:
        # What ends no other line may be half of a value.
        notes.add("the last line has no end, the file may have been cut short")
    tables = {}
    for name in TABLES:
        table = chosen.find_mmcif_category(f"_{name}.")
        # Other tables may have several rows for each atom.
        notes.check_atoms(len(table) // (1 if name == "atom_site" else 16))
        if len(table):
            tags = [tag.rpartition(".")[2].lower() for tag in table.tags]
            wanted = {column.lower(): column for column in TABLES[name] or tags}
            # One after another: all texts of a large table crowd the memory's caches.
            tables[name] = {wanted[t]: _values(cif, list(table.column(i)), wanted[t])
                            for i, t in enumerate(tags) if t in wanted}  # fmt: skip
    return entry_of(tables, notes)


def choose_block(found: dict[str, Any], block: Optional[str], notes: Notes) -> Any:
    """Of blocks by name, each ``None`` if it has no atoms, the one to read."""
    mend = f"but its blocks are {[*found]}: pass one, or None."
    check_file(notes.file, block in (None, *found), f"'block' is {block!r}, {mend}")
    some = [p for name, p in found.items() if p is not None and block in (None, name)]
    where = "" if block is None else f" in block {block}"
    check(some, f"it has no atom_site{where}")
    notes.add("blocks with atoms that are not read", len(some) - 1)
    return some[0]


def _values(cif: Any, values: list[str], name: str) -> Array:
    """Texts without their quotes; NumPy makes few distinct ones much faster."""
    if name in POSITION or name == "occupancy":
        return np.array(values, object)
    number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    known = [v if v in _NOTHING else cif.as_string(v).strip() for v in number]
    longest = max(map(len, known))
    fits = longest <= max(LONGEST, 2**24 // len(values))
    check(fits, f"it has a value of {longest:,} characters")
    index = np.fromiter(map(number.__getitem__, values), np.int64, len(values))
    return np.array(known)[index]


def entry_of(tables: Table, notes: Notes) -> Entry:
    """Make an entry of an mmCIF or BinaryCIF file's tables: columns by their names."""
    site = tables["atom_site"]
    for name in POSITION:
        check(name in site, f"atom_site has no {name}")
    count = len(site["Cartn_x"])
    check(count, "atom_site has no rows")
    atoms = _names(site, count, notes)
    atoms["coord"] = np.column_stack([_numbers(site, name) for name in POSITION])
    weight = _numbers(site, "occupancy") if "occupancy" in site else np.ones(count)
    atoms["occupancy"] = np.nan_to_num(weight, nan=1.0)
    ones = np.ones(count, dtype=np.int64)
    model, first = codes.by_first_atom(_integers(site, "pdbx_PDB_model_num", ones))
    if len(first) > 1:
        # The rows of a model need not stand together.
        order = np.argsort(model, kind="stable")
        atoms = {name: column[order] for name, column in atoms.items()}
    entry = Entry(atoms, np.cumsum([0, *np.bincount(model)]))
    entry.sequence = tables.get("pdbx_poly_seq_scheme")
    bonds = tables.get("chem_comp_bond", {})
    ends = _rows(bonds, ("comp_id", "atom_id_1", "atom_id_2"))
    orders = _told(bonds, len(ends), "value_order", "type").tolist()
    rings = _told(bonds, len(ends), "pdbx_aromatic_flag", "aromatic").tolist()
    for (name, a, b), order, ring in zip(ends, orders, rings, strict=True):
        # Some programs write whole words, and no flag.
        kind = _KINDS.get(order[:4].upper(), 0)
        kind += 4 if kind in (1, 2, 3) and ring[:1] in ("Y", "y") else 0
        entry.component_bonds.setdefault(name, {})[a, b] = kind
    made = tables.get("pdbx_struct_assembly_gen", {})
    rows = _rows(made, ("assembly_id", "oper_expression", "asym_id_list"))
    entry.generators = [(name, how, chains.split(",")) for name, how, chains in rows]
    for name, *values in _rows(tables.get("pdbx_struct_oper_list", {}), _OPERATOR):
        matrix = np.array(values).astype(np.float64)
        entry.operators[name] = matrix[:9].reshape(3, 3), matrix[9:]
    if "conn_type_id" in tables.get("struct_conn", ()):
        entry.links = _links(tables["struct_conn"], [n for n in PLACE if n in atoms])
    return entry


def _names(site: Table, count: int, notes: Notes) -> Table:
    """All that names atoms, by the author where the author tells."""
    atoms: Table = {"chain_id": _told(site, count, "auth_asym_id", "label_asym_id")}
    for name, column in (("res_name", "comp_id"), ("atom_name", "atom_id")):
        atoms[name] = _told(site, count, f"auth_{column}", f"label_{column}")
        row = int((atoms[name] == "").argmax())
        check(atoms[name][row] != "", f"no label_{column} in row {row} of atom_site")
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
        fits = (np.char.str_len(atoms[name]) <= 1).all()
        check(fits, f"a value of {column} has several characters")
    if "label_asym_id" in site:
        atoms["label_asym_id"] = _told(site, count, "label_asym_id")
    if "label_seq_id" in site and not odd.any():
        number = codes.of_distinct(lambda n: str(n) if n > 0 else ".", label)
        atoms["label_seq_id"] = number
    group = codes.of_distinct(str.upper, _told(site, count, "group_PDB"))
    other = (group != "ATOM") & (group != "HETATM") & (group != "")
    row = int(other.argmax())
    check(not other[row], f"group_PDB is {str(group[row])!r} in row {row}")
    atoms["hetero"] = np.where(group == "", ~standard, group == "HETATM")
    atoms["element"] = codes.of_distinct(str.upper, _told(site, count, "type_symbol"))
    atoms["charge"] = _integers(site, "pdbx_formal_charge", 0 * label)
    return atoms


def _told(table: Table, count: int, *names: str) -> Texts:
    """The first of some columns that tells a text, which is empty where none does."""
    found = None
    for name in names:
        if name in table:
            values = table[name].astype(str, copy=False)
            values = np.where((values == ".") | (values == "?"), "", values)
            found = values if found is None else np.where(found == "", values, found)
    return np.full(count, "") if found is None else found


def _rows(table: Table, names: Collection[str]) -> list[Any]:
    """Rows of some columns, as texts; none where one of them is missing."""
    if not set(names) <= set(table):
        return []
    return list(zip(*(table[name].astype(str).tolist() for name in names), strict=True))


def _numbers(table: Table, name: str) -> Floats:
    """A column of numbers, NaN where there is none."""
    if (values := table[name]).dtype.kind not in "UO":
        return values.astype(np.float64)
    texts = [text.strip("'\"") for text in values.tolist()]
    return numbers(texts, _NOTHING, lambda row: f"row {row} of {name}")


def _integers(table: Table, name: str, other: Any) -> Integers:
    """A column of whole numbers ``[A]``, with others where there is none."""
    values = table.get(name)
    if values is not None and values.dtype.kind in "iu":
        return values.astype(np.int64)
    # Charges may have zeros behind a point, or their sign at the end.
    pattern = _CHARGE if name == "pdbx_formal_charge" else _NUMBER

    def whole(text: str) -> int:
        found: Any = pattern.fullmatch(text or "0")
        check(found, f"a value of {name} is no whole number: {text[:20]!r}")
        return int(f"{found[1] or found[3]}{found[2]}")

    texts = _told(table, len(other), name)
    return np.where(texts == "", other, codes.of_distinct(whole, texts))


def _links(table: Table, place: Collection[str]) -> list[Any]:
    """The bonds of ``struct_conn``: their two atoms, and biotite's type."""
    count, ends, moves = len(table["conn_type_id"]), [], []
    kinds = [k.lower().partition("_")[0] for k in _told(table, count, "conn_type_id")]
    for i in "12":
        columns = []
        for key in place:
            names = [f"{p}ptnr{i}_{n}" for p in ("", "pdbx_") for n in _PARTNER[key]]
            columns.append(_told(table, count, *names).tolist())
        ends.append(list(zip(*columns, strict=True)))
        moves.append(_told(table, count, f"ptnr{i}_symmetry"))
    here: Any = np.isin(moves, ("", "1_555")).all(axis=0)
    return [(one, other, _LINKS[kind])
            for one, other, kind, near in zip(*ends, kinds, here, strict=True)
            if near and kind in _LINKS]  # fmt: skip
