"""Bonds of ligands that the component dictionary does not know."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from pyg_atomenc.chem import codes, rdkit
from pyg_atomenc.chem.components import atomic_numbers, component_atoms
from pyg_atomenc.chem.residues import find_residues
from pyg_atomenc.errors import require_package

_KINDS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": 9}


def bond_ligands(
    atoms: Any, names: Collection[str], templates: Mapping[str, Any], notes: Any
) -> None:
    """Bond residues that no table knows or a template tells, and lone heavy atoms."""
    ends = atoms.bonds.as_array()
    lone = np.bincount(ends[:, :2].ravel(), minlength=len(atoms)) == 0
    lone &= ~np.isin(atoms.element, ("H", "D", "T"))
    # Waters and ions have no bonds between heavy atoms, and need none.
    rest = codes.distinct(atoms.res_name[lone])[0].tolist()
    rest = [name for name in rest if (component_atoms(name)[1] != "H").sum() != 1]
    if not names and not rest:
        return
    residues = find_residues(atoms)
    index, places, parts = residues.index, codes.places(residues.index), []
    lone &= np.isin(atoms.res_name, rest)
    todo = np.isin(residues.names, list(names))
    todo[index[lone]] = True
    inside = ends[(index[ends[:, 0]] == index[ends[:, 1]]) & todo[index[ends[:, 0]]]]
    inside = inside[np.argsort(index[inside[:, 0]], kind="stable")]
    owner = index[inside[:, 0]]
    for residue in np.flatnonzero(todo & (np.bincount(index) > 1)).tolist():
        rows, name = places[residue], str(residues.names[residue])
        own = inside[slice(*np.searchsorted(owner, (residue, residue + 1)))]
        if name in names or len(own) == 0:
            bonds, how = _perceive(atoms, rows, templates.get(name), own)
            notes.add(f"ligands {name} {how}", 1 if how else 0)
        else:
            bonds, _ = _perceive(atoms, rows, None, own[:0])
            bonds = bonds[lone[bonds[:, :2]].any(axis=1)]
            notes.add(f"atoms of {name} bonded by distance", int(lone[rows].sum()))
        parts.append(bonds)
    # Of a bond that is there twice, the first one's type stays.
    atoms.bonds = type(atoms.bonds)(len(lone), np.concatenate([*parts, ends]))


def _perceive(atoms: Any, rows: Any, template: Any, own: Any) -> tuple[Any, str]:
    """Bonds ``[B, 3]`` in a residue, of which a file lists its own, and how found."""
    # If a file lists no bonds, RDKit bonds by distance. Orders are those of a template,
    # of the file, or such as fit where all hydrogens are there, else not known.
    listed = len(own) > 0 and template is None
    if not listed and not np.isfinite(atoms.coord[rows]).all():
        return own[:0], "without positions and bonds"
    try:
        names = "Chem Chem.rdDetermineBonds rdBase Chem.AllChem".split()
        found = [require_package(f"rdkit.{n}", "bonds by distance") for n in names]
        chem, determine, base, assign = found
    except ImportError:
        what = "orders of bonds" if listed else "bonds"
        return own[:0], f"without {what}, as RDKit is not installed"
    if template is not None:
        # Hydrogens go to the nearest atom later; a template has none.
        rows = rows[~np.isin(atoms.element[rows], ("H", "D", "T"))]
    how, ordered = "bonded by distance", None
    with base.BlockLogs():
        mol = _molecule(chem, atoms, rows, own if listed else own[:0])
        if not listed:
            with suppress(ValueError, RuntimeError):
                determine.DetermineConnectivity(mol)
        if template is not None:
            how += ", as their template does not fit"
            with suppress(ValueError, RuntimeError):
                like = chem.RemoveHs(template)
                ordered = assign.AssignBondOrdersFromTemplate(like, mol.GetMol())
                how = "bonded as their template"
        elif listed and (own[:, 2] > 1).any():
            ordered, how = mol, ""
            # For aromatic rings; what has no charges may have odd valences.
            chem.SanitizeMol(mol, catchErrors=True)
        else:
            ordered = _by_valence(chem, determine, mol)
            if listed:
                more = ", orders by valence" if ordered is not None else ""
                how = f"bonded as the file says{more}"
    if ordered is None:
        ends = rows[rdkit.bond_ends(mol)]
        how = f"{how}, without orders" if len(ends) else "without bonds"
        return np.insert(ends, 2, 0, axis=1), how
    found = rdkit.atoms_of(ordered)
    atoms.charge[rows] = [atom.GetFormalCharge() for atom in found]
    types = [_KINDS.get(b.GetBondType().name, 0) for b in rdkit.bonds_of(found)]
    return np.c_[rows[rdkit.bond_ends(ordered)], types].astype(np.int64), how


def _molecule(chem: Any, atoms: Any, rows: Any, own: Any) -> Any:
    """Atoms with positions and charges, and bonds, of which untold ones are single."""
    zero = np.zeros(len(rows), dtype=np.int64)
    columns = [atomic_numbers(atoms.element[rows]), atoms.charge[rows], *[zero] * 3]
    kinds = [{2: "DOUBLE", 3: "TRIPLE"}.get(k, "SINGLE") for k in own[:, 2].tolist()]
    bonds = zip(*np.searchsorted(rows, own[:, :2]).T.tolist(), kinds, strict=True)
    mol = rdkit.build_mol(np.stack(columns, axis=1).tolist(), bonds, explicit=False)
    places = chem.Conformer(len(rows))
    places.SetPositions(atoms.coord[rows].astype(np.float64))
    mol.AddConformer(places)
    return mol


def _by_valence(chem: Any, determine: Any, mol: Any) -> Any:
    """The molecule with orders that fit, if all hydrogens are there."""
    # RDKit tries all orders of bonds, whose number grows fast.
    if not mol.GetNumHeavyAtoms() < mol.GetNumAtoms() <= 100:
        return None
    charge = chem.GetFormalCharge(mol)
    # Most files tell no charges.
    for total in (charge,) if charge else (0, 1, -1, 2, -2):
        with suppress(ValueError, RuntimeError):
            ordered = chem.RWMol(mol)
            determine.DetermineBondOrders(ordered, charge=total, embedChiral=False)
            chem.SanitizeMol(ordered)
            return ordered
    return None
