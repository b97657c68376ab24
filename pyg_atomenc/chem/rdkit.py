"""RDKit's molecules: checked, made of biotite's `AtomArray` or a graph, and read."""

import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_atomenc.checks import check, check_type
from pyg_atomenc.chem import residues
from pyg_atomenc.chem.codes import Integers
from pyg_atomenc.chem.components import Conformer, atomic_numbers, ideal_conformer
from pyg_atomenc.errors import require_package

# By the place of each, its code; small labels of the CIP rules are pseudoasymmetric.
HYBRIDIZATIONS = ("other", "S", "SP", "SP2", "SP3", "SP3D", "SP3D2")
CHIRALITY = ("", "R", "S", "r", "s")
STEREO = ("", "E", "Z", "e", "z", "M", "P", "m", "p")

# About a second; few molecules need more than 10,000, a protein of 20 kDa 600.
_MOST_COMPARISONS = 1_250_000
_INDEX, _LABEL = "_pyg_atomenc_index", "_CIPCode"
# RDKit's names of BOND_TYPES; other bonds count no valence.
_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", "ZERO")


def is_mol(source: Any) -> bool:
    """Whether this comes from RDKit, without importing it."""
    return type(source).__module__.startswith("rdkit")


def check_mol(mol: Any) -> None:
    """Raise a ValueError unless ``mol`` is an RDKit molecule with atoms."""
    mend = "pass an rdkit.Chem.Mol, or a SMILES to from_smiles."
    if mol is None:
        mend = "RDKit could not read it: check what it was read from."
    check_type("mol", mol, require_package("rdkit.Chem", "a molecule").Mol, mend)
    check(mol.GetNumAtoms(), "'mol' has no atoms: pass one with at least one atom.")


def residues_of(source: Any) -> residues.Residues:
    """Those of an ``AtomArray``, or a molecule as one of its atoms, or a ValueError."""
    if not is_mol(source):
        residues.check_atom_array(source)
        return residues.find_residues(source)
    check_mol(source)
    interface = require_package("biotite.interface.rdkit", "residues of a molecule")
    bare = require_package("rdkit.Chem", "a molecule").Mol(source)
    bare.RemoveAllConformers()
    with warnings.catch_warnings(action="ignore"):
        atoms = interface.from_mol(bare, add_hydrogen=False)[0]
    # RDKit pads what it takes from columns of a PDB file.
    for name in ("chain_id", "ins_code", "res_name"):
        setattr(atoms, name, np.char.strip(getattr(atoms, name)))
    atoms.res_name = np.where(atoms.res_name == "", "UNL", atoms.res_name)
    return residues.find_residues(atoms)


def as_mol(source: Any) -> Any:
    """A ``Mol``, or an ``AtomArray`` with bonds as one, else a ValueError."""
    if not type(source).__module__.startswith("biotite"):
        check_mol(source)
        return source
    residues.check_atom_array(source)
    residues.check_bonds(source)
    chem = require_package("rdkit.Chem", "an AtomArray as a molecule")
    kinds = require_package("biotite.structure", "an AtomArray as a molecule").BondType
    bonds = source.bonds.copy()
    bonds.remove_aromaticity()
    names = {int(kind): kind.name for kind in kinds}
    names |= {kinds.ANY: "UNSPECIFIED", kinds.COORDINATION: "SINGLE"}
    pairs = [(a, b, names[kind]) for a, b, kind in bonds.as_array().tolist()]
    z = atomic_numbers(source.element)
    charge = getattr(source, "charge", 0 * z).astype(int)
    rows = np.stack([z, charge, *[0 * z] * 3], axis=1).tolist()
    mol = build_mol(rows, pairs, explicit=(z == 1).any())
    # Charges are often missing from files: valences may be odd, and stay so.
    steps = chem.SANITIZE_ALL ^ chem.SANITIZE_PROPERTIES
    with require_package("rdkit.rdBase", "an AtomArray as a molecule").BlockLogs():
        chem.SanitizeMol(mol, steps, catchErrors=True)
    return mol


