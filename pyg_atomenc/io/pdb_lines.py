"""The lines of a PDB file: whether they are whole, and what they leave blank."""

import re
from collections.abc import Sequence
from functools import lru_cache

from pyg_atomenc.chem.components import component_atoms
from pyg_atomenc.errors import AtomEncodingError

ATOM = ("ATOM", "HETATM")
# Three coordinates; only atoms and the uncertainties of their positions have these.
_COORDINATES = re.compile(r"(?:\s*-?\d+\.\d{3}){3}(?!\d)")
_OTHERS = ("REMARK", "SIGATM", "HETNAM", "TITLE", "COMPND", "USER")
# Where a right-aligned number ends: x, y, z, occupancy, temperature factor, element.
_WITHIN = {*range(54), *range(55, 60), *range(61, 66), 77, 79}


def check_lines(lines: Sequence[str], closed: bool) -> None:
    """Raise a ValueError if a PDB file is not whole.

    Args:
        lines (sequence): Its lines.
        closed (bool): Whether the last one ends with a line break.
    """
    atoms: list[tuple[int, str]] = []
    models, between, ended = 0, False, False
    for number, line in enumerate(lines, start=1):
        if line.startswith(ATOM):
            if ended:
                raise _error(number, "is an atom behind the END of the file")
            if between:
                raise _error(number, "is an atom between two models")
            atoms.append((number, line))
        elif line.startswith("MODEL"):
            if atoms and not models:
                raise _error(number, "starts a model, but there are atoms before it")
            models, between = models + 1, False
        elif line.startswith("ENDMDL"):
            between = True
        elif line.startswith("END"):
            ended = True
        else:
            _check_other(number, line)
    if models and not between and not ended:
        raise AtomEncodingError("its last model has no ENDMDL, so it was cut short")
    if lines[0].startswith("HEADER") and not (ended or models):
        raise AtomEncodingError("it has no END record, so it was cut short")
    _check_count(lines, len(atoms))
    _check_widths(atoms, lines, closed)


def _error(number: int, what: str) -> AtomEncodingError:
    return AtomEncodingError(f"line {number} {what}")


def _check_other(number: int, line: str) -> None:
    if line.lstrip().upper().startswith(ATOM):
        raise _error(number, f"starts with {line[:7]!r}: write 'ATOM' or 'HETATM'")
    # Counting dots is faster, and enough for most lines.
    if (
        line.count(".") > 2
        and not line.startswith(_OTHERS)
        and (_COORDINATES.search(line[20:]))
    ):
        raise _error(number, f"has coordinates, but starts with {line[:6]!r}")


def _check_count(lines: Sequence[str], found: int) -> None:
    for line in lines:
        if line.startswith("MASTER"):
            # It counts one model, and one of alternate locations.
            expected = line[50:55].strip()
            if expected.isdigit() and int(expected) > found:
                raise AtomEncodingError(
                    f"it has {found} atoms, and its MASTER record counts {expected}"
                )


def _check_widths(
    atoms: Sequence[tuple[int, str]], lines: Sequence[str], closed: bool
) -> None:
    widest = max((len(line) for _, line in atoms), default=0)
    for number, line in atoms:
        if len(line) < widest and len(line) in _WITHIN or len(line) < 54:
            raise _error(number, "ends within an atom")
        # Python reads 1_0 as 10.
        if "_" in line[22:26] or "_" in line[30:54]:
            raise _error(number, f"has the numbers {line[22:54]!r}")
        charge = line[78:80].strip()
        if charge.isdigit() and charge != "0":
            raise _error(number, f"has the charge {charge!r} without a sign")
    if atoms and not closed and atoms[-1][1] is lines[-1]:
        longest = max(len(line.rstrip()) for _, line in atoms[-100:])
        if len(lines[-1].rstrip()) < longest and len(lines[-1]) < 78:
            raise _error(len(lines), "ends within an atom")


def fill_blanks(line: str) -> str:
    """An atom's line with the occupancy, temperature factor and element it lacks."""
    if line[54:60].strip() and line[60:66].strip() and line[76:78].strip():
        return line
    line = line.ljust(80)
    occupancy = line[54:60] if line[54:60].strip() else "  1.00"
    factor = line[60:66] if line[60:66].strip() else "  0.00"
    element = line[76:78]
    if not element.strip():
        element = _element(line[12:16], line[17:20].strip()).rjust(2)
    return f"{line[:54]}{occupancy}{factor}{line[66:76]}{element}{line[78:]}"


@lru_cache(maxsize=100_000)
def _element(field: str, residue: str) -> str:
    """The element by the component dictionary, else by where the name stands."""
    names, elements, *_ = component_atoms(residue)
    found = elements[names == field.strip()]
    if len(found):
        return str(found[0])
    # A symbol is right-aligned in the first two columns, but for names of four letters.
    if field[0].isalpha() and (field[3] == " " or field[0] not in "HCNOPS"):
        return field[:2].strip()
    return field.strip().lstrip("0123456789'")[:1]
