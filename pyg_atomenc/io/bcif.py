"""BinaryCIF files → `Entry`, with all sizes checked."""

from collections.abc import Collection
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.cif import LONGEST, TABLES, choose_block, entry_of
from pyg_atomenc.io.entry import Entry, Table
from pyg_atomenc.io.limits import Limits
from pyg_atomenc.io.notes import Notes


def read_bcif(content: bytes, limits: Limits, notes: Notes, block: Any) -> Entry:
    """Parse a BinaryCIF file, as :func:`pyg_atomenc.io.cif.read_cif`.

    biotite decodes the arrays, but fills up what is missing with zeros: checked is that
    each has as many values as the file says.
    """
    msgpack = require_package("msgpack", "BinaryCIF")
    found: dict[str, Any] = {}
    for part in msgpack.unpackb(content, use_list=True, raw=False)["dataBlocks"]:
        if part["header"] in found:
            raise AtomEncodingError(f"it has two blocks {part['header']}")
        names = [category["name"].lstrip("_") for category in part["categories"]]
        found[part["header"]] = part["categories"] if "atom_site" in names else None
    tables: Table = {}
    for category in choose_block(found, block, notes):
        name = category["name"].lstrip("_")
        if name not in TABLES:
            continue
        if name in tables:
            raise AtomEncodingError(f"it has {name} more than once")
        rows = _size(category["rowCount"], 16 * limits.atoms)
        if name == "atom_site":
            limits.check(notes.file, "atoms", rows)
        tables[name] = _category(category, TABLES[name], rows)
    return entry_of(tables, notes)


def _category(category: Any, columns: Collection[str], rows: int) -> Table:
    made: Table = {}
    for column in category["columns"]:
        name = column["name"]
        if columns and name not in columns:
            continue
        if name in made:
            raise AtomEncodingError(f"it has the column {name} more than once")
        data, mask = arrays = [
            part and _decode(part["data"], part["encoding"], rows)
            for part in (column["data"], column["mask"])
        ]
        if any(a is not None and a.shape != (rows,) for a in arrays):
            raise AtomEncodingError(f"{name} has not as many values as rows: {rows}")
        if mask is not None and mask.any():
            if not np.isin(mask, (0, 1, 2)).all():
                raise AtomEncodingError(f"the mask of {name} is none")
            # As in a text: '.' for none, '?' for not known.
            nothing = np.array(["", ".", "?"])[mask]
            data = np.where(mask != 0, nothing, data.astype(str))
        made[name] = data
    return made


def _size(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise AtomEncodingError(f"a table or array has the size {value!r}")
    return value


def _decode(data: Any, steps: Any, rows: int) -> NDArray[Any]:
    """Undo the steps of an encoding, the last one first."""
    encodings = require_package("biotite.structure.io.pdbx.encoding", "BinaryCIF")
    for step in reversed(steps):
        kind = step["kind"]
        if kind == "StringArray":
            data = _strings(data, step, rows)
            continue
        if kind == "RunLength":
            lengths = data[1::2]
            whole = len(data) % 2 == 0 and not (lengths < 0).any()
            count = int(lengths.sum(dtype=np.int64)) if whole else -1
        elif kind == "IntegerPacking":
            count = _count_packed(data)
        else:
            count = None
        if count is not None and count != _size(step.get("srcSize"), max(rows, 2**16)):
            raise AtomEncodingError(f"{kind} gives {count} of {step['srcSize']} values")
        data = encodings.deserialize_encoding(step).decode(data)
    return data if data.flags.writeable else data.copy()


def _count_packed(data: NDArray[Any]) -> int:
    """How many numbers packed integers make: an extreme one goes on in the next."""
    info = np.iinfo(data.dtype)
    goes_on = (data == info.max) | ((data == info.min) & (info.min < 0))
    return -1 if len(data) and goes_on[-1] else int((~goes_on).sum())


def _strings(data: Any, step: Any, rows: int) -> NDArray[np.str_]:
    text, index = step["stringData"], _decode(data, step["dataEncoding"], rows)
    ends = _decode(step["offsets"], step["offsetEncoding"], max(rows, len(text)))
    strings = [text[a:b] for a, b in pairwise(ends.tolist())]
    longest = max(map(len, strings), default=0)
    most = max(LONGEST, 2**24 // (rows + 1))
    if sum(map(len, strings)) != len(text) or longest > most:
        raise AtomEncodingError("its texts do not add up, or one is too long")
    if len(index) and not -1 <= index.min() <= index.max() < len(strings):
        raise AtomEncodingError("a text is missing")
    # The index -1 stands for no text.
    return np.array([*strings, ""])[index]
