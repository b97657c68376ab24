"""A BinaryCIF file → biotite's `BinaryCIFBlock`, with all sizes checked."""

from collections.abc import Collection, Mapping
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import AtomEncodingError, require_package

# The longest text of a table that may have a row for every atom.
_LONGEST = 1024


def read_binary(
    content: bytes, wanted: Mapping[str, Optional[Collection[str]]], most: int
) -> Any:
    """Parse a BinaryCIF file.

    biotite decodes the arrays, one step after another; here is checked that each has
    as many values as the file says, since biotite fills up what is missing with zeros.

    Args:
        content (bytes): The file.
        wanted (mapping): Category → its columns, or ``None`` for all.
        most (int): The most atoms; other tables, which may have several rows for each,
            may have 16 times as many.

    Returns:
        biotite.structure.io.pdbx.BinaryCIFBlock: The wanted categories; ``None`` if
        there are more than ``most`` atoms.

    Raises:
        ValueError: If sizes do not fit, or there is not one block with ``atom_site``.
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
        rows = _size(category["rowCount"], 16 * most)
        if name == "atom_site" and rows > most:
            return None
        found[name] = _category(pdbx, category, wanted[name], rows)
    if "atom_site" not in found:
        raise AtomEncodingError("it has no atom_site")
    return pdbx.BinaryCIFBlock(found)


def _category(
    pdbx: Any, category: Any, columns: Optional[Collection[str]], rows: int
) -> Any:
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
                raise AtomEncodingError(
                    f"{name} has {array.size} values for {rows} rows"
                )
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
    ends = _decode(
        step["offsets"], step["offsetEncoding"], max(rows, len(text))
    ).tolist()
    strings = [text[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
    if sum(map(len, strings)) != len(text) or max(map(len, strings), default=0) > max(
        _LONGEST, 2**24 // (rows + 1)
    ):
        raise AtomEncodingError("its texts do not add up, or one is too long")
    if len(index) and not -1 <= index.min() <= index.max() < len(strings):
        raise AtomEncodingError("a text is missing")
    # The index -1 stands for no text.
    return np.array([*strings, ""])[index]
