"""Kinds of residues: by their components, and by whether they stand in a polymer."""

import numpy as np
import pytest
from residues import chain

from pyg_atomenc.chem.residues import ENTITY_KINDS, POLYMER_LINKS, find_residues

pytest.importorskip("biotite.structure", reason="biotite is not installed")


def kinds(atoms):
    return [ENTITY_KINDS[kind] for kind in find_residues(atoms).kinds]


def mixed():
    """An alanine, DNA, RNA, a free glycine, a sugar, a water and an unknown one."""
    names = ("ALA", "DA", "A", "GLY", "NAG", "HOH", "!!!")
    atoms = chain(*((name, "N", "C") for name in names))
    atoms.hetero[6:] = True
    return atoms


def test_a_kind_by_the_component_and_its_place():
    expected = ["protein", "DNA", "RNA", *["ligand"] * 4]
    atoms = mixed()
    assert kinds(atoms) == expected
    # Whatever a file calls hetero, the sequence is what holds.
    number = np.array([".", ".", "1", "1", "2", "2", "3", "3", *["."] * 6])
    atoms.set_annotation("label_seq_id", number)
    assert kinds(atoms) == ["ligand", "DNA", "RNA", "protein", *["ligand"] * 3]


@pytest.mark.parametrize("link", POLYMER_LINKS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_polymer_bond_puts_hetero_residues_into_a_polymer(link, turned):
    name = "SEP" if link.head == "N" else "5CM"
    ends = [(1, 2)] if not turned else [(2, 1)]
    atoms = chain((name, "X", link.tail), (name, link.head, "X"), bonds=ends)
    atoms.hetero[:] = True
    assert find_residues(atoms).linked.all() and "ligand" not in kinds(atoms)
    atoms.atom_name[1] = "Y"
    assert not find_residues(atoms).linked.any()
    assert kinds(atoms) == ["ligand", "ligand"]


def test_names_of_residues_without_bonds():
    atoms = mixed()
    atoms.bonds = None
    residues = find_residues(atoms)
    assert len(residues) == 7 and residues.numbered is None
    assert residues.names.tolist()[:2] == ["ALA", "DA"]
    assert residues.standard.tolist() == [True, True, True, *[False] * 4]
    assert residues.bonds_between().shape == (0, 2)


def test_defaults_of_some_atoms_tell_nothing():
    """As atoms have that were added to an array, whose annotations say nothing."""
    atoms = chain(("ALA", "N", "CA", "C"), ("GLY", "N", "CA", "C"), ("GLU", "N", "CA"),
                  bonds=[(2, 3)])  # fmt: skip
    atoms.hetero[6:] = True
    atoms.set_annotation(
        "label_seq_id", np.array(["1", "1", ".", "2", ".", "2", ".", "."])
    )
    atoms.set_annotation("label_asym_id", np.array(["A"] * 8))
    for name in ("sym_id", "auth_seq_id"):
        atoms.set_annotation(name, np.array([1, 1, -1, 2, 2, -1, 3, 3]))
    assert find_residues(atoms).index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    # A free glutamate is a ligand.
    assert kinds(atoms) == ["protein", "protein", "ligand"]
    atoms.label_seq_id[3:6] = "."
    assert kinds(atoms) == ["protein", "protein", "ligand"]
    # A file that numbers no sequence.
    for nothing in ".?":
        atoms.label_seq_id[:] = nothing
        assert find_residues(atoms).numbered is None
        assert kinds(atoms) == ["protein", "protein", "ligand"]


@pytest.mark.parametrize("number", [None, ["1", "1", "2", "2", "3", "3"]])
def test_a_component_for_no_polymer_is_what_its_chain_is(number):
    atoms = chain(("GTP", "P", "O3'"), ("A", "P", "O3'"), ("HOH", "O", "H1"),
                  bonds=[(1, 2)])  # fmt: skip
    atoms.hetero[[0, 1, 4, 5]] = True
    if number is not None:
        # biotite numbers waters, too.
        atoms.set_annotation("label_seq_id", np.array(number))
    assert kinds(atoms) == ["RNA", "RNA", "ligand"]


def test_names_that_come_back():
    atoms = chain(("HOH", "O", "H1", "O", "O", "H1"), ("LIG", "C", "C", "O"))
    assert find_residues(atoms).index.tolist() == [0, 0, 1, 2, 2, 3, 3, 3]
    # Hydrogens at the end of a file go to the waters in their order.
    atoms = chain(("HOH", "O", "O"), ("GLY", "N"), ("HOH", "H1", "H1"))
    atoms.res_id[3:] = 0
    assert find_residues(atoms).index.tolist() == [0, 1, 2, 0, 1]
    # Alternate locations of one atom are one atom.
    atoms = chain(("SER", "N", "CB", "CB", "OG", "OG"))
    atoms.set_annotation("altloc_id", np.array(["", "A", "B", "A", "B"]))
    assert len(find_residues(atoms)) == 1
