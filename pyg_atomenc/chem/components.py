"""Elements and components: symbols, valences, and the component dictionary."""

from functools import lru_cache
from typing import Any

import numpy as np

from pyg_atomenc.chem.codes import Array, Integers, Texts, code, of_distinct, places
from pyg_atomenc.errors import AtomEncodingError, require_package

SYMBOLS = tuple(
    "X H HE LI BE B C N O F NE NA MG AL SI P S CL AR K CA SC TI V CR MN FE CO NI CU "
    "ZN GA GE AS SE BR KR RB SR Y ZR NB MO TC RU RH PD AG CD IN SN SB TE I XE CS BA "
    "LA CE PR ND PM SM EU GD TB DY HO ER TM YB LU HF TA W RE OS IR PT AU HG TL PB BI "
    "PO AT RN FR RA AC TH PA U NP PU AM CM BK CF ES FM MD NO LR RF DB SG BH HS MT DS "
    "RG CN NH FL MC LV TS OG".split()
)
"""Symbols in capitals by atomic number, as biotite writes them; 0 is unknown."""

# Deuterium and tritium are hydrogen; the PDB writes an unknown atom as X.
_NUMBER = {symbol: number for number, symbol in enumerate(SYMBOLS)} | {"D": 1, "T": 1}


def atomic_numbers(elements: Texts) -> Integers:
    """Atomic numbers ``[N]`` of symbols in any case, or a ValueError; 0 for ``X``."""
    numbers = of_distinct(lambda symbol: _NUMBER.get(symbol.upper(), -1), elements)
    if (numbers < 0).any():
        atom = int(numbers.argmin())
        mend = "give the symbol of an element, or 'X' where it is not known."
        found = f"{str(elements[atom])!r} for atom {atom}"
        raise AtomEncodingError(f"'element' is {found}: {mend}")
    return numbers.astype(np.int64)


# The valences of neutral atoms, the least that suffices counts; a charge of N, O and
# their like adds to it, one of the others takes from it.
_VALENCES = {
    5: (3,), 6: (4,), 7: (3,), 8: (2,), 9: (1,), 14: (4,), 15: (3, 5), 16: (2, 4, 6),
    17: (1,), 33: (3, 5), 34: (2, 4, 6), 35: (1,), 53: (1,),
}  # fmt: skip
_GAINS = (7, 8, 9, 15, 16, 17, 33, 34, 35, 53)
# Of biotite's BondType, aromatic ones, too; one of no known order (0) is single.
_ORDER = {0: 1, 1: 1, 2: 2, 3: 3, 4: 4, 5: 1, 6: 2, 7: 3, 9: 1.5}


def count_hydrogens(z: Integers, charge: Integers, bonds: Array) -> Integers:
    """Hydrogens of atoms ``[N]``: those bonded ``[B, 3]``, and what valences leave."""
    # Metals and unknown atoms get none more.
    ends = bonds[:, :2].astype(np.int64)
    weight = np.repeat(of_distinct(lambda kind: _ORDER.get(kind, 0), bonds[:, 2]), 2)
    flat = ends.ravel()
    used = np.bincount(flat, weight, minlength=len(z))
    bonded = np.bincount(flat, z[ends[:, ::-1].ravel()] == 1, minlength=len(z))
    free = np.zeros(len(z))
    for number, valences in _VALENCES.items():
        rows = np.flatnonzero(z == number)
        sign = charge[rows] if number in _GAINS else -np.abs(charge[rows])
        room = np.array(valences) + sign[:, None] - used[rows, None]
        # What the first valence that is enough leaves; nothing if all are too small.
        least = np.where(room >= 0, room, np.inf).min(axis=1)
        free[rows] = np.where(least < np.inf, least, 0)
    return (bonded + np.floor(free)).astype(np.int64)


# What wwPDB set aside for users' ligands and the unknown, though some are components.
PLACEHOLDERS = {*"LIG DRG INH UNL UNX".split(), *(f"{i:02d}" for i in range(1, 100))}


