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
