"""PDB files → `Entry`: atoms by their columns, what links and copies them by gemmi.

gemmi's atoms are not taken: it joins residues of one number, reads what is no number as
0, drops what is behind an END, and takes POT for polonium.
"""

import re
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.checks import check
from pyg_atomenc.chem import codes
from pyg_atomenc.chem.codes import Floats, Integers, Texts
from pyg_atomenc.chem.components import component_atoms
from pyg_atomenc.chem.names import FOUR_LETTERS, LIPIDS
from pyg_atomenc.chem.residues import STANDARD, split_repeats
from pyg_atomenc.errors import require_package
from pyg_atomenc.io.entry import Entry, Table, numbers
from pyg_atomenc.io.limits import Notes, check_text

Letters = NDArray[np.uint8]
_ATOM = (b"ATOM", b"HETATM")
# What gemmi reads.
_HEADER = (b"SSBOND", b"LINK", b"CONECT", b"REMARK 350")
# Three coordinates; only atoms and the uncertainties of their positions have these.
_COORDINATES = re.compile(rb"(?:\s*-?\d+\.\d{3}){3}(?!\d)")
_OTHERS = (b"REMARK", b"SIGATM", b"HETNAM", b"TITLE", b"COMPND", b"USER")
# In place of a whole number that is none, and of one that did not fit its columns.
_BAD, _STARS = 2**62, 2**61
_CUT = "the file may have been cut short"


def read_pdb(content: bytes, notes: Notes, block: None = None) -> Entry:
    """Parse a PDB file, which has no blocks."""
    content = check_text(content)
    notes.check_atoms(content.count(b"\nATOM") + content.count(b"\nHETATM"))
    lines = content.split(b"\n")
    numbers = [i for i, line in enumerate(lines) if line.startswith(_ATOM)]
    check(numbers, "it has no atoms")
    rows = [lines[i] for i in numbers]
    for i in numbers:
        check(len(lines[i]) >= 54, f"line {i + 1} ends within an atom")
    letters = np.array(rows, dtype="S80").view(np.uint8).reshape(len(rows), 80)
    letters[letters == 0] = 32
    row = int(letters.max(axis=1).argmax())
    check(letters[row].max() < 128, f"line {numbers[row] + 1} has letters beyond ASCII")
    others = [line for line in lines if not line.startswith(_ATOM)]
    odd = [line for line in others if not line.startswith(_OTHERS)]
    count = sum(_COORDINATES.search(line, 20) is not None for line in odd)
    notes.add("lines with coordinates that are no atoms", count)
    header = b"\n".join(line for line in others if line.startswith(_HEADER))
    atoms = _columns(letters, numbers, notes)
    starts, segment = _parts(lines, numbers, atoms, notes)
    atoms["segment"] = codes.join(segment, codes.code(_texts(letters, 72, 76)))
    entry = Entry(atoms, np.append(starts, len(rows)))
    if header:
        _read_header(entry, header, letters, notes)
    return entry


def _field(letters: Letters, start: int, stop: int) -> NDArray[np.bytes_]:
    return np.ascontiguousarray(letters[:, start:stop]).view(f"S{stop - start}")[:, 0]


def _texts(letters: Letters, start: int, stop: int) -> Texts:
    values, which = np.unique(_field(letters, start, stop), return_inverse=True)
    return np.char.strip(values.astype(str))[which]


