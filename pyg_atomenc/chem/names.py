"""The names that programs give residues, waters, ions and atoms → those of the PDB.

Sources: AMBER's leap libraries (amino12, nucleic12, atomic_ions), CHARMM36's topologies
(top_all36_prot, top_all36_na, toppar_water_ions) and GROMACS' residuetypes.dat; for the
PDB's former names of atoms, its remediation of 2007.
"""

from functools import lru_cache
from itertools import product
from typing import Any, Optional

import numpy as np

from pyg_atomenc.chem import codes
from pyg_atomenc.chem.components import SYMBOLS, component_atoms
from pyg_atomenc.chem.residues import AMINO_ACIDS, find_residues

_OTHERS = {
    "HIS": "HIE HID HIP HSD HSE HSP HIS1 HIS2 HISA HISB HISD HISE HISH",
    "CYS": "CYX CYM CYN CYT CYS1 CYS2 CYSH", "ARG": "ARN ARGN", "TYR": "TYM TYO",
    "ASP": "ASH ASPP ASPH", "GLU": "GLH GLUP GLUH", "LYS": "LYN LYP LSN LYSH",
    "HOH": "HOH WAT SOL SPC SPCE H2O TIP TIP2 TIP3 TIP4 TIP5 TP3 TP4 TP5 T3P T4P "
           "T5P OPC SWM SWM4 SWM6 HHO OHH HO4 HO5 D2O",
    "A": "ADE", "DA": "ADE", "G": "GUA", "DG": "GUA", "C": "CYT", "DC": "CYT",
    "U": "URA", "DT": "THY", "NH2": "NHE", "NME": "NMA",
}  # fmt: skip
_IONS = {
    "NA": "SOD NA+", "K": "POT K+", "CL": "CLA CL-", "CA": "CAL CA2 CA2+", "F": "F-",
    "LI": "LIT LI+", "MG": "MG2 MG2+", "ZN": "ZN2 ZN2+", "CS": "CES CS+", "BR": "BR-",
    "RB": "RUB RB+", "BA": "BAR BA2+", "CD": "CAD CD2 CD2+", "MN": "MN2+",
    "CU": "CU2+", "FE": "FE3+", "SR": "SR2+",
}  # fmt: skip
# What CHARMM adds to the residue at an end of a chain → the component that it is.
_PATCHES = {
    "CAY": ("ACE", "CAY CY OY HY1 HY2 HY3"), "CAT": ("NME", "NT HNT CAT HT1 HT2 HT3"),
    "NT": ("NH2", "NT HT1 HT2"),
}  # fmt: skip
# Lipids, which are in no dictionary: two tails and a head.
_TAILS, _HEADS = "DL DM DP DS DO DY DA PO PL SO SD".split(), "PA PC PE PG PS".split()
LIPIDS = {"CHL1", *(tails + head for tails in _TAILS for head in _HEADS)}
# What stands where an atom's name is not one of its component.
_ATOMS = {
    "O1P": "OP1", "O2P": "OP2", "O3P": "OP3", "OT1": "O", "OT2": "OXT", "OC1": "O",
    "OC2": "OXT", "O5T": "O5'", "C5M": "C7", "CD": "CD1", "CH3": "C", "CAY": "CH3",
    "CY": "C", "OY": "O", "NT": "N", "CAT": "C", "OW": "O", "OW1": "O", "OH2": "O",
    "HW1": "H1", "HW2": "H2", "HW3": "H1", "NME CA": "C",
}  # fmt: skip
# What stands for the element of a site that is none.
_VIRTUAL = ("EP", "LP", "VS", "DU")
_IN_WATER = {"O": "O", "OW": "O", "OH": "O", "H": "H", "HW": "H", "D": "H"}
_IN_WATER |= dict.fromkeys(("M", "MW", "OM", "EPW", "DOH", *_VIRTUAL), "virtual")
# Two letters that are an element though the first one alone is a frequent one, too.
_ELEMENTS = {"CL", "CU", "SE", "SI", "SN", "PT", "NI"}
_ELEMENTS |= {s for s in SYMBOLS if len(s) == 2 and s[0] not in "HCNOPSD"}


def _options() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for target, names in {**_OTHERS, **_IONS}.items():
        for name in names.split():
            found.setdefault(name, []).append(target)
    # Of such a component the atom alone may have another name.
    found |= {name: [name] for name in _IONS}
    # The ends of a chain, in AMBER.
    for end, amino in product("NC", (*AMINO_ACIDS, "HYP")):
        for name in (amino, *_OTHERS.get(amino, "").split()):
            found.setdefault(end + name, []).append(amino)
    found |= {f"R{base}": [base] for base in "ACGU"}
    for end in "53N":
        found |= {f"{r}{base}{end}": [base] for r in ("", "R") for base in "ACGU"}
        found |= {f"D{base}{end}": ["D" + base] for base in "ACGT"}
    return found


_STANDS_FOR = _options()
FOUR_LETTERS = {name for name in _STANDS_FOR if len(name) == 4} | LIPIDS
"""Names that need the four columns which others leave to a chain of two letters."""


