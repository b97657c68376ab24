"""Bonds of ligands that the component dictionary does not know."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Optional

import numpy as np

from pyg_atomenc.chem import codes
from pyg_atomenc.chem.components import component_atoms
from pyg_atomenc.chem.residues import find_residues
from pyg_atomenc.errors import require_package

# RDKit tries all orders of bonds, whose number grows fast.
_MOST = 100
_KINDS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": 9}


def bond_ligands(
    atoms: Any, names: Collection[str], templates: Mapping[str, Any], notes: Any
) -> None:
    """Bond residues that no table knows or that have a template, and lone heavy atoms.

    They are bonded by distance as RDKit does it, if the file does not list their bonds.
    The orders are those of a template or of the file, or such as fit where all
    hydrogens are there; else they are not known.

    Args:
        atoms (biotite.structure.AtomArray): With bonds, which are added to.
        names (collection): The names of such residues.
        templates (mapping): Name → its molecule, of RDKit.
        notes (Notes): Keeps what was done.
    """
    ends = atoms.bonds.as_array()
    lone = np.bincount(ends[:, :2].ravel(), minlength=atoms.array_length()) == 0
    lone &= ~np.isin(atoms.element, ("H", "D", "T"))
    # Waters and ions have no bonds between heavy atoms, and need none.
    rest = codes.distinct(atoms.res_name[lone])[0].tolist()
    rest = [name for name in rest if _is_compound(name)]
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
    for residue in np.flatnonzero(todo).tolist():
        rows, name = places[residue], str(residues.names[residue])
        if len(rows) == 1:
            continue
        own = inside[slice(*np.searchsorted(owner, (residue, residue + 1)))]
        if name in names or len(own) == 0:
            bonds, how = _perceive(atoms, rows, templates.get(name), own)
            notes.add(f"ligands {name} {how}", 1 if how else 0)
        else:
            bonds, _ = _perceive(atoms, rows, None, own[:0])
            bonds = bonds[lone[bonds[:, :2]].any(axis=1)]
            notes.add(f"atoms of {name} bonded by distance", int(lone[rows].sum()))
        parts.append(bonds)
    if parts:
        bonds = np.concatenate(parts).reshape(-1, 3)
        more = type(atoms.bonds)(atoms.array_length(), bonds)
        atoms.bonds = atoms.bonds.merge(more)


def _is_compound(name: str) -> bool:
    elements = component_atoms(name)[1]
    return len(elements) != 1 and (elements != "H").sum() != 1


def _perceive(
    atoms: Any, rows: Any, template: Optional[Any], own: Any
) -> tuple[Any, str]:
    """Bonds ``[B, 3]`` between atoms of a residue, and how they were found.

    ``own`` are those that the file lists ``[B, 3]``, biotite's types of bonds.
    """
    listed = len(own) > 0 and template is None
    if not listed and not np.isfinite(atoms.coord[rows]).all():
        return own[:0], "without positions and bonds"
    try:
        chem = require_package("rdkit.Chem", "bonds by distance")
    except ImportError:
        what = "orders of bonds" if listed else "bonds"
        return own[:0], f"without {what}, as RDKit is not installed"
    determine, base = (
        require_package(f"rdkit.{name}", "bonds by distance")
        for name in ("Chem.rdDetermineBonds", "rdBase")
    )
    if template is not None:
        # Hydrogens go to the nearest atom later; a template has none.
        rows = rows[~np.isin(atoms.element[rows], ("H", "D", "T"))]
    way = "as the file says" if listed else "by distance"
    with base.BlockLogs():
        mol = _molecule(chem, atoms, rows, own if listed else own[:0])
        if not listed:
            with suppress(ValueError, RuntimeError):
                determine.DetermineConnectivity(mol)
        if template is not None:
            ordered, how = _as_template(chem, mol, template), "bonded as their template"
        elif listed and (own[:, 2] > 1).any():
            ordered, how = mol, ""
            # For aromatic rings; what has no charges may have odd valences.
            chem.SanitizeMol(mol, catchErrors=True)
        else:
            ordered = _by_valence(chem, determine, mol)
            how = f"bonded {way}{', orders by valence' if listed else ''}"
    kinds = {} if ordered is None else _KINDS
    if ordered is None:
        ordered, how = mol, f"bonded {way}, without orders"
        how += ", as their template does not fit" if template is not None else ""
    else:
        atoms.charge[rows] = [atom.GetFormalCharge() for atom in ordered.GetAtoms()]
    ends = [(rows[b.GetBeginAtomIdx()], rows[b.GetEndAtomIdx()],
             kinds.get(b.GetBondType().name, 0))
            for b in ordered.GetBonds()]  # fmt: skip
    return np.array(ends, dtype=np.int64).reshape(-1, 3), how


def _molecule(chem: Any, atoms: Any, rows: Any, own: Any) -> Any:
    """Atoms with positions and charges, and bonds, of which untold ones are single."""
    mol, places = chem.RWMol(), chem.Conformer(len(rows))
    for i, row in enumerate(rows.tolist()):
        symbol = str(atoms.element[row]).capitalize()
        atom = chem.Atom({"X": "*", "D": "H", "T": "H"}.get(symbol, symbol))
        atom.SetFormalCharge(int(atoms.charge[row]))
        mol.AddAtom(atom)
        places.SetAtomPosition(i, atoms.coord[row].astype(float).tolist())
    mol.AddConformer(places)
    orders = {2: chem.BondType.DOUBLE, 3: chem.BondType.TRIPLE}
    for one, other, kind in own.tolist():
        ends = np.searchsorted(rows, (one, other)).tolist()
        mol.AddBond(*ends, orders.get(kind, chem.BondType.SINGLE))
    return mol


def _as_template(chem: Any, mol: Any, like: Any) -> Any:
    with suppress(ValueError, RuntimeError):
        assign = require_package("rdkit.Chem.AllChem", "orders of bonds")
        return assign.AssignBondOrdersFromTemplate(chem.RemoveHs(like), mol.GetMol())
    return None


def _by_valence(chem: Any, determine: Any, mol: Any) -> Any:
    """The molecule with orders that fit, if all hydrogens are there."""
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    if 1 not in numbers or len(numbers) > _MOST:
        return None
    charge = sum(atom.GetFormalCharge() for atom in mol.GetAtoms())
    # Most files tell no charges.
    for total in (charge,) if charge else (0, 1, -1, 2, -2):
        with suppress(ValueError, RuntimeError):
            ordered = chem.RWMol(mol)
            determine.DetermineBondOrders(ordered, charge=total, embedChiral=False)
            chem.SanitizeMol(ordered)
            return ordered
    return None