def _columns(letters: Letters, lines: list[int], notes: Notes) -> Table:
    atoms: Table = {"hetero": letters[:, 0] == ord("H")}
    spans = {"atom_name": (12, 16), "altloc_id": (16, 17), "ins_code": (26, 27)}
    atoms |= {name: _texts(letters, *span) for name, span in spans.items()}
    name, chain = _texts(letters, 17, 20), _texts(letters, 20, 22)
    if (letters[:, 20] != 32).any():
        # A known name of four letters, else a chain of two.
        four = _texts(letters, 17, 21)
        known = codes.among(four, FOUR_LETTERS)
        # HISA in chain B may well be HIS in chain AB, if that has other residues.
        place = codes.code(chain)
        alone = (np.bincount(place, ~known) == 0)[place] | (letters[:, 21] == 32)
        known &= alone | ~codes.among(name, STANDARD)
        for lipid in LIPIDS & {*four[known].tolist()}:
            # PLPC in chain A may be PLP, a cofactor, in chain CA.
            rows = known & (four == lipid)
            of_short = component_atoms(lipid[:3])[0].tolist()
            known[rows] = not {*atoms["atom_name"][rows].tolist()}.issubset(of_short)
        name = np.where(known, four, name)
        chain = np.where(known, _texts(letters, 21, 22), chain)
    atoms["res_name"], atoms["chain_id"] = name, chain
    position = [_numbers(letters[:, i : i + 8], lines, ()) for i in (30, 38, 46)]
    atoms["coord"] = np.column_stack(position)
    weight = _numbers(letters[:, 54:60], lines, ("",))
    atoms["occupancy"] = np.nan_to_num(weight, nan=1.0)
    element = np.char.upper(_texts(letters, 76, 78))
    charge = codes.of_distinct(_charge, _texts(letters, 78, 80))
    # Old files number their lines there.
    there = np.char.isalpha(element)
    atoms["element"] = np.where(there, element, "")
    atoms["charge"] = np.where(there | (element == ""), charge, 0)
    notes.add("charges that are no number read as 0", (atoms["charge"] == _BAD).sum())
    atoms["charge"][atoms["charge"] == _BAD] = 0
    number = codes.of_distinct(lambda text: _hybrid36(text, 4), _texts(letters, 22, 26))
    row, what = int((number == _BAD).argmax()), "has a residue number that is none"
    check(number[row] != _BAD, f"line {lines[row] + 1} {what}")
    blank = (letters[:, 22:26] == 32).all(axis=1)
    notes.add("atoms without a residue number", blank.sum())
    if (unknown := number == _STARS).any():
        notes.add("atoms whose residue number did not fit its columns", unknown.sum())
        place = codes.join(*(codes.code(v) for v in (name, chain, number)))
        run = np.cumsum(np.diff(place, prepend=place[:1]) != 0)
        run = split_repeats(run, codes.code(atoms["atom_name"]))
        number[unknown] = 10_000 + codes.code(run[unknown])
    atoms["res_id"] = number
    return atoms


def _numbers(letters: Letters, lines: list[int], nothing: Collection[str]) -> Floats:
    """Numbers of some columns; NaN for one that did not fit, and for ``nothing``."""
    texts = _field(letters, 0, letters.shape[1]).astype(str).tolist()
    texts = ["nan" if "*" in text else text.strip() for text in texts]
    return numbers(texts, nothing, lambda row: f"line {lines[row] + 1}")


def _hybrid36(text: str, width: int) -> int:
    """A number; beyond what fits, A000 to ZZZZ and then a000 stand for more."""
    try:
        if len(text) == width and text[0].isalpha() and text.isalnum():
            place = 36 ** (width - 1)
            above = 26 * place if text[0].islower() else 0
            return int(text, 36) - 10 * place + 10**width + above
        return int("_" if "_" in text else text or "0")
    except ValueError:
        # NAMD and VMD go on in hexadecimal digits, which mean others here.
        return _STARS if "*" in text or re.fullmatch("[0-9a-f]{4,5}", text) else _BAD


def _charge(text: str) -> int:
    digits, sign = text.strip("+-") or text or "0", -1 if "-" in text else 1
    return sign * int(digits) if digits.isdigit() else _BAD


