"""The text of an mmCIF file → biotite's `CIFBlock`, with its table of atoms checked."""

import io
import re
from collections.abc import Collection
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.text import decode

_ATOMS = "\n_atom_site."
# Where biotite sees the next category; comments do not end one.
_NEXT = re.compile(r"\n(?:_|loop_|data_)")
# The head of the archive's files, which close each of their categories with '#'.
_ARCHIVE = re.compile(r"\ndata_\S*\s*\n#\s*\n_entry\.id")


def read_text(content: bytes, columns: Collection[str], most: int) -> Any:
    """Parse an mmCIF file.

    biotite does it, but for the table of atoms where that has one row a line, as all
    programs write it: splitting such lines is faster, and shows if one is not whole.

    Args:
        content (bytes): The file.
        columns (collection): The columns of ``atom_site`` that are needed.
        most (int): The number of atoms from which on none is parsed.

    Returns:
        biotite.structure.io.pdbx.CIFBlock: With ``atom_site``; ``None`` if there are
        more than ``most`` atoms.

    Raises:
        ValueError: If the file has not one block with one table of atoms, or was cut
            short.
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
    if len(lines) > most:
        return None
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
            column: Optional[NDArray[np.str_]] = np.array(values)
            if not {value[0] for value in values}.isdisjoint("'\"#;"):
                column = _unquoted(values)
            if column is None:
                return None
            table[name] = column
    return table


def _unquoted(values: tuple[str, ...]) -> Optional[NDArray[np.str_]]:
    """Values without quotes around them, or ``None`` if those hold blanks."""
    plain = []
    for value in values:
        quote = value[0]
        if quote in "#;":
            return None
        if quote in "'\"":
            if len(value) < 3 or value[-1] != quote:
                return None
            value = value[1:-1]
        plain.append(value)
    return np.array(plain)
