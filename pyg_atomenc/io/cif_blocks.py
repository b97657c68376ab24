"""mmCIF and BinaryCIF files → biotite's blocks, with all sizes checked."""

import io
import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.limits import Limits, decode

_ATOMS = "\n_atom_site."
# Where biotite sees the next category; comments do not end one.
_NEXT = re.compile(r"\n(?:_|loop_|data_)")
# The head of the archive's files, which close each of their categories with '#'.
_ARCHIVE = re.compile(r"\ndata_\S*\s*\n#\s*\n_entry\.id")
# The longest text of a table that may have a row for every atom.
_LONGEST = 1024


def read_text(
    content: bytes, columns: Collection[str], file: Path, limits: Limits
) -> Any:
    """Parse an mmCIF file to biotite's ``CIFBlock`` with the needed atom columns.

    biotite does it, but for the table of atoms where that has one row a line, as all
    programs write it: splitting such lines is faster, and shows if one is not whole. A
    ValueError unless there is one whole block with one table of atoms, within limits.
    """
    pdbx = require_package("biotite.structure.io.pdbx", "from_structure")
    text = "\n" + decode(content)
    _check_parts(text)
    before, *names = text.split(_ATOMS)
    last, _, rest = names.pop().partition("\n")
    end = _NEXT.search("\n" + rest)
    # The break before the next category is the last character of `rows`.
    rows, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    _check_next(after.lstrip("\n").partition("\n")[0])
    lines = [line for line in rows.split("\n") if line.strip() and line[0] != "#"]
    limits.check_atoms(file, len(lines))
    names = [name.strip() for name in (*names, last)]
    before = before.rstrip()
    table = None
    if before.endswith("\nloop_"):
        if not rest.endswith("\n") and not after:
            _check_last_value(lines)
        table = _table(names, lines, columns)
        before = before[: -len("loop_")]
    if table is None:
        return pdbx.CIFFile.read(io.StringIO(text[1:])).block
    block = pdbx.CIFFile.read(io.StringIO(f"{before[1:]}#\n{after}")).block
    block["atom_site"] = pdbx.CIFCategory(table)
    return block


def _check_parts(text: str) -> None:
    folded = text.lower()
    blocks = folded.count("\ndata_")
    if blocks != 1 or "\ndata_" not in text:
        raise AtomEncodingError(f"it has {blocks} blocks that start with 'data_'")
    if _ATOMS not in text:
        raise AtomEncodingError("it has no atom_site")
    start, stop = folded.find(_ATOMS), folded.rfind(_ATOMS)
    header = folded[start:stop].strip().split("\n")
    if any(line.strip() and not line.startswith(_ATOMS[1:]) for line in header):
        raise AtomEncodingError("it has atom_site more than once")
    names = [line.split()[0] for line in (*header, folded[stop + 1 :]) if line.strip()]
    if len(set(names)) < len(names) or folded.count(_ATOMS) != text.count(_ATOMS):
        raise AtomEncodingError("it has a column of atom_site more than once")
    if text.count("\n;") % 2:
        raise AtomEncodingError("it has a text that starts with ';' and never ends")
    if _ARCHIVE.match(text) and text.rstrip().rpartition("\n")[2][:1] != "#":
        raise AtomEncodingError("its last category is not closed, so it was cut short")


def _check_next(line: str) -> None:
    """What ends the table must not be a damaged row of it."""
    first, _, rest = line.partition(" ")
    rest = rest.strip()
    if (first == "loop_" and rest) or (" " in rest and rest[0] not in "'\""):
        raise AtomEncodingError(f"it has {line[:40]!r} behind its atoms")


def _check_last_value(lines: list[str]) -> None:
    """The last value of a file without a last line break may be half of one."""
    values = [line.split()[-1] for line in lines]
    if values and values[-1] not in values[:-1]:
        raise AtomEncodingError(
            f"it ends in {values[-1]!r}, which may be half of a value: end the last "
            f"line with a line break if the file is whole"
        )