def component_bonds(name: str) -> dict[tuple[str, str], int]:
    """Two atoms' names → biotite's bond type; empty for a component not known."""
    info = require_package("biotite.structure.info", "components")
    return {} if name in PLACEHOLDERS else info.bonds_in_residue(name)


def _table(name: str, table: str, columns: str) -> list[Any]:
    """Columns of a table of the dictionary; none for a component not known."""
    info = require_package("biotite.structure.info", "components")
    if name in PLACEHOLDERS:
        return []
    found = [info.get_from_ccd(table, name, column) for column in columns.split()]
    return [] if found[0] is None else found


# Of a component: atom name → position [3], float32, in ångström; elementary charges.
Conformer = dict[str, tuple[Array, float]]


@lru_cache(maxsize=10_000)
def component_atoms(name: str) -> tuple[Array, ...]:
    """A component's atoms, five arrays ``[A]`` not to be edited; empty if not known."""
    # Names, elements in capitals, charges, int64, whether an atom leaves for a bond to
    # another component, and handedness "R", "S", "N".
    columns = "atom_id type_symbol charge pdbx_leaving_atom_flag pdbx_stereo_config"
    found = [c.as_array(str) for c in _table(name, "chem_comp_atom", columns)]
    names, elements, charges, leaving, stereo = found or [np.array([], "U1")] * 5
    charges = np.where(np.isin(charges, (".", "?", "")), "0", charges).astype(np.int64)
    return names, np.char.upper(elements), charges, leaving == "Y", stereo


def dictionary_chirality(atoms: Any) -> Integers:
    """The ``chirality`` ``[N]``, as of ``from_atom_array``, of every atom."""
    found = np.zeros(len(atoms), dtype=np.int64)
    for rows in places(code(atoms.res_name)):
        known, *_, stereo = component_atoms(str(atoms.res_name[rows[0]]))
        found[rows] = 0 if len(known) else -1
        for text, value in (("R", 1), ("S", 2)):
            found[rows[np.isin(atoms.atom_name[rows], known[stereo == text])]] = value
    return found


@lru_cache(maxsize=10_000)
def _component_stereo(name: str) -> dict[frozenset[str], int]:
    """The E (1) and Z (2) bonds of a component, by the names of their atoms."""
    columns = "atom_id_1 atom_id_2 pdbx_stereo_config"
    found = (c.as_array(str).tolist() for c in _table(name, "chem_comp_bond", columns))
    rows, code = zip(*found, strict=True), {"E": 1, "Z": 2}
    return {frozenset((a, b)): code[stereo] for a, b, stereo in rows if stereo in code}


def dictionary_stereo(atoms: Any, bonds: Array) -> Integers:
    """The ``edge_stereo`` ``[B]``, as of ``from_atom_array``, of bonds ``[B, 3]``."""
    found = np.zeros(len(bonds), dtype=np.int64)
    double = np.flatnonzero(bonds[:, 2] == 2)
    ends = bonds[double, :2].astype(np.int64)
    names = atoms.res_name[ends[:, 0]]
    for one in places(code(names)):
        name = str(names[one[0]])
        if known := _component_stereo(name):
            pairs = map(frozenset, atoms.atom_name[ends[one]].tolist())
            found[double[one]] = [known.get(pair, 0) for pair in pairs]
        elif len(component_atoms(name)[0]) == 0:
            found[double[one]] = -1
    return found


@lru_cache(maxsize=10_000)
def ideal_conformer(name: str) -> Conformer:
    """A component's ideal conformer, empty if it is not known; not to be edited."""
    # NaN where there is but a position in a crystal, which biotite would give.
    names, _, charges, *_ = component_atoms(name)
    columns = " ".join(f"pdbx_model_Cartn_{axis}_ideal" for axis in "xyz")
    axes = _table(name, "chem_comp_atom", columns)
    pos = zip(*(axis.as_array(np.float32, np.nan) for axis in axes), strict=True)
    rows = zip(names.tolist(), map(np.array, pos), charges.tolist(), strict=True)
    return {atom: (at, float(charge)) for atom, at, charge in rows}
