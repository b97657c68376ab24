import numpy as np
import pytest

from pyg_atomenc.io.entry import choose_altloc

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")


def atoms_of(rows):
    """Rows of (residue number, residue name, atom name, altloc, occupancy)."""
    atoms = struc.AtomArray(len(rows))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    atoms.res_id, atoms.res_name, atoms.atom_name, altloc, occupancy = columns
    atoms.set_annotation("altloc_id", altloc)
    atoms.set_annotation("occupancy", occupancy.astype(float))
    return atoms


def rows(*given):
    """Rows of residue 1, a serine, from texts of atom, altloc and occupancy."""
    parts = [row.split() for row in given]
    return [(1, "SER", atom, altloc.strip("_"), float(weight))
            for atom, altloc, weight in parts]  # fmt: skip


@pytest.mark.parametrize(
    "given, expected",
    [
        # The highest summed occupancy, of equal ones the first in the file.
        (rows("CA . 1", "CB A .6", "CB B .4", "OG B .4"), [0, 2, 3]),
        (rows("CB B .5", "CB A .5"), [0]),
        (rows("CB 1 .4", "CB 2 .6"), [1]),
        # A location beside none of the same atom.
        (rows("CA _ 1", "CB _ .6", "CB B .4"), [0, 1]),
        (rows("CA _ 1", "CB _ .3", "CB B .7"), [0, 2]),
        # Each residue by itself; two residues in one place, and atoms far apart.
        ([*rows("CB A .6", "CB B .4"), (2, "SER", "CB", "A", 0.3),
          (2, "SER", "CB", "B", 0.7)], [0, 3]),
        ([(1, "SER", "CB", "A", 0.4), (2, "GLY", "CA", "", 1.0),
          (1, "THR", "CB", "B", 0.6), (1, "THR", "CG", "B", 0.6)], [1, 2, 3]),
        ([(1, "SER", "CB", " ", 1.0), (2, "SER", "CB", "?", 1.0)], [0, 1]),
    ],
)  # fmt: skip
def test_one_location_stays(given, expected):
    assert np.flatnonzero(choose_altloc(atoms_of(given))).tolist() == expected
