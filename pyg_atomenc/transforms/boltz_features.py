"""`BoltzFeatures`: what Boltz's atom encoder reads of a molecule."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import scatter

from pyg_atomenc.checks import check_choice, check_has, check_integer
from pyg_atomenc.chem import rdkit
from pyg_atomenc.chem.bonds import unique_bonds
from pyg_atomenc.chem.codes import connected
from pyg_atomenc.chem.components import ideal_conformer
from pyg_atomenc.chem.residues import AMINO_ACIDS, DNA, LIGAND, PROTEIN, RNA
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.bonds import read_bonds
from pyg_atomenc.errors import AtomEncodingError

RESIDUE_TYPES = ["<pad>", "-", *AMINO_ACIDS, *"UNK A G C U N DA DG DC DT DN".split()]
"""Boltz's residue types, in the order of their codes."""

PROTEIN_BACKBONE = "N CA C O".split()
NUCLEIC_BACKBONE = "P OP1 OP2 O5' C5' C4' O4' C3' O3' C2' O2' C1'".split()
_NUCLEIC = {name: i for i, name in enumerate(NUCLEIC_BACKBONE, 5)}
_PROTEIN = {name: i for i, name in enumerate(PROTEIN_BACKBONE, 1)}
_BACKBONE_CODES = {PROTEIN: _PROTEIN, DNA: _NUCLEIC, RNA: _NUCLEIC, LIGAND: {}}
# By the kind of the token: protein, DNA, RNA, ligand.
_UNKNOWN = np.array(["UNK", "DN", "N", "UNK"])
_CONFORMERS = ("ideal", "computed", "given")


