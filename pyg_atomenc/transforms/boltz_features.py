"""`BoltzFeatures`: what Boltz's atom encoder reads of a molecule."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import scatter

from pyg_atomenc.checks import check_has
from pyg_atomenc.chem.codes import code, places
from pyg_atomenc.chem.components import ideal_conformer
from pyg_atomenc.chem.rdkit import embed_smiles, rank_names
from pyg_atomenc.chem.residues import AMINO_ACIDS, DNA, LIGAND, PROTEIN, RNA
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError

RESIDUE_TYPES = [
    *("<pad>", "-", *AMINO_ACIDS, "UNK"),
    *("A", "G", "C", "U", "N", "DA", "DG", "DC", "DT", "DN"),
]
"""Boltz's residue types, in the order of their codes."""

PROTEIN_BACKBONE = "N CA C O".split()
NUCLEIC_BACKBONE = "P OP1 OP2 O5' C5' C4' O4' C3' O3' C2' O2' C1'".split()
_NUCLEIC = {name: i for i, name in enumerate(NUCLEIC_BACKBONE, 5)}
_PROTEIN = {name: i for i, name in enumerate(PROTEIN_BACKBONE, 1)}
_BACKBONE_CODES = {PROTEIN: _PROTEIN, DNA: _NUCLEIC, RNA: _NUCLEIC, LIGAND: {}}
_UNKNOWN = {PROTEIN: "UNK", DNA: "DN", RNA: "N", LIGAND: "UNK"}
# What residues are called that nobody named.
_NAMELESS = ("", "UNL")


