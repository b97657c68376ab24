"""Small structures written out by hand."""

import numpy as np
import pytest


def chain(*residues, bonds=()):
    """Residues by name, each with its atoms' names."""
    rows = [
        (i, name, atom) for i, (name, *atoms) in enumerate(residues) for atom in atoms
    ]
    structure = pytest.importorskip("biotite.structure")
    atoms = structure.AtomArray(len(rows))
    atoms.coord = np.random.rand(len(rows), 3)
    atoms.res_id = np.array([i for i, _, _ in rows])
    atoms.res_name = np.array([name for _, name, _ in rows])
    atoms.atom_name = np.array([atom for _, _, atom in rows])
    atoms.chain_id = np.full(len(rows), "A")
    atoms.element = np.array([atom[0] for _, _, atom in rows])
    # A bond of two numbers is single.
    bonds = [(*bond, 1)[:3] for bond in bonds]
    bonds = np.array(bonds, dtype=int).reshape(-1, 3)
    atoms.bonds = structure.BondList(len(rows), bonds)
    return atoms


# Whole molecules, each as residues and bonds, and as a SMILES with the same order.


def disulfide():
    """ACE-CYS-CYS-NH2, whose sulfurs close a ring of eight."""
    cys = ("CYS", "N", "CA", "C", "O", "CB", "SG")
    return chain(
        ("ACE", "C", "O", "CH3"), cys, cys, ("NH2", "N"),
        bonds=[(0, 1, 2), (0, 2), (0, 3), (3, 4), (4, 5), (5, 6, 2), (4, 7), (7, 8),
               (5, 9), (9, 10), (10, 11), (11, 12, 2), (10, 13), (13, 14), (11, 15),
               (8, 14)],
    )  # fmt: skip


DISULFIDE = "C(=O)(C)NC(C(=O)%11)CS%12.N%11C(C(=O)%13)CS%12.N%13"


def glycan():
    """An asparagine with a sugar."""
    atoms = chain(
        ("ASN", *"N CA C O CB CG OD1 ND2".split()),
        ("NAG", *"C1 C2 C3 C4 C5 C6 C7 C8 N2 O3 O4 O5 O6 O7".split()),
        bonds=[(0, 1), (1, 2), (2, 3, 2), (1, 4), (4, 5), (5, 6, 2), (5, 7), (7, 8),
               (8, 9), (9, 10), (10, 11), (11, 12), (12, 19), (19, 8), (12, 13),
               (13, 20), (9, 16), (16, 14), (14, 21, 2), (14, 15), (10, 17), (11, 18)],
    )  # fmt: skip
    atoms.hetero[8:] = True
    return atoms


def phosphoserine():
    """Alanine and phosphoserine."""
    return chain(
        ("ALA", *"N CA C O CB".split()),
        ("SEP", *"N CA CB OG C O P O1P O2P O3P".split()),
        bonds=[(0, 1), (1, 2), (2, 3, 2), (1, 4), (2, 5), (5, 6), (6, 7), (7, 8),
               (6, 9), (9, 10, 2), (8, 11), (11, 12, 2), (11, 13), (11, 14)],
    )  # fmt: skip


def dna():
    """Two nucleotides without most of their atoms, and a zinc ion."""
    atoms = chain(
        ("DC", "O5'", "C1'", "O3'"),
        ("DG", "P", "O5'", "C1'", "N9", "O3'"),
        ("ZN", "ZN"),
        bonds=[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (5, 7)],
    )  # fmt: skip
    atoms.element[-1] = "ZN"
    atoms.hetero[-1] = True
    return atoms


LIGAND = "c1ccc2c(c1)CCN2C(=O)C1CC1"


def ligand():
    """Indoline, a carbonyl and cyclopropane."""
    atoms = chain(
        ("LIG", *"C1 C2 C3 C4 C5 C6 C7 C8 N1 C9 O1 C10 C11 C12".split()),
        bonds=[(0, 1, 2), (1, 2), (2, 3, 2), (3, 4), (4, 5, 2), (5, 0), (4, 6), (6, 7),
               (7, 8), (8, 3), (8, 9), (9, 10, 2), (9, 11), (11, 12), (12, 13),
               (13, 11)],
    )  # fmt: skip
    atoms.hetero[:] = True
    return atoms
