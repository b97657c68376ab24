"""PDB files → biotite's `AtomArray`."""

import io
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.bonds import residue_bonds
from pyg_atomenc.chem.components import component_atoms
from pyg_atomenc.chem.residues import find_residues
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.duplicates import check_duplicates, choose_altloc
from pyg_atomenc.io.limits import Limits, decode

_NONMETALS = "H D T HE B C N O F NE SI P S CL AR GE AS SE BR KR TE I XE AT RN X".split()
ATOM = ("ATOM", "HETATM")
# Three coordinates; only atoms and the uncertainties of their positions have these.
_COORDINATES = re.compile(r"(?:\s*-?\d+\.\d{3}){3}(?!\d)")
_OTHERS = ("REMARK", "SIGATM", "HETNAM", "TITLE", "COMPND", "USER")
# Where a right-aligned number ends: x, y, z, occupancy, temperature factor, element.
_WITHIN = {*range(54), *range(55, 60), *range(61, 66), 77, 79}


class PdbDocument:
    """A parsed PDB file.

    Args:
        file (pathlib.Path): Its name, for messages.
        content (bytes): The file.
        limits (Limits): Of which the number of atoms is checked before they are made.

    Raises:
        ValueError: If the file is damaged, or over the limit.
    """

    def __init__(self, file: Path, content: bytes, limits: Limits) -> None:
        pdb = require_package("biotite.structure.io.pdb", "from_structure")
        text = decode(content)
        self.num_atoms = text.count("\nATOM") + text.count("\nHETATM")
        limits.check_atoms(file, self.num_atoms)
        lines = text.rstrip("\n").split("\n")
        check_lines(lines, text.endswith("\n"))
        lines = [fill_blanks(line) if line.startswith(ATOM) else line for line in lines]
        self.file, self.limits, self.lines = file, limits, lines
        self.conect = [line for line in lines if line.startswith("CONECT")]
        self.pdb = pdb.PDBFile.read(io.StringIO("\n".join(lines)))

    @property
    def num_models(self) -> int:
        """How many models there are."""
        return self.pdb.get_model_count()

    @property
    def assemblies(self) -> list[str]:
        """The ids of the biological assemblies."""
        head = "REMARK 350 BIOMOLECULE:"
        return [li.removeprefix(head).strip() for li in self.lines if li[:23] == head]

    def read(self, model: int, assembly: Optional[str]) -> Any:
        """As :meth:`pyg_atomenc.io.cif.CifDocument.read`."""
        # Serial numbers need not make sense where no bond asks for them.
        fields = ["charge", "occupancy", *(["atom_id"] if self.conect else [])]
        options = {"model": model, "altloc": "all", "extra_fields": fields}
        if assembly is None:
            atoms = self.pdb.get_structure(**options)
        else:
            copies = sum(line.startswith("REMARK 350   BIOMT1") for line in self.lines)
            self.limits.check_atoms(self.file, copies * self.num_atoms)
            atoms = self.pdb.get_assembly(assembly, **options)
        atoms = atoms[choose_altloc(atoms)]
        check_duplicates(atoms)
        structure = require_package("biotite.structure", "from_structure")
        pairs = self._conect(atoms) if self.conect else None
        bonds = structure.BondList(atoms.array_length(), pairs)
        if self.conect:
            atoms.del_annotation("atom_id")
        # Of two lists that hold a bond, the second one's type wins.
        atoms.bonds = bonds.merge(_component_bonds(atoms))
        return atoms

    def _conect(self, atoms: Any) -> NDArray[np.int64]:
        """The bonds of ``CONECT`` ``[B, 3]``, in every copy of an assembly."""
        pairs = []
        for line in self.conect:
            ids = [line[i : i + 5].strip() for i in range(6, 31, 5)]
            first, *others = [_number(text) for text in ids if text]
            pairs += [(first, other) for other in others]
        wanted = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        copies = np.zeros(atoms.array_length(), dtype=int)
        if "sym_id" in atoms.get_annotation_categories():
            copies = atoms.sym_id
        bonds = []
        for copy in range(copies.max(initial=0) + 1):
            rows = np.flatnonzero(copies == copy)
            rows = rows[np.argsort(atoms.atom_id[rows], kind="stable")]
            serial = atoms.atom_id[rows]
            place = np.searchsorted(serial, wanted)
            # A serial number that is not there is an atom that was left out.
            there = np.isin(wanted, serial).all(axis=1)
            place = place[there]
            twice = np.append(serial[1:] == serial[:-1], False)[place]
            if twice.any():
                raise AtomEncodingError(
                    f"CONECT names atom {serial[place[twice]][0]}, which is there twice"
                )
            bonds.append(rows[place])
        ends = np.concatenate(bonds)
        return np.column_stack([ends, _kinds(atoms, ends)])


