"""BinaryCIF files → `Entry`, with all sizes checked."""

from collections.abc import Collection
from itertools import pairwise
from typing import Any, Optional

import numpy as np

from pyg_atomenc.checks import check
from pyg_atomenc.chem.codes import Array, Texts
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.cif import LONGEST, TABLES, choose_block, entry_of
from pyg_atomenc.io.entry import Entry, Table
from pyg_atomenc.io.limits import Notes


def read_bcif(content: bytes, notes: Notes, block: Optional[str]) -> Entry:
    """Parse a BinaryCIF file, as :func:`pyg_atomenc.io.cif.read_cif`."""
    msgpack = require_package("msgpack", "BinaryCIF")
    found: dict[str, Any] = {}
    for part in msgpack.unpackb(content, use_list=True, raw=False)["dataBlocks"]:
        check(part["header"] not in found, f"it has two blocks {part['header']}")
        names = [category["name"].lstrip("_") for category in part["categories"]]
        found[part["header"]] = part["categories"] if "atom_site" in names else None
    tables: Table = {}
    for category in choose_block(found, block, notes):
        if (name := category["name"].lstrip("_")) not in TABLES:
            continue
        check(name not in tables, f"it has {name} more than once")
        rows = _size(category["rowCount"], 16 * notes.limits.atoms)
        if name == "atom_site":
            notes.check_atoms(rows)
        tables[name] = _category(category, TABLES[name], rows)
    return entry_of(tables, notes)


def _category(category: Any, columns: Collection[str], rows: int) -> Table:
    made: Table = {}
    for item in [c for c in category["columns"] if not columns or c["name"] in columns]:
        name = item["name"]
        check(name not in made, f"it has the column {name} more than once")
        parts = (item["data"], item["mask"])
        data, mask = (p and _decode(p["data"], p["encoding"], rows) for p in parts)
        fits = all(a is None or a.shape == (rows,) for a in (data, mask))
        check(fits, f"{name} has not as many values as rows: {rows}")
        if mask is not None and mask.any():
            check(np.isin(mask, (0, 1, 2)).all(), f"the mask of {name} is none")
            # As in a text: '.' for none, '?' for not known.
            data = np.where(mask != 0, np.array(["", ".", "?"])[mask], data.astype(str))
        made[name] = data
    return made


def _size(value: Any, most: int) -> int:
    """A size of the file, checked: biotite fills up what is missing with zeros."""
    fits = type(value) is int and 0 <= value <= most
    check(fits, f"a table or array has the size {value!r}")
    return value


def _decode(data: Any, steps: Any, rows: int) -> Array:
    """Undo the steps of an encoding, the last one first."""
    encodings = require_package("biotite.structure.io.pdbx.encoding", "BinaryCIF")
    for step in reversed(steps):
        if (kind := step["kind"]) == "StringArray":
            data = _strings(data, step, rows)
            continue
        count = None
        if kind == "RunLength":
            lengths = data[1::2]
            whole = len(data) % 2 == 0 and not (lengths < 0).any()
            count = int(lengths.sum(dtype=np.int64)) if whole else -1
        elif kind == "IntegerPacking":
            # An extreme number goes on in the next one.
            info = np.iinfo(data.dtype)
            goes_on = (data == info.max) | ((data == info.min) & (info.min < 0))
            count = -1 if goes_on[-1:].any() else int((~goes_on).sum())
        if count is not None and count != _size(step.get("srcSize"), max(rows, 2**16)):
            raise AtomEncodingError(f"{kind} gives {count} of {step['srcSize']} values")
        data = encodings.deserialize_encoding(step).decode(data)
    return data if data.flags.writeable else data.copy()


def _strings(data: Any, step: Any, rows: int) -> Texts:
    text, index = step["stringData"], _decode(data, step["dataEncoding"], rows)
    ends = _decode(step["offsets"], step["offsetEncoding"], max(rows, len(text)))
    strings = [text[a:b] for a, b in pairwise(ends.tolist())]
    sizes, most = list(map(len, strings)), max(LONGEST, 2**24 // (rows + 1))
    fits = sum(sizes) == len(text) and max(sizes, default=0) <= most
    check(fits, "its texts do not add up, or one is too long")
    known = not len(index) or -1 <= index.min() <= index.max() < len(strings)
    check(known, "a text is missing")
    # The index -1 stands for no text.
    return np.array([*strings, ""])[index]