def standard_names(atoms: Any, notes: Any) -> Any:
    """Give an ``AtomArray`` the PDB's names, and elements; leave out virtual sites."""
    _part_patches(atoms, notes)
    virtual = codes.among(atoms.element, _VIRTUAL)
    there = codes.distinct(atoms.res_name)[0].tolist()
    for name in [name for name in there if name.upper() in _STANDS_FOR]:
        rows = np.flatnonzero(atoms.res_name == name)
        names, target = atoms.atom_name[rows], _STANDS_FOR[name.upper()][0]
        if target == "HOH":
            # What an atom of a water is: "" for one that is in none.
            kinds = codes.of_distinct(
                lambda atom: _IN_WATER.get(atom.upper().strip("0123456789"), ""), names
            )
            if (kinds != "").all():
                atoms.res_name[rows] = target
                virtual[rows] |= kinds == "virtual"
                if name != target:
                    notes.add(f"residues {name} read as HOH", (kinds == "O").sum())
        elif target in _IONS:
            called = {name.upper(), target, *_IONS[target].split()}
            if called.issuperset(np.char.upper(names).tolist()):
                atoms.res_name[rows] = atoms.atom_name[rows] = target
                what = f"residues {name} read as {target}"
                if name == target:
                    rows = rows[names != target]
                    what = "atoms renamed after the component dictionary"
                atoms.element[rows] = target
                notes.add(what, len(rows))
        else:
            # A component keeps its name unless its atoms are those of the other one.
            for place in codes.places(find_residues(atoms[rows]).index):
                found = _target(name.upper(), frozenset(names[place].tolist()))
                if found is not None:
                    notes.add(f"residues {name} read as {found}")
                    atoms.res_name[rows[place]] = found
    notes.add("virtual sites left out", virtual.sum())
    atoms = atoms[~virtual] if virtual.any() else atoms
    _rename_atoms(atoms, notes)
    return atoms


@lru_cache(maxsize=10_000)
def _target(name: str, atoms: frozenset[str]) -> Optional[str]:
    """The component that atoms of a residue of this name are; ``None`` for its own."""
    heavy = {a for a in atoms if a.lstrip("0123456789")[:1] not in ("H", "D", "")}
    # How many heavy atoms are missing, if the others fit; its own name wins a tie.
    missing = {}
    for option in (name, *_STANDS_FOR[name]):
        known, elements, _, leaving, _ = component_atoms(option)
        named = {_atom_name(atom, option) for atom in heavy}
        if named <= set(known.tolist()) and len(named) == len(heavy):
            missing[option] = len({*known[~leaving & (elements != "H")]} - named)
    best = min(missing, key=lambda option: missing[option], default=name)
    return None if best == name else best


@lru_cache(maxsize=100_000)
def _atom_name(name: str, component: str) -> str:
    """An atom's name in a component; the name itself where that has no better one."""
    known = component_atoms(component)[0]
    other = _ATOMS.get(f"{component} {name}", _ATOMS.get(name, name))
    options = (name, name.replace("*", "'"), other, name.upper())
    return next((option for option in options if option in known), name)


def _part_patches(atoms: Any, notes: Any) -> None:
    """Make caps that CHARMM counts to the first and last residue their own residues."""
    if not np.isin(atoms.atom_name, list(_PATCHES)).any():
        return
    for rows in codes.places(find_residues(atoms).index):
        names = {*atoms.atom_name[rows].tolist()}
        if names.isdisjoint(_PATCHES) or not names.issuperset(("N", "CA", "C")):
            continue
        known = component_atoms(str(atoms.res_name[rows[0]]))[0]
        for atom, (patch, members) in _PATCHES.items():
            if atom in atoms.atom_name[rows] and atom not in known:
                part = rows[np.isin(atoms.atom_name[rows], members.split())]
                atoms.res_name[part] = patch
                notes.add(f"caps read as residues {patch}")
                rows = np.setdiff1d(rows, part)


def _rename_atoms(atoms: Any, notes: Any) -> None:
    residues, residue = codes.distinct(atoms.res_name)
    names, atom = codes.distinct(atoms.atom_name)
    pairs, which = codes.distinct(residue * len(names) + atom)
    residues, old = residues[pairs // len(names)], names[pairs % len(names)]
    new = np.array(list(map(_atom_name, old.tolist(), residues.tolist())))
    if (changed := new != old).any():
        rows = np.flatnonzero(changed[which])
        # Not where the residue has an atom of that name already.
        every, number = codes.distinct(np.concatenate([names, new]))
        place = find_residues(atoms).index * len(every)
        wanted = (place + number[len(names) :][which])[rows]
        rows = rows[~np.isin(wanted, place + number[atom])]
        notes.add("atoms renamed after the component dictionary", len(rows))
        atoms.atom_name[rows] = new[which[rows]]
    if (blank := atoms.element == "").any():
        guessed = map(_element, residues.tolist(), new.tolist())
        symbol, known = map(np.array, zip(*guessed, strict=True))
        atoms.element[blank] = symbol[which[blank]]
        notes.add("elements told from names of atoms", (~known[which[blank]]).sum())


def _element(component: str, name: str) -> tuple[str, bool]:
    """An atom's element, and whether the component dictionary tells it."""
    known, elements, *_ = component_atoms(component)
    if len(found := elements[known == name]):
        return str(found[0]), True
    letters = name.upper().lstrip("0123456789'\"*")
    if letters == component.upper() and letters in SYMBOLS:
        return letters, True
    short = letters[: 2 if letters[:2] in _ELEMENTS else 1]
    return (short if short in (*SYMBOLS, "D") else "X"), False