def build_mol(atoms: Iterable[Any], bonds: Iterable[Any], explicit: bool) -> Any:
    """A molecule, with no hydrogens but those that are told where they are explicit."""
    # Of atoms' number, charge, implicit hydrogens, radical electrons and whether they
    # are aromatic, and of bonds' atoms and RDKit's name of their type.
    chem = require_package("rdkit.Chem", "a molecule")
    mol = chem.RWMol()
    # Equal atoms are made once: RDKit copies what it adds.
    made: dict[tuple[int, ...], Any] = {}
    for row in map(tuple, atoms):
        if row not in made:
            atom = made[row] = chem.Atom(row[0])
            atom.SetFormalCharge(row[1])
            atom.SetNumExplicitHs(row[2])
            atom.SetNoImplicit(bool(explicit))
            atom.SetNumRadicalElectrons(row[3])
            atom.SetIsAromatic(bool(row[4]))
        mol.AddAtom(made[row])
    for a, b, kind in bonds:
        mol.AddBond(a, b, chem.BondType.names[kind])
    return mol


def residue_columns(mol: Any, index: Optional[Sequence[int]] = None) -> dict[str, Any]:
    """PDB information on the residues of some atoms, -1 for none, or of all atoms."""
    # Without any, they are in the hetero residue UNL 0; a hydrogen is in its atom's.
    rows = []
    for i in range(mol.GetNumAtoms()) if index is None else index:
        atom = mol.GetAtomWithIdx(i) if i >= 0 else None
        info = atom and atom.GetPDBResidueInfo()
        if atom and not info and atom.GetAtomicNum() == 1:
            near = [other.GetPDBResidueInfo() for other in atom.GetNeighbors()]
            info = next(filter(None, near), None)
        if info:
            texts = info.GetResidueName(), info.GetChainId(), info.GetInsertionCode()
            name, chain, code = (text.strip() for text in texts)
            number, hetero = info.GetResidueNumber(), info.GetIsHeteroAtom()
            rows.append((name or "UNL", chain, code, number, hetero))
        else:
            rows.append(("UNL" if atom else "", "", "", 0, atom is not None))
    names, chains, codes, numbers, are_hetero = map(list, zip(*rows, strict=True))
    known: dict[str, Any] = dict(res_name=names, chain_id=chains, ins_code=codes)
    return known | dict(res_id=torch.tensor(numbers), hetero=torch.tensor(are_hetero))


def atoms_of(mol: Any) -> list[Any]:
    """The atoms, by index: RDKit's own iterator takes twice as long."""
    return list(map(mol.GetAtomWithIdx, range(mol.GetNumAtoms())))


def bonds_of(atoms: list[Any]) -> list[Any]:
    """The bonds of all atoms: to find one by its index, RDKit counts from the first."""
    found = {bond.GetIdx(): bond for atom in atoms for bond in atom.GetBonds()}
    return [found[index] for index in range(len(found))]


def ends_of(bonds: list[Any]) -> list[tuple[int, int]]:
    """The two atoms of every bond."""
    return [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds]


def bond_ends(mol: Any) -> Integers:
    """The same of a molecule ``[B, 2]``, int64."""
    return np.array(ends_of(bonds_of(atoms_of(mol))), dtype=np.int64).reshape(-1, 2)


def without_hydrogens(mol: Any) -> tuple[Any, Integers]:
    """A copy without plain hydrogens, rings perceived, and its atoms' places in it."""
    chem = require_package("rdkit.Chem", "a molecule")
    heavy = chem.Mol(mol)
    heavy.UpdatePropertyCache(strict=False)
    index = np.arange(mol.GetNumAtoms())
    if mol.GetNumHeavyAtoms() < len(index):
        for atom in atoms_of(heavy):
            atom.SetIntProp(_INDEX, atom.GetIdx())
        heavy = chem.RemoveHs(heavy, sanitize=False)
        heavy.UpdatePropertyCache(strict=False)
        index = np.array([atom.GetIntProp(_INDEX) for atom in atoms_of(heavy)])
    # A molecule that was never sanitized does not know its rings.
    chem.FastFindRings(heavy)
    return heavy, index


def with_hydrogens(mol: Any, piece: Integers) -> Integers:
    """Give each hydrogen that is bonded to a heavy atom that atom's piece ``[N]``."""
    out = piece.copy()
    for atom in atoms_of(mol) if mol.GetNumHeavyAtoms() < len(piece) else ():
        for near in atom.GetNeighbors() if atom.GetAtomicNum() == 1 else ():
            if near.GetAtomicNum() != 1:
                out[atom.GetIdx()] = piece[near.GetIdx()]
    return out


