import numpy as np
import pytest

from pyg_atomenc.io.duplicates import choose_altloc

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")


def atoms_of(rows):
    """Rows of (residue number, residue name, atom name, altloc, occupancy)."""
    atoms = struc.AtomArray(len(rows))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    atoms.res_id, atoms.res_name, atoms.atom_name, altloc, occupancy = columns
    atoms.set_annotation("altloc_id", altloc)
    atoms.set_annotation("occupancy", occupancy.astype(float))
    return atoms


def kept(rows):
    return np.flatnonzero(choose_altloc(atoms_of(rows))).tolist()


def test_the_highest_summed_occupancy_of_each_residue():
    rows = [
        (1, "SER", "CA", ".", 1.0),
        (1, "SER", "CB", "A", 0.6),
        (1, "SER", "CB", "B", 0.4),
        (1, "SER", "OG", "B", 0.4),
        (2, "SER", "CB", "A", 0.3),
        (2, "SER", "CB", "B", 0.7),
    ]
    assert kept(rows) == [0, 2, 3, 5]


def test_the_first_of_equal_ones_in_the_file():
    assert kept([(1, "SER", "CB", "B", 0.5), (1, "SER", "CB", "A", 0.5)]) == [0]


def test_two_residues_in_one_place_and_atoms_far_apart():
    rows = [
        (1, "SER", "CB", "A", 0.4),
        (2, "GLY", "CA", "", 1.0),
        (1, "THR", "CB", "B", 0.6),
        (1, "THR", "CG", "B", 0.6),
    ]
    assert kept(rows) == [1, 2, 3]


def test_ids_that_are_no_letters():
    rows = [(1, "SER", "CB", "1", 0.4), (1, "SER", "CB", "2", 0.6)]
    assert kept(rows) == [1]


def test_nothing_to_choose():
    assert kept([(1, "SER", "CB", " ", 1.0), (2, "SER", "CB", "?", 1.0)]) == [0, 1]


def test_a_location_beside_none_of_the_same_atom():
    rows = [
        (1, "SER", "CA", "", 1.0),
        (1, "SER", "CB", "", 0.6),
        (1, "SER", "CB", "B", 0.4),
    ]
    assert kept(rows) == [0, 1]
    rows[1], rows[2] = (1, "SER", "CB", "", 0.3), (1, "SER", "CB", "B", 0.7)
    assert kept(rows) == [0, 2]