def _table(
    names: list[str], lines: list[str], columns: Collection[str]
) -> Optional[dict[str, NDArray[np.str_]]]:
    """Columns by name, or ``None`` if the lines are no plain rows."""
    cells = [line.split() for line in lines]
    if not cells or any(len(row) != len(names) for row in cells):
        return None
    table = {}
    for name, values in zip(names, zip(*cells, strict=True), strict=True):
        if name in columns:
            column = _unquoted(values)
            if column is None:
                return None
            table[name] = column
    return table


def _unquoted(values: tuple[str, ...]) -> Optional[NDArray[np.str_]]:
    """Values without quotes around them, or ``None`` if those hold blanks."""
    if {value[0] for value in values}.isdisjoint("'\"#;"):
        return np.array(values)
    plain = list(values)
    for i, value in enumerate(values):
        if value[0] in "'\"#;":
            if value[0] in "#;" or len(value) < 3 or value[-1] != value[0]:
                return None
            plain[i] = value[1:-1]
    return np.array(plain)


def read_binary(
    content: bytes,
    wanted: Mapping[str, Optional[Collection[str]]],
    file: Path,
    limits: Limits,
) -> Any:
    """Parse a BinaryCIF file to biotite's block of the wanted categories and columns.

    biotite decodes the arrays, one step after another; here is checked that each has
    as many values as the file says, since biotite fills up what is missing with zeros,
    and that other tables have at most 16 rows for each of the atoms that may be there.
    """
    pdbx = require_package("biotite.structure.io.pdbx", "from_structure")
    msgpack = require_package("msgpack", "BinaryCIF")
    blocks = msgpack.unpackb(content, use_list=True, raw=False)["dataBlocks"]
    if len(blocks) != 1:
        raise AtomEncodingError(f"it has {len(blocks)} data blocks")
    found = {}
    for category in blocks[0]["categories"]:
        name = category["name"].lstrip("_")
        if name not in wanted:
            continue
        if name in found:
            raise AtomEncodingError(f"it has {name} more than once")
        rows = _size(category["rowCount"], 16 * limits.atoms)
        if name == "atom_site":
            limits.check_atoms(file, rows)
        found[name] = _category(pdbx, category, wanted[name], rows)
    if "atom_site" not in found:
        raise AtomEncodingError("it has no atom_site")
    return pdbx.BinaryCIFBlock(found)


def _category(pdbx: Any, category: Any, columns: Any, rows: int) -> Any:
    made: dict[str, Any] = {}
    for column in category["columns"]:
        name = column["name"]
        if columns is not None and name not in columns:
            continue
        if name in made:
            raise AtomEncodingError(f"it has the column {name} more than once")
        data = _decode(column["data"]["data"], column["data"]["encoding"], rows)
        mask = column["mask"]
        if mask is not None:
            mask = _decode(mask["data"], mask["encoding"], rows)
            if not np.isin(mask, (0, 1, 2)).all():
                raise AtomEncodingError(f"the mask of {name} is none")
        for array in (data, mask):
            if array is not None and array.shape != (rows,):
                raise AtomEncodingError(f"{name}: {array.size} values for {rows} rows")
        made[name] = pdbx.BinaryCIFColumn(data, mask)
    return pdbx.BinaryCIFCategory(made, rows)


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
    goes_on = data == info.max
    if info.min < 0:
        goes_on |= data == info.min
    return -1 if len(data) and goes_on[-1] else int((~goes_on).sum())


def _strings(data: Any, step: Any, rows: int) -> NDArray[np.str_]:
    text, index = step["stringData"], _decode(data, step["dataEncoding"], rows)
    ends = _decode(step["offsets"], step["offsetEncoding"], max(rows, len(text)))
    strings = [text[a:b] for a, b in pairwise(ends.tolist())]
    longest = max(map(len, strings), default=0)
    most = max(_LONGEST, 2**24 // (rows + 1))
    if sum(map(len, strings)) != len(text) or longest > most:
        raise AtomEncodingError("its texts do not add up, or one is too long")
    if len(index) and not -1 <= index.min() <= index.max() < len(strings):
        raise AtomEncodingError("a text is missing")
    # The index -1 stands for no text.
    return np.array([*strings, ""])[index]