def graph_atoms(data: Any, bonds: Tensor, types: Tensor) -> Tensor:
    """A graph's atoms for :func:`build_mol` ``[N, 5]``, of ``unique_bonds``."""
    z, charge, hydrogens = data.z.cpu(), data.formal_charge.cpu(), data.num_hydrogens
    # Hydrogens may be atoms, implicit, or both: each counts once.
    ends, others = torch.cat([bonds, bonds.flip(0)], dim=1)
    bonded = ends[z[others] == 1].bincount(minlength=len(z))
    implicit = (hydrogens.cpu() - bonded).clamp(min=0)
    radicals = data.get("num_radical_electrons", 0 * z).cpu().clamp(min=0)
    aromatic = torch.zeros_like(z)
    aromatic[bonds[:, types == _BONDS.index("AROMATIC")].flatten()] = 1
    return torch.stack([z, charge, implicit, radicals, aromatic], dim=1)


def graph_mol(atoms: Tensor, bonds: Tensor, types: Tensor) -> Any:
    """A molecule of :func:`graph_atoms`, rings perceived, valid chemistry or not."""
    chem = require_package("rdkit.Chem", "AtomFeatures")
    pairs = zip(*bonds.tolist(), map(_BONDS.__getitem__, types.tolist()), strict=True)
    mol = build_mol(atoms.tolist(), pairs, explicit=True)
    with require_package("rdkit.rdBase", "AtomFeatures").BlockLogs():
        mol.UpdatePropertyCache(strict=False)
        chem.GetSSSR(mol)
        chem.SetConjugation(mol)
        chem.SetHybridization(mol)
    return mol


def hybridization_and_ring(mol: Any) -> Tensor:
    """Each atom's code of :data:`HYBRIDIZATIONS` and its smallest ring ``[2, N]``."""
    names = require_package("rdkit.Chem", "AtomFeatures").HybridizationType.names
    code = {names[name]: i for i, name in enumerate(HYBRIDIZATIONS) if name in names}
    kinds = [code.get(atom.GetHybridization(), 0) for atom in atoms_of(mol)]
    sizes = list(map(mol.GetRingInfo().MinAtomRingSize, range(len(kinds))))
    return torch.tensor([kinds, sizes])


def chirality_of_positions(mol: Any, pos: Tensor) -> Tensor:
    """As :func:`stereo_codes`, of the stereocentres that positions ``[N, 3]`` tell."""
    chem = require_package("rdkit.Chem", "AtomFeatures")
    conformer = chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(pos.double().nan_to_num(0.0).cpu().numpy())
    mol.AddConformer(conformer, assignId=True)
    with require_package("rdkit.rdBase", "AtomFeatures").BlockLogs():
        chem.AssignStereochemistryFrom3D(mol)
    code = torch.tensor(stereo_codes(mol, atoms_of(mol), [])[0])
    # What lacks a neighbour's position has no handedness.
    ends = torch.from_numpy(bond_ends(mol))
    code[ends[pos.isnan().any(dim=1).cpu()[ends].any(dim=1)]] = 0
    return code


def stereo_codes(mol: Any, atoms: list[Any], bonds: list[Any]) -> list[list[int]]:
    """The CIP codes of atoms and bonds, places in ``CHIRALITY`` and ``STEREO``."""
    # Of a molecule whose rings and stereo are perceived, which keeps the labels. -1 for
    # a centre where the rules take too long. RDKit's older labels invert sulfur.
    for atom in atoms:
        atom.ClearProp(_LABEL)
    label = require_package("rdkit.Chem.rdCIPLabeler", "stereo").AssignCIPLabels
    try:
        label(mol, maxRecursiveIterations=_MOST_COMPARISONS)
    except RuntimeError:
        marked = [atom for atom in atoms if atom.GetChiralTag() > 0]
        for item in marked + [bond for bond in bonds if bond.GetStereo() > 0]:
            if not item.HasProp(_LABEL):
                item.SetProp(_LABEL, "?")
    found = []
    for items, names in ((atoms, CHIRALITY), (bonds, STEREO)):
        code = {"?": -1} | {name: i for i, name in enumerate(names)}
        labels = [i.GetProp(_LABEL) if i.HasProp(_LABEL) else "" for i in items]
        found.append([code.get(label, 0) for label in labels])
    return found