def _number(text: str) -> int:
    """A serial number, in hybrid-36 beyond 99,999: A0000 to ZZZZZ, then a0000."""
    if not text[0].isalpha():
        return int(text)
    first = int("A0000", 36) if text[0].isupper() else int("a0000", 36) - 26 * 36**4
    return int(text, 36) - first + 100_000


def _kinds(atoms: Any, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Biotite's types of the bonds of ``CONECT`` ``[B]``, which tells none.

    As in mmCIF, between residues they are single, or coordinate a metal.
    """
    types = require_package("biotite.structure", "from_structure").BondType
    residue = find_residues(atoms).index
    metal = ~np.isin(np.char.upper(atoms.element[ends]), _NONMETALS).all(axis=1)
    kind = np.where(metal, int(types.COORDINATION), int(types.SINGLE))
    within = residue[ends[:, 0]] == residue[ends[:, 1]]
    return np.where(within, int(types.ANY), kind)


def _component_bonds(atoms: Any) -> Any:
    """Bonds by the component dictionary, and those of the polymer.

    A hetero residue has them where the dictionary knows all of its atoms.
    """
    info = require_package("biotite.structure.info", "from_structure")
    names = {*atoms.res_name[~atoms.hetero].tolist(), "HOH"}
    for name in set(atoms.res_name[atoms.hetero].tolist()) - names:
        atom_names = np.unique(atoms.atom_name[atoms.res_name == name])
        if np.isin(atom_names, component_atoms(name)[0]).all():
            names.add(name)
    return residue_bonds(atoms, {name: info.bonds_in_residue(name) for name in names})


def check_lines(lines: Sequence[str], closed: bool) -> None:
    """Raise a ValueError if a PDB file is not whole.

    Args:
        lines (sequence): Its lines.
        closed (bool): Whether the last one ends with a line break.
    """
    atoms: list[tuple[int, str]] = []
    models, between, ended, counted = 0, False, False, ""
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
        elif line.startswith("MASTER"):
            # It counts one model, and one of alternate locations.
            counted = line[50:55].strip()
        elif line.lstrip().upper().startswith(ATOM):
            raise _error(number, f"starts with {line[:7]!r}: write 'ATOM' or 'HETATM'")
        # Counting dots is faster, and enough for most lines.
        elif line.count(".") > 2 and not line.startswith(_OTHERS):
            if _COORDINATES.search(line[20:]):
                raise _error(number, f"has coordinates, but starts with {line[:6]!r}")
    if models and not between and not ended:
        raise AtomEncodingError("its last model has no ENDMDL, so it was cut short")
    if lines[0].startswith("HEADER") and not (ended or models):
        raise AtomEncodingError("it has no END record, so it was cut short")
    if counted.isdigit() and int(counted) > len(atoms):
        raise AtomEncodingError(
            f"it has {len(atoms)} atoms, and its MASTER record counts {counted}"
        )
    _check_widths(atoms, lines, closed)


def _error(number: int, what: str) -> AtomEncodingError:
    return AtomEncodingError(f"line {number} {what}")


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
