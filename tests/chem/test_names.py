"""Names of AMBER, CHARMM and GROMACS; those that mean a component of the PDB, too."""

from pathlib import Path

import numpy as np
import pytest

from pyg_atomenc.chem.names import FOUR_LETTERS, standard_names
from pyg_atomenc.chem.residues import find_residues
from pyg_atomenc.io.limits import Notes

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")
info = pytest.importorskip("biotite.structure.info")


def component(name, called, rename=()):
    """The heavy atoms of a component as in a chain, under another name."""
    atoms = info.residue(name, allow_missing_coord=True)
    atoms = atoms[~np.isin(atoms.element, ("H", "D"))]
    atoms = atoms[~np.isin(atoms.atom_name, ("OXT", "OP3"))]
    for old, new in dict(rename).items():
        atoms.atom_name[atoms.atom_name == old] = new
    atoms.res_name[:] = called
    return atoms


def named(atoms):
    notes = Notes(Path("a.pdb"))
    atoms = standard_names(atoms, notes)
    return atoms, notes.text


SAME = {
    "HIS": "HIE HID HIP HSD HSE HSP HISE NHIE CHIP", "CYS": "CYX CYM CYS2 NCYX CYT",
    "HYP": "CHYP", "NME": "NMA", "NH2": "NHE", "ARG": "ARN", "TYR": "TYM",
    "ASP": "ASH ASPP", "GLU": "GLH GLUP", "LYS": "LYN LYSH", "ALA": "NALA CALA",
    "A": "ADE A5 RA3 RA", "DA": "ADE DA5 DA3", "G": "GUA RG5", "DG": "GUA DG3",
    "C": "CYT", "DC": "CYT DC5", "U": "URA", "DT": "THY DT3",
}  # fmt: skip


@pytest.mark.parametrize(
    "target, name", [(target, name) for target in SAME for name in SAME[target].split()]
)
def test_residues(target, name):
    atoms, notes = named(component(target, name))
    assert set(atoms.res_name) == {target}
    assert notes == f"residues {name} read as {target}: 1"


@pytest.mark.parametrize("name", "HSE HSD CYM CLA POT SOD ADE THY DA5 SOL SPC".split())
def test_components_of_such_a_name_keep_it(name):
    """L-homoserine, chlorophyll and others, as the dictionary has them."""
    atoms, notes = named(component(name, name))
    assert set(atoms.res_name) == {name} and notes == ""


@pytest.mark.parametrize(
    "name, symbol",
    [("SOD", "NA"), ("POT", "K"), ("CLA", "CL"), ("CAL", "CA"), ("MG2", "MG"),
     ("Na+", "NA"), ("CL-", "CL"), ("CES", "CS"), ("Zn2+", "ZN"), ("Br-", "BR")],
)  # fmt: skip
def test_ions(name, symbol):
    atoms = component("NA", name)
    atoms.atom_name[:], atoms.element[:] = name, ""
    atoms, _ = named(atoms)
    assert (atoms.res_name[0], atoms.atom_name[0], atoms.element[0]) == (symbol,) * 3
    # Some programs have renamed the residue, but not its atom.
    atoms = component("NA", symbol)
    atoms.atom_name[:], atoms.element[:] = name, ""
    atoms, notes = named(atoms)
    assert (atoms.atom_name[0], atoms.element[0]) == (symbol, symbol)
    assert notes == "atoms renamed after the component dictionary: 1"


@pytest.mark.parametrize("site", ["MW", "EPW", "M", "LP1", "EP"])
@pytest.mark.parametrize("name", ["TIP4", "SOL", "WAT", "HOH"])
def test_waters_without_their_virtual_sites(name, site):
    atoms = struc.AtomArray(4)
    atoms.atom_name[:] = ["OW", "HW1", "HW2", site]
    atoms.element[:] = ["O", "H", "H", "EP" if site == "EP" else ""]
    atoms.res_name[:] = name
    atoms, notes = named(atoms)
    assert atoms.atom_name.tolist() == ["O", "H1", "H2"]
    assert set(atoms.res_name) == {"HOH"}
    assert "virtual sites left out: 1" in notes


@pytest.mark.parametrize(
    "name, names",
    [("SOL", ("OW1", "HW2", "HW3")), ("WAT", ("OW", "HW2", "HW3")),
     ("SWM4", ("OH2", "H1", "H2", "DOH2", "OM")), ("HHO", ("O", "H1", "H2"))],
)  # fmt: skip
def test_waters_of_other_programs(name, names):
    atoms = struc.AtomArray(len(names))
    atoms.atom_name[:], atoms.element[:] = names, ""
    atoms.res_name = np.full(len(names), name)
    atoms, _ = named(atoms)
    assert sorted(atoms.atom_name) == ["H1", "H2", "O"]
    assert set(atoms.res_name) == {"HOH"}
    assert find_residues(atoms).index.tolist() == [0, 0, 0]


def test_waters_of_one_number_and_of_an_unknown_name():
    atoms = struc.AtomArray(4)
    atoms.atom_name[:] = ["OH2", "H1", "OH2", "H1"]
    atoms.element[:], atoms.res_name[:] = ["O", "H", "O", "H"], "TIP3"
    atoms, notes = named(atoms)
    assert notes.startswith("residues TIP3 read as HOH: 2")
    assert find_residues(atoms).index.tolist() == [0, 0, 1, 1]


def test_atoms_of_former_names():
    changed = {"OP1": "O1P", "OP2": "O2P", "C1'": "C1*", "O3'": "O3*", "C7": "C5M"}
    atoms, notes = named(component("DT", "DT", changed))
    known = component("DT", "DT").atom_name.tolist()
    assert atoms.atom_name.tolist() == known
    assert notes == "atoms renamed after the component dictionary: 5"
    # Phosphoserine calls them so.
    atoms, notes = named(component("SEP", "SEP"))
    assert {"O1P", "O2P", "O3P"} <= set(atoms.atom_name) and notes == ""


def test_names_of_four_letters():
    assert {"TIP3", "TIP4", "SPCE", "NALA", "CHIE", "HISA"} <= FOUR_LETTERS
