"""What the tokenizers that go by chemistry share."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import Integers, by_first_atom, connected
from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import LIGAND, residue_kinds, structure_tokens
from pyg_atomenc.tokenizers.residue import find_residues
from pyg_atomenc.tokenizers.source import is_mol, residue_columns


def molecule_tokens(mol: Any, token: Integers, names: list[str]) -> Tokens:
    """Tokens of a molecule: ligands, none of them a standard residue.

    They have the features of a structure's tokens, so that both batch together: the
    residue of their first atom is that of the molecule's PDB information.
    """
    count = len(names)
    _, first = by_first_atom(token)
    known = residue_columns(mol)
    attributes = {
        "token_name": names,
        "token_chain": [known["chain_id"][atom] for atom in first.tolist()],
        "token_res_id": torch.from_numpy(known["res_id"][first]),
        "token_ins_code": [known["ins_code"][atom] for atom in first.tolist()],
        "token_entity_kind": torch.full((count,), LIGAND),
        "token_is_standard": torch.zeros(count, dtype=torch.bool),
        "token_label_chain": [""] * count,
        "token_label_res_id": torch.zeros(count, dtype=torch.long),
        "token_sym_id": torch.zeros(count, dtype=torch.long),
    }
    return Tokens(torch.from_numpy(token), count, attributes)


def chemical_tokens(source: Any, piece: Integers, names: list[str]) -> Tokens:
    """Tokens of a molecule or structure from the piece that every atom belongs to.

    Args:
        source (rdkit.Chem.Mol or biotite.structure.AtomArray): The ``N`` atoms.
        piece (numpy.ndarray): The piece of every atom ``[N]``, int64.
        names (list): The name of every piece.

    Returns:
        Tokens: Numbered by their first atoms.
    """
    token, first = by_first_atom(piece)
    names = [names[i] for i in piece[first].tolist()]
    if is_mol(source):
        return molecule_tokens(source, token, names)
    residue, start = find_residues(source)
    kinds = residue_kinds(source, residue, start)
    return structure_tokens(source, token, len(first), residue, kinds, names)


def bond_ends(mol: Any) -> NDArray[np.int64]:
    """The two atoms of every bond ``[B, 2]``, int64."""
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    return np.array(ends, dtype=np.int64).reshape(-1, 2)


def with_hydrogens(mol: Any, piece: Integers) -> Integers:
    """Give each hydrogen bonded to one heavy atom that atom's piece ``[N]``."""
    number = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    ends = bond_ends(mol)
    ends = np.concatenate([ends, ends[:, ::-1]])
    ends = ends[(number[ends[:, 0]] == 1) & (number[ends[:, 1]] != 1)]
    out = piece.copy()
    out[ends[:, 0]] = piece[ends[:, 1]]
    return out


def fragment_names(mol: Any, piece: Integers, count: int) -> list[str]:
    """The SMILES of every piece ``[P]``, without hydrogens if it has others."""
    chem = require_package("rdkit.Chem", "names of fragments")
    number = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    heavy = np.zeros(count, dtype=bool)
    heavy[piece[number != 1]] = True
    # A hydrogen of a piece with heavy atoms is cut off, and so not named.
    named = (number != 1) | ~heavy[piece]
    apart = np.where(named, piece, count + np.arange(len(piece)))
    cut = chem.RWMol(mol)
    cut.BeginBatchEdit()
    ends = bond_ends(mol)
    for a, b in ends[apart[ends[:, 0]] != apart[ends[:, 1]]].tolist():
        cut.RemoveBond(a, b)
    cut.CommitBatchEdit()
    return smiles_of_parts(cut, apart, count)


def smiles_of_parts(mol: Any, part: Integers, count: int) -> list[str]:
    """The canonical SMILES of every part ``[P]`` of a molecule that falls into them.

    One call for all of them, as one for each would go through the whole molecule.

    Args:
        mol (rdkit.Chem.Mol): No bond joins two parts.
        part (numpy.ndarray): The part of every atom ``[N]``, int64; those from
            ``count`` on are not asked for.
        count (int): The number of parts ``P``.
    """
    chem = require_package("rdkit.Chem", "names of fragments")
    texts = chem.MolToSmiles(mol).split(".")
    order = list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
    of_atom = connected(mol.GetNumAtoms(), bond_ends(mol))
    size = np.bincount(of_atom, minlength=len(of_atom))
    names: list[list[str]] = [[] for _ in range(count)]
    start = 0
    for text in texts:
        atom = order[start]
        if part[atom] < count:
            names[part[atom]].append(text)
        start += int(size[of_atom[atom]])
    assert start == len(order)
    return [".".join(sorted(found)) for found in names]
