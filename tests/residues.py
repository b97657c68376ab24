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
    pairs = np.array(bonds, dtype=int).reshape(-1, 2)
    single = np.ones((len(pairs), 1), dtype=int)
    atoms.bonds = structure.BondList(len(rows), np.hstack([pairs, single]))
    return atoms
