"""Bonds of ligands that the component dictionary does not know."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Optional

import numpy as np

from pyg_atomenc.chem import codes
from pyg_atomenc.chem.residues import find_residues
from pyg_atomenc.errors import AtomEncodingError, require_package

# RDKit tries all orders of bonds, whose number grows fast.
_MOST = 100
_KINDS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": 9}


def bond_ligands(
    atoms: Any, names: Collection[str], templates: Mapping[str, Any], notes: Any
) -> None:
    """Bond the atoms of residues that have a template, or no bonds within.

    They are bonded by distance as RDKit does it. The orders are those of a template, or
    such as fit where all hydrogens are there; else they are not known.

    Args:
        atoms (biotite.structure.AtomArray): With bonds, which are added to.
        names (collection): The names of such residues.
        templates (mapping): Name → its molecule, of RDKit or as a SMILES.
        notes (Notes): Keeps what was done.

    Raises:
        ValueError: If a template is no molecule.
    """
    residues = find_residues(atoms)
    inside = np.diff(residues.index[atoms.bonds.as_array()[:, :2]], axis=1)[:, 0] == 0
    alone = np.isin(residues.names, list(names))
    # What a file tells of bonds is all that is known, but for a template.
    bonded = residues.index[atoms.bonds.as_array()[inside, 0]]
    alone[bonded] = np.isin(residues.names[bonded], list(templates))
    places, parts = codes.places(residues.index), []
    for residue in np.flatnonzero(alone).tolist():
        rows = places[residue]
        if len(rows) > 1:
            name = str(residues.names[residue])
            bonds, how = _perceive(atoms, rows, templates.get(name))
            notes.add(f"ligands {name} {how}")
            parts.append(bonds)
    if parts:
        bonds = np.concatenate(parts).reshape(-1, 3)
        more = type(atoms.bonds)(atoms.array_length(), bonds)
        atoms.bonds = atoms.bonds.merge(more)


def _perceive(atoms: Any, rows: Any, template: Optional[Any]) -> tuple[Any, str]:
    """Bonds ``[B, 3]`` between atoms of a residue, and how they were found."""
    none = np.zeros((0, 3), dtype=np.int64)
    if not np.isfinite(atoms.coord[rows]).all():
        return none, "without positions and bonds"
    try:
        chem = require_package("rdkit.Chem", "bonds by distance")
    except ImportError:
        return none, "without bonds, as RDKit is not installed"
    determine, base, assign = (
        require_package(f"rdkit.{name}", "bonds by distance")
        for name in ("Chem.rdDetermineBonds", "rdBase", "Chem.AllChem")
    )
    like = chem.MolFromSmiles(template) if isinstance(template, str) else template
    if template is not None and not isinstance(like, chem.Mol):
        raise AtomEncodingError(
            "'ligands' has a template that is no molecule: pass SMILES, or RDKit's Mol."
        )
    hydrogen = np.isin(atoms.element[rows], ("H", "D", "T"))
    # Hydrogens go to the nearest atom later; a template has none.
    rows = rows if template is None else rows[~hydrogen]
    mol, places = chem.RWMol(), chem.Conformer(len(rows))
    for i, row in enumerate(rows.tolist()):
        symbol = str(atoms.element[row]).capitalize()
        symbol = {"X": "*", "D": "H", "T": "H"}.get(symbol, symbol)
        mol.AddAtom(chem.Atom(symbol))
        places.SetAtomPosition(i, atoms.coord[row].astype(float).tolist())
    mol.AddConformer(places)
    how, kinds = "bonded by distance, without orders", {}
    with base.BlockLogs(), suppress(ValueError, RuntimeError):
        determine.DetermineConnectivity(mol)
        if template is not None:
            mol = assign.AssignBondOrdersFromTemplate(chem.RemoveHs(like), mol.GetMol())
            how, kinds = "bonded as their template", _KINDS
            atoms.charge[rows] = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
        elif hydrogen.any() and len(rows) <= _MOST:
            charge = int(atoms.charge[rows].sum())
            determine.DetermineBondOrders(mol, charge=charge, embedChiral=False)
            chem.SanitizeMol(mol)
            how, kinds = "bonded by distance", _KINDS
    ends = [(rows[b.GetBeginAtomIdx()], rows[b.GetEndAtomIdx()],
             kinds.get(b.GetBondType().name, 0)) for b in mol.GetBonds()]  # fmt: skip
    return np.array(ends, dtype=np.int64).reshape(-1, 3), how
