"""Reference conformers and residue types, as the Boltz features need them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, require_package

_AMINO_ACIDS = (
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL"
).split()
#: Boltz's residue types, in the order of their codes.
RESIDUE_TYPES = [
    "<pad>",
    "-",
    *_AMINO_ACIDS,
    "UNK",
    *"AGCUN",
    *"DA DG DC DT DN".split(),
]
PROTEIN, DNA, RNA, OTHER = range(4)
_UNKNOWN = {PROTEIN: "UNK", DNA: "DN", RNA: "N", OTHER: "UNK"}
_PROTEIN_BACKBONE = "N CA C O".split()
_NUCLEIC_BACKBONE = "P OP1 OP2 O5' C5' C4' O4' C3' O3' C2' O2' C1'".split()


# What residues are called that nobody named.
_NAMELESS = ("", "UNL")


def residue_names(data: AtomTokenData) -> list[str]:
    """The name of every token's residue, which need not be the token's own."""
    if "res_name" not in data:
        return list(data.get("token_name", [""] * data.total_num_tokens))
    count = data.atom_to_token.numel()
    first = torch.full((data.total_num_tokens,), count)
    first.scatter_reduce_(0, data.atom_to_token, torch.arange(count), "amin")
    names = [*data.res_name, ""]
    return [names[atom] for atom in first.tolist()]


def is_structure(data: AtomTokenData) -> bool:
    """Whether the tokens are, or are parts of, residues that have names."""
    return "token_res_id" in data and bool(set(residue_names(data)) - set(_NAMELESS))


def read_as_methionine(data: AtomTokenData) -> None:
    """Turn selenomethionine into methionine; nothing that was read is written to."""
    names = residue_names(data)
    if not is_structure(data) or "MSE" not in names:
        return
    in_residue = torch.tensor([name == "MSE" for name in names])[data.atom_to_token]
    for key in ("token_name", "res_name"):
        if key in data:
            data[key] = ["MET" if name == "MSE" else name for name in data[key]]
    data.z = torch.where(in_residue & (data.z == 34), 16, data.z)
    atoms = zip(data.atom_name, in_residue.tolist(), strict=True)
    data.atom_name = [
        "SD" if inside and name == "SE" else name for name, inside in atoms
    ]


def reference_spaces(data: AtomTokenData) -> Tensor:
    """The residue of every atom ``[N]``; a molecule is one."""
    index = data.atom_to_token
    if not is_structure(data):
        return torch.zeros_like(index)
    identity = list(
        zip(
            data.token_chain,
            data.token_res_id.tolist(),
            data.token_ins_code,
            residue_names(data),
            strict=True,
        )
    )
    # Neighbouring tokens of one residue share its space.
    new = [a != b for a, b in zip(identity[1:], identity, strict=False)]
    return torch.tensor([0, *new], dtype=torch.long).cumsum(0)[index]


def reference_conformers(data: AtomTokenData, seed: int) -> tuple[Tensor, Tensor]:
    """Reference positions ``[N, 3]`` in ångström and charges ``[N]``."""
    if is_structure(data):
        return _component_conformers(data)
    charge = data.formal_charge.float()
    if "pos" in data:
        return data.pos.clone(), charge
    if "given_smiles" not in data:
        raise AtomEncodingError(
            "'pos' is missing from the data, which has no SMILES either: embed the "
            "molecule with RDKit and read it with from_rdmol."
        )
    return _embed(data, seed), charge


def _component_conformers(data: AtomTokenData) -> tuple[Tensor, Tensor]:
    info = require_package("biotite.structure.info", "BoltzFeatures")
    pos, charge = data.pos.clone(), data.formal_charge.float()
    space = reference_spaces(data)
    names = np.array(residue_names(data), dtype=object)[data.atom_to_token.numpy()]
    known: dict[str, dict[str, tuple[Any, float]]] = {}
    order = space.argsort(stable=True)
    for atoms in order.split(space.bincount().tolist()):
        if len(atoms) == 0:
            continue
        name = names[int(atoms[0])]
        if name not in known:
            known[name] = _component(info, name)
        found = [known[name].get(data.atom_name[atom]) for atom in atoms.tolist()]
        # A residue with atoms that its component lacks keeps its own conformer.
        if all(entry is not None and np.isfinite(entry[0]).all() for entry in found):
            entries = [entry for entry in found if entry is not None]
            pos[atoms] = torch.from_numpy(np.stack([entry[0] for entry in entries]))
            charge[atoms] = torch.tensor([entry[1] for entry in entries])
    return pos, charge


def _component(info: Any, name: str) -> dict[str, tuple[Any, float]]:
    try:
        component = info.residue(name)
    except KeyError:
        return {}
    charges = [float(charge) for charge in component.charge]
    rows = zip(component.atom_name, component.coord, charges, strict=True)
    return {str(atom): (coord, charge) for atom, coord, charge in rows}


def _embed(data: AtomTokenData, seed: int) -> Tensor:
    chem = require_package("rdkit.Chem", "BoltzFeatures")
    embedding = require_package("rdkit.Chem.AllChem", "BoltzFeatures")
    # Hydrogens come behind all other atoms, as from_smiles adds them.
    mol = chem.AddHs(chem.MolFromSmiles(data.given_smiles))
    parameters = embedding.ETKDGv3()
    parameters.randomSeed = seed
    if embedding.EmbedMolecule(mol, parameters) != 0:
        parameters.useRandomCoords = True
        if embedding.EmbedMolecule(mol, parameters) != 0:
            raise AtomEncodingError(
                f"'smiles' is {data.given_smiles!r}, for which RDKit finds no 3D "
                f"conformer: embed it yourself and read it with from_rdmol."
            )
    pos = torch.from_numpy(mol.GetConformer().GetPositions()).float()
    return pos[: data.atom_to_token.size(0)]


def molecule_types(data: AtomTokenData) -> list[int]:
    """Protein, DNA, RNA or other for every token, by its residue's name."""
    if not is_structure(data):
        return [OTHER] * data.total_num_tokens
    info = require_package("biotite.structure.info", "BoltzFeatures")
    kinds: dict[str, int] = {}
    names = residue_names(data)
    for name in set(names):
        link = (info.link_type(name) or "").upper()
        kinds[name] = OTHER
        for word, kind in (("PEPTIDE", PROTEIN), ("DNA", DNA), ("RNA", RNA)):
            if word in link and "LINKING" in link:
                kinds[name] = kind
    return [kinds[name] for name in names]


