"""What is known of tokens: names, kinds, representative atoms."""

from typing import Any, Optional

import numpy as np
import torch

from pyg_atomenc.chem.codes import Array, Booleans, Integers, by_first_atom, integers
from pyg_atomenc.chem.rdkit import is_mol, residue_columns, residues_of
from pyg_atomenc.chem.residues import LIGAND, NO_SEQUENCE, REPRESENTATIVES, Residues
from pyg_atomenc.tokenizers.base import Tokens

# What every token has, so that graphs of all readers batch, and what stands for none.
TOKEN_FEATURES: dict[str, Any] = {
    "token_name": "", "token_chain": "", "token_res_id": 0, "token_ins_code": "",
    "token_entity_kind": LIGAND, "token_is_standard": False,
    "token_label_chain": "", "token_label_res_id": 0, "token_sym_id": 0,
}  # fmt: skip
# Those that are texts, and the annotations that hold them.
_TEXTS = {"token_name": "res_name", "token_chain": "chain_id"}
_TEXTS |= {"token_ins_code": "ins_code", "token_label_chain": "label_asym_id"}


def structure_tokens(
    residues: Residues, token: Integers, names: Any = None, count: Optional[int] = None
) -> Tokens:
    """Tokens with the features of their first atoms' residues, but for ``names``."""
    atoms, count = residues.atoms, int(token.max()) + 1 if count is None else count
    first = _first_atoms(token, count)
    empty = first < 0

    def of_first(name: str, default: Any) -> Array:
        values = getattr(atoms, name, np.full(len(token), default))[first]
        return np.where(empty, np.array(default).astype(values.dtype), values)

    number = of_first("label_seq_id", "0").astype(str)
    number = np.where(np.isin(number, NO_SEQUENCE), "0", number)
    kinds = residues.kinds[residues.index]
    columns = {
        "token_res_id": of_first("res_id", 0).astype(np.int64),
        "token_entity_kind": np.where(empty, LIGAND, kinds[first]),
        "token_is_standard": residues.standard[residues.index[first]] & ~empty,
        "token_label_res_id": integers(number, "label_seq_id"),
        "token_sym_id": integers(of_first("sym_id", 0), "sym_id"),
    }
    attributes = {name: torch.from_numpy(values) for name, values in columns.items()}
    attributes |= {name: of_first(of, "").tolist() for name, of in _TEXTS.items()}
    if names is not None:
        attributes["token_name"] = names
    centre, found = first.copy(), np.zeros(len(token), dtype=bool)
    for polymer, name in REPRESENTATIVES.items():
        found |= (kinds == polymer) & (atoms.atom_name == name)
    rows = np.flatnonzero(found)[::-1]
    centre[token[rows]] = rows
    return Tokens(torch.from_numpy(token), count, attributes, torch.from_numpy(centre))


def split_residues(residues: Residues, split: Booleans) -> Tokens:
    """One token an atom of the residues to split ``[R]``, else one a residue."""
    own = len(residues) + np.arange(len(residues.index))
    token, _ = by_first_atom(np.where(split[residues.index], own, residues.index))
    return structure_tokens(residues, token)


def molecule_tokens(
    mol: Any, token: Integers, names: Optional[list[str]] = None, count: int = 0
) -> Tokens:
    """Tokens of a molecule, all of them ligands, named, or ``count`` of them."""
    count = count if names is None else len(names)
    known = residue_columns(mol, _first_atoms(token, count).tolist())
    columns = {k: torch.full((count,), v) for k, v in TOKEN_FEATURES.items() if v != ""}
    attributes: dict[str, Any] = dict.fromkeys(TOKEN_FEATURES, [""] * count) | columns
    attributes["token_name"] = known["res_name"] if names is None else names
    attributes["token_chain"] = known["chain_id"]
    attributes |= {f"token_{name}": known[name] for name in ("res_id", "ins_code")}
    return Tokens(torch.from_numpy(token), count, attributes)


def _first_atoms(token: Integers, count: int) -> Integers:
    """The first atom of every token ``[T]``, -1 for one without atoms."""
    first = np.full(count, -1)
    first[token[::-1]] = np.arange(len(token))[::-1]
    return first


def chemical_tokens(source: Any, piece: Integers, names: Any) -> Tokens:
    """Tokens, by their first atoms, of every atom's piece ``[N]``; ``names[piece]``."""
    token, first = by_first_atom(piece)
    known = [names[i] for i in piece[first].tolist()]
    if is_mol(source):
        return molecule_tokens(source, token, known)
    return structure_tokens(residues_of(source), token, known)