@dataclass(eq=False)
class BoltzFeatures(BaseTransform):
    """Adds what :class:`~pyg_atomenc.nn.BoltzAtomEncoder` reads, encoded as Boltz does.

    Defaults are Boltz-2's (``featurizerv2.py`` of 2.2.1), which removes hydrogens and
    waters: read without. Of the data's positions, the answer, only the handedness of
    unknown components is used. A polymer's MSE becomes methionine, its Se an S.

    Adds, for ``N`` atoms and ``T`` tokens:

    - ``ref_pos`` ``[N, 3]``, float32: in ångström
    - ``ref_charge`` ``[N]``, float32: in elementary charges
    - ``ref_atom_name_chars`` ``[N, 4]``, int64: ``ord - 32`` of capitals, modulo 64
    - ``ref_space_uid`` ``[N]``, int64: the residue
    - with ``backbone``: ``backbone`` ``[N]``, int64: 0 none; 1 to 4 protein's N, CA, C,
      O; 5 to 16 DNA's, RNA's P, OP1, OP2, O5', C5', C4', O4', C3', O3', C2', O2', C1'
    - with ``residue``: ``[T]``, int64: ``token_res_type``, 0 to 32; ``token_modified``,
      0 or 1; ``token_mol_type``: 0 protein, 1 DNA, 2 RNA, 3 other

    Args:
        backbone (bool): Add the kinds of backbone atoms. (default: ``False``)
        residue (bool): Add the features of residues. (default: ``False``)
        version (int): 2 centres the conformer of every residue and moves each on its
            own; 1 (``featurizer.py``) moves all at once, uncentred. (default: ``2``)
        augment (bool): Rotate and shift them (normal, 1 Å) by torch's generator, also
            in inference (``center_random_augmentation``). (default: ``True``)
        conformers (str, optional): ``"ideal"``: of the Chemical Component Dictionary;
            ``"computed"``: by RDKit, of its molecules (``compute_3d_conformer``);
            ``"given"``: ``pos``. A SMILES, and a residue with an atom that is not in
            the dictionary, are computed by their bonds, unless given.
            (default: ``"ideal"`` with version 2, ``"computed"`` with 1)
        skip_last (bool): Neither centre nor move the last residue, or a molecule alone:
            the loop of version 2 ends one too early. (default: ``True``)
        resolved_only (bool): Centre by resolved atoms, and leave a residue without any
            as it is, as version 2 does; all count where none is. (default: ``True``)
        keep_atoms (bool): Keep the atoms, and their order: Boltz's standard residues
            have no OXT and OP3 (``ref_atoms`` in ``const.py``), those of one token the
            order of their component. (default: ``False``)
        rank_names (bool): Name the atoms of a SMILES as Boltz does, by their canonical
            ranks with hydrogens (``C20``), else as they are. (default: ``True``)
        seed (int): Of RDKit's embedding. (default: ``0``)

    Raises:
        ValueError: If an argument is none of these, a name not up to four ASCII
            characters, or ``token_entity_kind`` or what gives positions is missing.
        ImportError: If biotite is missing for a structure, or RDKit for a SMILES.
    """

    backbone: bool = False
    residue: bool = False
    version: int = 2
    augment: bool = True
    conformers: Optional[str] = None
    skip_last: bool = True
    resolved_only: bool = True
    keep_atoms: bool = False
    rank_names: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("version", self.version, (1, 2))
        check_choice("conformers", self.conformers, (None, *_CONFORMERS))
        check_integer("seed", self.seed, 0)

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the features to a shallow copy."""
        mend = "Read it with from_structure, from_smiles or from_rdmol."
        check_has(data, mend, "z", "atom_name", "atom_to_token")
        if names := _residue_names(data):
            mend += " Or set it, of positions in pyg_atomenc.tokenizers.ENTITY_KINDS."
            check_has(data, mend, "token_entity_kind")
        if "MSE" in names:
            _read_as_methionine(data, names)
        if names and not self.keep_atoms:
            data = _own_atoms(data, _residue_names(data))
        names, atom_name = _residue_names(data), data.atom_name
        if self.rank_names and not names and data.get("given_smiles"):
            atom_name = rdkit.rank_names(data.given_smiles)[: len(atom_name)]
        data.ref_atom_name_chars = name_codes(atom_name)
        data.ref_space_uid = _reference_spaces(data, names)
        pos, data.ref_charge = self._conformers(data, names)
        data.ref_pos = self._move(pos, data)
        unknown = torch.full((data.total_num_tokens,), LIGAND)
        kinds = data.token_entity_kind if names else unknown
        if self.backbone:
            atoms = zip(data.atom_name, kinds[data.atom_to_token].tolist(), strict=True)
            codes = [_BACKBONE_CODES[kind].get(name, 0) for name, kind in atoms]
            data.backbone = torch.tensor(codes)
        if self.residue:
            names = names or [""] * len(kinds)
            known, polymer = np.isin(names, RESIDUE_TYPES), kinds.numpy() != LIGAND
            types = np.where(known & polymer, names, _UNKNOWN[kinds.numpy()]).tolist()
            data.token_res_type = torch.tensor([*map(RESIDUE_TYPES.index, types)])
            data.token_modified = torch.from_numpy(polymer & ~known).long()
            data.token_mol_type = kinds.clone()
        return data

    def _conformers(self, data: Any, names: list[str]) -> tuple[Tensor, Tensor]:
        """Reference positions ``[N, 3]`` in ångström and charges ``[N]``."""
        charge = data.formal_charge.to(torch.float32, copy=True)
        pos = torch.full((len(charge), 3), torch.nan)
        if (way := self.conformers or _CONFORMERS[self.version == 1]) == "given":
            check_has(data, "'given' conformers are read from it.", "pos")
            pos = data.pos.float().clone()
        elif not names and data.get("given_smiles"):
            made = rdkit.embed(data.given_smiles, self.seed, None, True)
            pos = pos if made is None else made[: len(pos)].clone()
        else:
            atoms = zip(data.atom_name, data.atom_to_token.tolist(), strict=True)
            # Arrays that share the tensors' memory are written faster.
            at, charges = pos.numpy(), charge.numpy()
            for i, (atom, token) in enumerate(atoms if names else ()):
                computed = way == "computed"
                known = rdkit.component_conformer(names[token], self.seed, computed)
                if atom in known:
                    at[i], charges[i] = known[atom]
            if not pos.isfinite().all():
                _embed_residues(data, pos, self.seed)
        if unknown := (~pos.isfinite().all(dim=1)).nonzero().flatten().tolist():
            raise AtomEncodingError(
                f"'ref_pos' is not known for {len(unknown)} atoms, first {unknown[0]} "
                f"({data.atom_name[unknown[0]]}): give a SMILES, a conformer as 'pos' "
                f"with conformers='given', or bonds of known orders that join the "
                f"residue (up to about 800 atoms), with positions of stereocentres."
            )
        return pos, charge

    def _move(self, pos: Tensor, data: Any) -> Tensor:
        """Conformers ``[N, 3]``, centred and moved as the version does."""
        space, moved = torch.zeros_like(data.ref_space_uid), torch.ones(1).bool()
        if self.version == 2:
            space = data.ref_space_uid
            resolved = data.get("is_resolved", torch.zeros(len(pos)))
            if not self.resolved_only or not resolved.any():
                resolved = torch.ones(len(pos))
            weight = resolved.float().unsqueeze(1)
            count = scatter(weight, space)
            moved = count.squeeze(1) > 0
            moved[-1:] &= not self.skip_last
            middle = scatter(weight * pos, space) / count.clamp(min=1)
            pos = torch.where(moved[space, None], pos - middle[space], pos)
        if self.augment:
            turn, upper = torch.linalg.qr(torch.randn(len(moved), 3, 3))
            # Uniform over the rotations: signs by the factor, no reflections.
            turn = turn * upper.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
            turn = turn * turn.det().view(-1, 1, 1)
            new = (turn[space] @ pos.unsqueeze(2)).squeeze(2)
            new = new + torch.randn(len(moved), 3)[space]
            pos = torch.where(moved[space, None], new, pos)
        return pos


def name_codes(names: Iterable[str]) -> Tensor:
    """The codes of atom names ``[N, 4]``, or a ValueError for those that have none."""
    rows = []
    for atom, name in enumerate(names):
        text = str(name).strip().upper()
        if len(text) > 4 or not all(32 <= ord(letter) < 128 for letter in text):
            mend = "Boltz encodes up to four ASCII characters."
            raise AtomEncodingError(f"'atom_name' is {name!r} for atom {atom}: {mend}")
        rows.append([(ord(letter) - 32) % 64 for letter in text.ljust(4)])
    return torch.tensor(rows, dtype=torch.long).view(-1, 4)


def _residue_names(data: AtomTokenData) -> list[str]:
    """The names of tokens' residues, which need not be theirs; empty for none."""
    if "token_res_id" not in data:
        return []
    names = list(data.get("token_name", []))
    if "res_name" in data:
        atoms = zip(data.atom_to_token.tolist(), data.res_name, strict=True)
        # The name of each token's first atom, which overwrites those behind it.
        first = dict(reversed(list(atoms)))
        names = [first.get(token, "") for token in range(data.total_num_tokens)]
    return [] if set(names) <= {"", "UNL"} else names