def _parts(
    lines: list[bytes], numbers: list[int], atoms: Table, notes: Notes
) -> tuple[Integers, Integers]:
    """Where models start, and which of TER's stretches every atom is in."""
    marks = [(i, line[:6].rstrip()) for i, line in enumerate(lines)
             if line.startswith((b"TER", b"END", b"MODEL", b"MASTER"))]  # fmt: skip
    # Before which atoms each of them stands.
    names = (b"TER", b"END", b"MODEL", b"ENDMDL")
    lines_of = ([i for i, mark in marks if mark == name] for name in names)
    ter, end, begun, ended = (np.searchsorted(numbers, at).tolist() for at in lines_of)
    ends, starts, count = {*end}, {0, *begun, *ended}, len(numbers)
    name = atoms["atom_name"]
    # Behind an END stands another model if it has the same atoms, else more of them.
    for at in sorted(ends - {0, count} - starts):
        start = max(start for start in starts if start < at)
        stop = min(stop for stop in (*starts, *ends, count) if stop > at)
        if np.array_equal(name[start:at], name[at:stop]):
            starts.add(at)
        notes.add("records END with atoms behind them")
        ter.append(at)
    if lines[0].startswith(b"HEADER") and not (ends or ended):
        notes.add(f"the END is missing, {_CUT}")
    if begun and max(ended, default=0) < count and not ends:
        notes.add(f"the last model has no end, {_CUT}")
    for i, mark in marks:
        counted = lines[i][50:55].strip()
        if mark == b"MASTER" and counted.isdigit() and int(counted) > count:
            notes.add(f"MASTER counts more atoms, {_CUT}")
    if lines[-1].startswith(_ATOM) and len(lines[-1]) < len(lines[numbers[0]]):
        notes.add(f"the last line is short, {_CUT}")
    known = sorted(starts - {count})
    sizes = {b - a for a, b in pairwise([*known, count])}
    if len(sizes) > 1 and len(begun) != len(ended):
        notes.add("models have different numbers of atoms")
    return np.array(known), np.cumsum(np.bincount(ter, minlength=count + 1))[:count]


def _read_header(entry: Entry, header: bytes, letters: Letters, notes: Notes) -> None:
    """Declared bonds and assemblies, as gemmi reads them."""
    gemmi = require_package("gemmi", "from_structure")
    structure = gemmi.read_pdb_string(header + b"\nEND\n")
    for bond in structure.connections:
        if bond.asu != gemmi.Asu.Different:
            kind = 8 if bond.type == gemmi.ConnectionType.MetalC else 1
            entry.links.append((_place(bond.partner1), _place(bond.partner2), kind))
    for assembly in structure.assemblies:
        for generator in assembly.generators:
            names = []
            for operator in generator.operators:
                # Not the name of the operator, which may be there with another meaning.
                names.append(str(len(entry.operators)))
                moved = operator.transform.mat.tolist(), operator.transform.vec.tolist()
                entry.operators[names[-1]] = tuple(map(np.array, moved))
            entry.generators.append((assembly.name, ",".join(names), generator.chains))
    # A bond of a higher order is listed as often.
    pairs: dict[tuple[int, ...], int] = {}
    for atom, ends in structure.conect_map.items():
        for end, times in Counter(ends).items():
            pair = tuple(sorted((atom, end)))
            pairs[pair] = max(pairs.get(pair, 1), min(times, 3))
    if not pairs:
        return
    serial = codes.of_distinct(lambda text: _hybrid36(text, 5), _texts(letters, 6, 11))
    wanted, found = np.array([(*pair, times) for pair, times in pairs.items()]), []
    for start, stop in pairwise(entry.models.tolist()):
        order = np.argsort(serial[start:stop], kind="stable")
        ordered = serial[start:stop][order]
        # A serial number that is not there is an atom that was left out.
        ends = wanted[np.isin(wanted[:, :2], ordered).all(axis=1)]
        place = np.searchsorted(ordered, ends[:, :2])
        twice = np.append(ordered[1:] == ordered[:-1], False)[place].any(axis=1)
        notes.add("bonds of CONECT between atoms of one number left out", twice.sum())
        ends[:, :2] = start + order[place]
        found.append(ends[~twice])
    entry.pairs = np.concatenate(found)


def _place(end: Any) -> tuple[str, ...]:
    number, letter = str(end.res_id.seqid.num), end.res_id.seqid.icode.strip()
    altloc = end.altloc.strip("\0 ")
    return end.chain_name, number, letter, end.res_id.name, end.atom_name, altloc