def backbone_codes(data: AtomTokenData) -> Tensor:
    """The kind of every atom in a backbone ``[N]``, 0 for none."""
    protein = {name: i + 1 for i, name in enumerate(_PROTEIN_BACKBONE)}
    nucleic = {name: i + 5 for i, name in enumerate(_NUCLEIC_BACKBONE)}
    table = {PROTEIN: protein, DNA: nucleic, RNA: nucleic, OTHER: {}}
    kinds = molecule_types(data)
    atoms = zip(data.atom_name, data.atom_to_token.tolist(), strict=True)
    return torch.tensor([table[kinds[token]].get(name, 0) for name, token in atoms])


def residue_codes(data: AtomTokenData) -> dict[str, Tensor]:
    """``token_res_type``, ``token_modified`` and ``token_mol_type``, each ``[T]``."""
    kinds = molecule_types(data)
    names = residue_names(data) if is_structure(data) else [""] * len(kinds)
    code = {name: i for i, name in enumerate(RESIDUE_TYPES)}
    types, modified = [], []
    for name, kind in zip(names, kinds, strict=True):
        standard = kind != OTHER and name in code
        types.append(code[name if standard else _UNKNOWN[kind]])
        modified.append(int(kind != OTHER and not standard))
    return {
        "token_res_type": torch.tensor(types),
        "token_modified": torch.tensor(modified),
        "token_mol_type": torch.tensor(kinds),
    }
