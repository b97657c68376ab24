"""What RDKit sees in the atoms and bonds of a graph."""

from typing import Any

import torch
from torch import Tensor

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, require_package

# RDKit's names of the columns of `edge_attr`; other bonds count no valence.
_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", "ZERO")
BOND_COLUMNS = len(_BONDS)
"""The number of bond types, which are the columns of ``edge_attr``."""
HYBRIDIZATIONS = ("other", "S", "SP", "SP2", "SP3", "SP3D", "SP3D2")
"""The codes of :func:`hybridization`, by their place."""


def to_mol(data: AtomTokenData) -> Any:
    """An RDKit molecule of a graph, with rings, hybridisation and positions.

    It is not sanitized: what a file says holds, whether or not it is valid chemistry.
    """
    chem = require_package("rdkit.Chem", "AtomFeatures")
    base = require_package("rdkit.rdBase", "AtomFeatures")
    mol = chem.RWMol()
    for atom in _atoms(chem, data):
        mol.AddAtom(atom)
    kinds = [getattr(chem.BondType, name) for name in _BONDS]
    bonds, kind = _bonds(data)
    for a, b, k in zip(*bonds.tolist(), kind.tolist(), strict=True):
        mol.AddBond(a, b, kinds[k])
    with base.BlockLogs():
        mol.UpdatePropertyCache(strict=False)
        chem.GetSSSR(mol)
        chem.SetConjugation(mol)
        chem.SetHybridization(mol)
    return mol


def hybridization(mol: Any) -> Tensor:
    """The hybridisation of every atom ``[N]``, int64, into :data:`HYBRIDIZATIONS`."""
    names = require_package("rdkit.Chem", "AtomFeatures").HybridizationType.names
    code = torch.zeros(max(map(int, names.values())) + 1, dtype=torch.long)
    for i, name in enumerate(HYBRIDIZATIONS):
        if name in names:
            code[int(names[name])] = i
    # Atoms by index: RDKit's own iterator takes twice as long.
    atom = mol.GetAtomWithIdx
    found = [atom(i).GetHybridization() for i in range(mol.GetNumAtoms())]
    return code[torch.tensor(found, dtype=torch.long)]


def ring_size(mol: Any, largest: int) -> Tensor:
    """The size of every atom's smallest ring ``[N]``, 0 for none or a larger one."""
    size = torch.zeros(mol.GetNumAtoms(), dtype=torch.long)
    rings = mol.GetRingInfo().AtomRings()
    # The smallest rings come last, and stay.
    for count in sorted({len(ring) for ring in rings}, reverse=True):
        if count <= largest:
            members = [atom for ring in rings if len(ring) == count for atom in ring]
            size[torch.tensor(members)] = count
    return size


def chirality(mol: Any, pos: Tensor) -> Tensor:
    """The CIP code of every stereocentre by its positions ``[N]``: 1 for R, 2 for S."""
    chem = require_package("rdkit.Chem", "AtomFeatures")
    base = require_package("rdkit.rdBase", "AtomFeatures")
    conformer = chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(pos.double().nan_to_num(0.0).cpu().numpy())
    mol.AddConformer(conformer, assignId=True)
    with base.BlockLogs():
        chem.AssignAtomChiralTagsFromStructure(mol)
        chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    code = torch.zeros(mol.GetNumAtoms(), dtype=torch.long)
    for atom in mol.GetAtoms():
        if atom.HasProp("_CIPCode"):
            code[atom.GetIdx()] = {"R": 1, "S": 2}.get(atom.GetProp("_CIPCode"), 0)
    # What lacks a neighbour's position has no handedness.
    lost = pos.isnan().any(dim=1).cpu()
    for bond in mol.GetBonds() if bool(lost.any()) else ():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if lost[a] or lost[b]:
            code[a] = code[b] = 0
    return code


def aromatic_atoms(data: AtomTokenData) -> Tensor:
    """Whether an atom has an aromatic bond ``[N]``, bool."""
    found = torch.zeros(data.z.numel(), dtype=torch.bool)
    bonds, kind = _bonds(data)
    found[bonds[:, kind == _BONDS.index("AROMATIC")].flatten()] = True
    return found


def bonded_hydrogens(data: AtomTokenData) -> Tensor:
    """How many atoms bonded to an atom are hydrogens ``[N]``, int64."""
    count = torch.zeros(data.z.numel(), dtype=torch.long)
    bonds, _ = _bonds(data)
    hydrogen = (data.z.cpu() == 1).long()
    for source, target in (bonds, bonds.flip(0)):
        count.index_add_(0, target, hydrogen[source])
    return count


def bonded_atoms(data: AtomTokenData) -> Tensor:
    """How many atoms are bonded to an atom ``[N]``, int64."""
    return _bonds(data)[0].flatten().bincount(minlength=data.z.numel())


def check_bond_types(data: AtomTokenData) -> None:
    """Raise a ValueError unless ``edge_attr`` holds one-hot bond types."""
    if data.edge_attr is None or data.edge_attr.dim() != 2:
        raise AtomEncodingError(
            "'edge_attr' is missing from the data, or no matrix: read it with "
            "from_structure, from_atom_array, from_smiles or from_rdmol, or set the "
            "one-hot bond types [E, 5] of pyg_atomenc.io.BOND_TYPES."
        )
    if data.edge_attr.size(1) != len(_BONDS):
        raise AtomEncodingError(
            f"'edge_attr' has {data.edge_attr.size(1)} columns: the bond types of "
            f"pyg_atomenc.io.BOND_TYPES are {len(_BONDS)}."
        )


def _bonds(data: AtomTokenData) -> tuple[Tensor, Tensor]:
    """Each bond once ``[2, B]`` with its column of ``edge_attr`` ``[B]``."""
    if data.edge_index is None:
        return torch.empty((2, 0), dtype=torch.long), torch.empty(0, dtype=torch.long)
    check_bond_types(data)
    # A bond may be listed one way or both; which of them stands first does not matter.
    apart = data.edge_index[0] != data.edge_index[1]
    ends = data.edge_index[:, apart].cpu().sort(dim=0).values
    ends, first = _unique_bonds(ends)
    return ends, data.edge_attr[apart].cpu()[first].argmax(dim=1)


def _unique_bonds(bonds: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of atoms once, and where the first bond between them stands."""
    order = (bonds[0] * (bonds.max() + 1 if bonds.numel() else 1) + bonds[1]).argsort(
        stable=True
    )
    pairs = bonds[:, order]
    new = torch.ones_like(order, dtype=torch.bool)
    new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(dim=0)
    return pairs[:, new], order[new]


def _atoms(chem: Any, data: AtomTokenData) -> Any:
    """One atom of RDKit for every atom; equal ones are the same object."""
    implicit = (data.num_hydrogens.cpu() - bonded_hydrogens(data)).clamp(min=0)
    aromatic = aromatic_atoms(data)
    charge = data.formal_charge.cpu()
    made: dict[tuple[int, ...], Any] = {}
    rows = torch.stack([data.z.cpu(), charge, implicit, aromatic.long()], dim=1)
    for row in map(tuple, rows.tolist()):
        if row not in made:
            atom = made[row] = chem.Atom(row[0])
            atom.SetFormalCharge(row[1])
            atom.SetNumExplicitHs(row[2])
            atom.SetNoImplicit(True)
            atom.SetIsAromatic(bool(row[3]))
        yield made[row]