def mol_of_smiles(data: Any) -> Any:
    """The molecule of a graph's ``given_smiles``, or ``None`` if its atoms differ."""
    chem, z = require_package("rdkit.Chem", "a graph's SMILES"), data.z.tolist()
    mol = chem.MolFromSmiles(data.get("given_smiles") or "") or chem.Mol()
    if mol.GetNumAtoms() != len(z):
        mol = chem.AddHs(mol)
    return mol if [atom.GetAtomicNum() for atom in atoms_of(mol)] == z else None


def short_name(symbol: str, number: int) -> str:
    """An atom's name of four characters at most; large numbers are hybrid-36 (A00)."""
    width = 4 - len(symbol)
    value = number - 10**width + 10 * 36 ** (width - 1)
    if number >= 10**width and value < 36**width:
        return symbol + np.base_repr(value, 36)
    # What does not fit behind two letters does behind one.
    over = number >= 10**width and width < 3
    return short_name(symbol[0], number) if over else f"{symbol}{number}"


def rank_names(smiles: str) -> list[str]:
    """Boltz's names of a SMILES' atoms: ranks among all, with hydrogens as the last."""
    chem = require_package("rdkit.Chem", "names of atoms")
    mol = chem.AddHs(chem.MolFromSmiles(smiles))
    ranks = zip(atoms_of(mol), chem.CanonicalRankAtoms(mol), strict=True)
    return [short_name(atom.GetSymbol().upper(), rank + 1) for atom, rank in ranks]


def embed(mol: Any, seed: int, pos: Optional[Tensor], retry: bool) -> Optional[Tensor]:
    """A conformer of a molecule or SMILES ``[N + H, 3]`` in Å, not to be edited."""
    # By ETKDG and UFF, as in Boltz's `compute_3d_conformer`, with implicit hydrogens as
    # last atoms; None if RDKit finds none. `pos` [N, 3] tells the handedness.
    chem = require_package("rdkit.Chem", "a conformer")
    mol = chem.MolFromSmiles(mol) if isinstance(mol, str) else chem.Mol(mol)
    if pos is not None and pos.isfinite().all():
        conformer = chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(pos.double().numpy())
        mol.AddConformer(conformer)
        chem.AssignStereochemistryFrom3D(mol)
    mol.RemoveAllConformers()
    return _embed(chem.AddHs(mol).ToBinary(), seed, retry)


@lru_cache(maxsize=1_000)
def _embed(molecule: bytes, seed: int, retry: bool) -> Optional[Tensor]:
    chem = require_package("rdkit.Chem.AllChem", "a conformer")
    mol, parameters = chem.Mol(molecule), chem.ETKDGv3()
    chem.FastFindRings(mol)
    parameters.randomSeed = seed
    # A chlorophyll takes seconds; by RDKit's default, a minute.
    parameters.maxIterations = 100
    # Of a chain of 300 carbons each try takes long, and finds nothing.
    if mol.GetNumAtoms() > 800:
        return None
    with require_package("rdkit.rdBase", "a conformer").BlockLogs():
        for parameters.useRandomCoords in (False, True)[: 1 + retry]:
            # What UFF knows no parameters for stays as it was embedded.
            with suppress(RuntimeError, ValueError):
                if chem.EmbedMolecule(mol, parameters) == 0:
                    chem.UFFOptimizeMolecule(mol, maxIters=1000)
            if mol.GetNumConformers() > 0:
                return torch.from_numpy(mol.GetConformer().GetPositions()).float()
    return None


@lru_cache(maxsize=10_000)
def component_conformer(name: str, seed: int, computed: bool) -> Conformer:
    """The ideal conformer, else RDKit's, where a single heavy atom is at the origin."""
    known = ideal_conformer(name)
    if not (computed or np.isnan([at for at, _ in known.values()]).any()) or not known:
        return known
    residue = require_package("biotite.structure.info", "conformers").residue
    with warnings.catch_warnings(action="ignore"):
        atoms = residue(name, allow_missing_coord=True)
    # Boltz does not retry, but takes the ideal one.
    pos = embed(as_mol(atoms), seed, torch.from_numpy(atoms.coord), False)
    if np.isin(atoms.element, ("H", "D"), invert=True).sum() == 1:
        pos = torch.zeros(len(known), 3)
    rows = zip(known.items(), [] if pos is None else pos.numpy(), strict=False)
    return {atom: (at, charge) for (atom, (_, charge)), at in rows} or known