@dataclass(eq=False)
class BoltzFeatures(BaseTransform):
    """Adds what :class:`~pyg_atomenc.nn.BoltzAtomEncoder` reads, encoded as Boltz does.

    Reference positions are the ideal ones of the Chemical Component Dictionary (a
    residue that it lacks keeps its own), of molecules without positions those of RDKit,
    all centred. As in Boltz, selenomethionine (MSE) becomes methionine, its Se an S.

    Adds, for ``N`` atoms and ``T`` tokens:

    - ``ref_pos`` ``[N, 3]``, float32: in ångström
    - ``ref_charge`` ``[N]``, float32: in elementary charges
    - ``ref_atom_name_chars`` ``[N, 4]``, int64: ``ord - 32`` of capitals, modulo 64
    - ``ref_space_uid`` ``[N]``, int64: the residue
    - with ``backbone``: ``backbone`` ``[N]``, int64: 0 none; 1 to 4 protein's N, CA, C,
      O; 5 to 16 DNA's, RNA's P, OP1, OP2, O5', C5', C4', O4', C3', O3', C2', O2', C1'
    - with ``residue``: ``token_res_type`` ``[T]``, int64, 0 to 32; ``token_modified``
      ``[T]``, 0 or 1; ``token_mol_type`` ``[T]``: ``token_entity_kind``, 0 protein,
      1 DNA, 2 RNA, 3 other

    Args:
        backbone (bool): Add the kinds of backbone atoms. (default: ``False``)
        residue (bool): Add the features of residues. (default: ``False``)
        rotate (bool): Turn conformers at random, as Boltz trains. (default: ``False``)
        seed (int): Of RDKit's embedding. (default: ``0``)
        rank_names (bool): Name the atoms of a SMILES as Boltz does, by their canonical
            ranks with hydrogens (``C20``), else as they are. (default: ``True``)

    Raises:
        ValueError: If a name has over four characters or others than ASCII, if there is
            nothing to take reference positions from, or, with ``backbone`` or
            ``residue``, if residues have names but no ``token_entity_kind``.
        ImportError: If biotite is missing for a structure, or RDKit for a SMILES.
    """

    backbone: bool = False
    residue: bool = False
    rotate: bool = False
    seed: int = 0
    rank_names: bool = True

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the features to a shallow copy."""
        mend = "read it with from_structure, from_smiles or from_rdmol."
        check_has(data, mend, "z", "atom_name", "atom_to_token")
        names = _residue_names(data)
        # Tokens are, or are parts of, residues where those have names.
        if "token_res_id" not in data or set(names) <= set(_NAMELESS):
            names = []
        if "MSE" in names:
            names = _read_as_methionine(data, names)
        atom_name = data.atom_name
        if self.rank_names and not names and "given_smiles" in data:
            atom_name = rank_names(data.given_smiles)[: len(atom_name)]
        data.ref_atom_name_chars = name_codes(atom_name)
        data.ref_space_uid = _reference_spaces(data, names)
        pos, data.ref_charge = _reference_conformers(data, names, self.seed)
        data.ref_pos = _centre(pos, data.ref_space_uid, self.rotate)
        kinds = [LIGAND] * data.total_num_tokens
        if names and (self.backbone or self.residue):
            mend = "read it with from_structure or from_atom_array, or set the kind of "
            mend += "every token, a position in pyg_atomenc.tokenizers.ENTITY_KINDS."
            check_has(data, mend, "token_entity_kind")
            kinds = data.token_entity_kind.tolist()
        if self.backbone:
            atoms = zip(data.atom_name, data.atom_to_token.tolist(), strict=True)
            codes = [_BACKBONE_CODES[kinds[i]].get(name, 0) for name, i in atoms]
            data.backbone = torch.tensor(codes)
        if self.residue:
            named = list(zip(names or [""] * len(kinds), kinds, strict=True))
            modified = [kind != LIGAND and n not in RESIDUE_TYPES for n, kind in named]
            types = [
                _UNKNOWN[kind] if kind == LIGAND or other else name
                for (name, kind), other in zip(named, modified, strict=True)
            ]
            data.token_res_type = torch.tensor([*map(RESIDUE_TYPES.index, types)])
            data.token_modified = torch.tensor(modified).long()
            data.token_mol_type = torch.tensor(kinds)
        return data


def name_codes(names: Iterable[str]) -> Tensor:
    """The codes of atom names ``[N, 4]``, or a ValueError for those that have none."""
    rows = []
    for atom, name in enumerate(names):
        text = str(name).strip().upper()
        if len(text) > 4 or not all(32 <= ord(letter) < 128 for letter in text):
            raise AtomEncodingError(
                f"'atom_name' is {name!r} for atom {atom}: Boltz encodes up to four "
                f"ASCII characters; shorten the name."
            )
        rows.append([(ord(letter) - 32) % 64 for letter in text.ljust(4)])
    return torch.tensor(rows, dtype=torch.long).view(-1, 4)


def _centre(pos: Tensor, space: Tensor, rotate: bool) -> Tensor:
    middle = scatter(pos, space, reduce="mean")
    pos = pos - middle[space]
    if rotate:
        turn, upper = torch.linalg.qr(torch.randn(len(middle), 3, 3).to(pos))
        # Uniform over the rotations: signs by the factor, no reflections.
        turn = turn * upper.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
        turn = turn * turn.det().view(-1, 1, 1)
        pos = (turn[space] @ pos.unsqueeze(2)).squeeze(2)
    return pos


def _residue_names(data: AtomTokenData) -> list[str]:
    """The name of every token's residue, which need not be the token's own."""
    if "res_name" not in data:
        return list(data.get("token_name", [""] * data.total_num_tokens))
    atoms = zip(data.atom_to_token.tolist(), data.res_name, strict=True)
    # The name of each token's first atom, which overwrites those behind it.
    names = dict(reversed(list(atoms)))
    return [names.get(token, "") for token in range(data.total_num_tokens)]


def _read_as_methionine(data: AtomTokenData, names: list[str]) -> list[str]:
    """Turn selenomethionine into methionine; nothing that was read is written to."""
    inside = torch.tensor([name == "MSE" for name in names])[data.atom_to_token]
    for key in ("token_name", "res_name"):
        if key in data:
            data[key] = ["MET" if name == "MSE" else name for name in data[key]]
    data.z = torch.where(inside & (data.z == 34), 16, data.z)
    atoms = zip(data.atom_name, inside.tolist(), strict=True)
    data.atom_name = ["SD" if mse and name == "SE" else name for name, mse in atoms]
    return ["MET" if name == "MSE" else name for name in names]


def _reference_spaces(data: AtomTokenData, names: list[str]) -> Tensor:
    """The residue of every atom ``[N]``; a molecule, without names, is one."""
    if not names:
        return torch.zeros_like(data.atom_to_token)
    columns = (data.token_chain, data.token_res_id.tolist(), data.token_ins_code)
    identity = list(zip(*columns, names, strict=True))
    # Neighbouring tokens of one residue share its space.
    new = [a != b for a, b in pairwise(identity)]
    return torch.tensor([0, *new]).cumsum(0)[data.atom_to_token]


def _reference_conformers(
    data: AtomTokenData, names: list[str], seed: int
) -> tuple[Tensor, Tensor]:
    """Reference positions ``[N, 3]`` in ångström and charges ``[N]``."""
    charge = data.formal_charge.float()
    pos = torch.full((len(charge), 3), torch.nan)
    pos = data.pos.clone() if "pos" in data else pos
    if not names and not pos.isfinite().any() and data.get("given_smiles"):
        return embed_smiles(data.given_smiles, seed)[: len(charge)], charge
    for rows in places(code(data.ref_space_uid.numpy())) if names else ():
        known = ideal_conformer(names[int(data.atom_to_token[rows[0]])])
        found = [known.get(data.atom_name[atom]) for atom in rows.tolist()]
        entries = [entry for entry in found if entry is not None]
        # A residue with atoms that its component lacks keeps its own conformer.
        if len(entries) == len(found) and all(np.isfinite(e[0]).all() for e in entries):
            pos[rows] = torch.from_numpy(np.stack([entry[0] for entry in entries]))
            charge[rows] = torch.tensor([entry[1] for entry in entries])
    unknown = (~pos.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if unknown:
        raise AtomEncodingError(
            f"'pos' is not known for {len(unknown)} atoms, first atom {unknown[0]} "
            f"({data.atom_name[unknown[0]]}), nor is there an ideal one or a SMILES: "
            f"embed the molecule with RDKit and use from_rdmol, or leave atoms out."
        )
    return pos, charge