def _own_atoms(data: AtomTokenData, names: list[str]) -> AtomTokenData:
    """The graph of Boltz's atoms, a residue of one token in its component's order."""
    space, token = _reference_spaces(data, names), data.atom_to_token
    least, most = (scatter(token, space, reduce=way) for way in ("min", "max"))
    atoms = list(zip([names[i] for i in token.tolist()], data.atom_name, strict=True))
    ranks = {n: {a: i for i, a in enumerate(ideal_conformer(n))} for n in set(names)}
    rank = torch.tensor([ranks[name].get(atom, 999) for name, atom in atoms])
    rows = np.lexsort((rank.where((least == most)[space], 0), space))
    leaves = [name in RESIDUE_TYPES and atom in ("OXT", "OP3") for name, atom in atoms]
    kept = ~torch.tensor(leaves) | (data.token_entity_kind[token] == LIGAND)
    rows = rows[kept.numpy()[rows]]
    if np.array_equal(rows, np.arange(len(atoms))):
        return data
    out = data.subgraph(torch.from_numpy(rows))
    lost = len(out.atom_to_token.unique()) < len(token.unique())
    return out.drop_empty_tokens() if lost else out


def _read_as_methionine(data: AtomTokenData, names: list[str]) -> None:
    """Turn selenomethionine into methionine; nothing that was read is written to."""
    mse = torch.tensor([n == "MSE" for n in names]) & (data.token_entity_kind < LIGAND)
    inside = mse[data.atom_to_token]
    for key, rows in (("token_name", mse), ("res_name", inside)):
        if key in data:
            pairs = zip(data[key], rows.tolist(), strict=True)
            data[key] = ["MET" if n == "MSE" and m else n for n, m in pairs]
    data.z = torch.where(inside & (data.z == 34), 16, data.z)
    atoms = zip(data.atom_name, inside.tolist(), strict=True)
    data.atom_name = ["SD" if m and name == "SE" else name for name, m in atoms]


def _reference_spaces(data: AtomTokenData, names: list[str]) -> Tensor:
    """The residue of every atom ``[N]``; a molecule, without names, is one."""
    if not names:
        return torch.zeros_like(data.atom_to_token)
    copies = data.get("token_sym_id", data.token_res_id).tolist()
    columns = (data.token_chain, data.token_res_id.tolist(), data.token_ins_code)
    # Neighbouring tokens of one residue share its space.
    new = [a != b for a, b in pairwise(zip(*columns, copies, names, strict=True))]
    space = torch.tensor([0, *new]).cumsum(0)[data.atom_to_token]
    return space.unique(return_inverse=True)[1]


def _embed_residues(data: Any, pos: Tensor, seed: int) -> None:
    """Compute by their bonds the conformers of residues that ``pos`` lacks atoms of."""
    check_has(data, "conformers are computed by it.", "num_hydrogens")
    bonds, types = unique_bonds(*read_bonds(data))
    space, atoms = data.ref_space_uid, rdkit.graph_atoms(data, bonds, types)
    # One hydrogen in place of each bond to another residue.
    cut = bonds[:, space[bonds[0]] != space[bonds[1]]].flatten()
    atoms[:, 2] += cut.bincount(minlength=len(pos))
    marked = data.get("chirality", torch.zeros(len(pos))) > 0
    if "edge_stereo" in data and "edge_index" in data:
        marked[data.edge_index[:, data.edge_stereo > 0]] = True
    place = torch.zeros_like(space)
    for uid in space[~pos.isfinite().all(dim=1)].unique():
        rows = (space == uid).nonzero().flatten()
        place[rows] = torch.arange(len(rows))
        inside = (space[bonds] == uid).all(dim=0)
        own, kinds = place[bonds[:, inside]], types[inside]
        hand, found = data.get("pos", pos)[rows], None
        told = bool(hand.isfinite().all()) or not marked[rows].any()
        joined = not connected(len(rows), own.t().numpy()).any() and kinds.lt(4).all()
        if told and (joined or not space.any()):
            mol = rdkit.graph_mol(atoms[rows], own, kinds)
            found = rdkit.embed(mol, seed, hand, True)
        pos[rows] = torch.nan if found is None else found[: len(rows)]
