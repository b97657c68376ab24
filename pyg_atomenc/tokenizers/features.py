"""What is known of the tokens of a structure: names, kinds, representative atoms."""

from functools import lru_cache
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import Integers, code_runs, join
from pyg_atomenc.errors import require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.source import integers

ENTITY_KINDS = ("protein", "DNA", "RNA", "ligand")
"""What ``token_entity_kind`` counts through; waters and ions are ligands."""

PROTEIN, DNA, RNA, LIGAND = range(4)

STANDARD = (
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL "
    "UNK A C G U N DA DC DG DT DN"
).split()
"""Standard residues and nucleotides: Table 13 of AlphaFold 3's supplement."""

# The atoms of the bonds that make a polymer.
POLYMER_LINKS = (("C", "N"), ("O3'", "P"))
_IDENTITY = ("chain_id", "res_id", "ins_code", "res_name")
# Annotations that readers add where a file has them; each tells residues apart, too.
_MORE_IDENTITY = ("sym_id", "label_asym_id", "auth_seq_id")
_REPRESENTATIVE = {PROTEIN: "CA", DNA: "C1'", RNA: "C1'"}
_NO_SEQUENCE = (".", "?", "", "-1")


def residue_codes(atoms: Any) -> Integers:
    """Codes ``[N]`` that are equal where all that names a residue is."""
    known = atoms.get_annotation_categories()
    names = [*_IDENTITY, *(name for name in _MORE_IDENTITY if name in known)]
    return join(*(code_runs(getattr(atoms, name)) for name in names))


def residue_kinds(atoms: Any, residue: Integers, first: Integers) -> Integers:
    """The entity kind of every residue.

    A residue is protein, DNA or RNA if its component is made for such a polymer, and
    it stands in one: by its number in the sequence where the file tells, else because
    it is no hetero residue, or a polymer bond joins it to another residue.

    Args:
        atoms (biotite.structure.AtomArray): ``N`` atoms.
        residue (numpy.ndarray): The residue of every atom ``[N]``, int64.
        first (numpy.ndarray): The first atom of every residue ``[R]``, int64.

    Returns:
        numpy.ndarray: Positions in :data:`ENTITY_KINDS` ``[R]``, int64.
    """
    kinds = component_kinds(atoms.res_name[first])
    polymer = in_sequence(atoms, first)
    if polymer is None:
        polymer = ~atoms.hetero[first] | in_polymer_bond(atoms, residue, len(first))
    return np.where(polymer, kinds, LIGAND)


def in_sequence(atoms: Any, first: Integers) -> Optional[NDArray[np.bool_]]:
    """Whether a residue has a number in a sequence ``[R]``; None if none is told."""
    if "label_seq_id" not in atoms.get_annotation_categories():
        return None
    return ~np.isin(atoms.label_seq_id[first].astype(str), _NO_SEQUENCE)


def in_polymer_bond(atoms: Any, residue: Integers, count: int) -> NDArray[np.bool_]:
    """Whether a peptide or phosphodiester bond joins a residue to another ``[R]``."""
    joined = np.zeros(count, dtype=bool)
    if atoms.bonds is None:
        return joined
    ends = atoms.bonds.as_array()[:, :2]
    ends = ends[residue[ends[:, 0]] != residue[ends[:, 1]]]
    name = atoms.atom_name[ends]
    for one, other in POLYMER_LINKS:
        for a, b in ((one, other), (other, one)):
            joins = (name[:, 0] == a) & (name[:, 1] == b)
            joined[residue[ends[joins]].ravel()] = True
    return joined


def component_kinds(names: NDArray[Any]) -> Integers:
    """The kind of polymer that components are made for ``[R]``, by their names."""
    known, which = np.unique(names, return_inverse=True)
    kinds = np.array([_component_kind(str(name)) for name in known], dtype=np.int64)
    return kinds[which.reshape(-1)]


@lru_cache(maxsize=100_000)
def _component_kind(name: str) -> int:
    info = require_package("biotite.structure.info", "entity kinds")
    # `link_type` is None for a component that the dictionary lacks.
    link = (info.link_type(name) or "").upper()
    for word, kind in (("PEPTIDE", PROTEIN), ("DNA", DNA), ("RNA", RNA)):
        if word in link:
            return kind
    return LIGAND


def structure_tokens(
    atoms: Any,
    token: Integers,
    count: int,
    residue: Integers,
    kinds: Integers,
    names: Optional[list[str]] = None,
) -> Tokens:
    """Tokens with their features, which are those of the residue of their first atom.

    Args:
        atoms (biotite.structure.AtomArray): ``N`` atoms.
        token (numpy.ndarray): The token of every atom ``[N]``, int64.
        count (int): The number of tokens ``T``; empty ones are nameless ligands.
        residue (numpy.ndarray): The residue of every atom ``[N]``, int64.
        kinds (numpy.ndarray): The kind of every residue ``[R]``, int64.
        names (list, optional): The tokens' names. (default: those of their residues)

    Returns:
        Tokens: With all token features.
    """
    first = np.full(count, -1)
    first[token[::-1]] = np.arange(len(token))[::-1]
    empty = first < 0
    kind = np.where(empty, LIGAND, kinds[residue[first]])
    res_name = np.where(empty, "", atoms.res_name[first])
    attributes: dict[str, Any] = {
        "token_name": res_name.tolist() if names is None else names,
        "token_chain": np.where(empty, "", atoms.chain_id[first]).tolist(),
        "token_res_id": _integers(np.where(empty, 0, atoms.res_id[first])),
        "token_ins_code": np.where(empty, "", atoms.ins_code[first]).tolist(),
        "token_entity_kind": _integers(kind),
        "token_is_standard": torch.from_numpy(
            np.isin(res_name, STANDARD) & (kind != LIGAND)
        ),
    }
    # Always there, so that structures of all formats batch together.
    label = _annotation(atoms, "label_asym_id", "")[first]
    attributes["token_label_chain"] = np.where(empty, "", label).tolist()
    number = _annotation(atoms, "label_seq_id", "0")[first].astype(str)
    number = np.where(np.isin(number, _NO_SEQUENCE) | empty, "0", number)
    number = integers(number, "label_seq_id")
    attributes["token_label_res_id"] = torch.from_numpy(number)
    copy = integers(_annotation(atoms, "sym_id", 0)[first], "sym_id")
    attributes["token_sym_id"] = torch.from_numpy(np.where(empty, 0, copy))
    centre = _representatives(atoms, token, first, kinds[residue])
    return Tokens(torch.from_numpy(token), count, attributes, torch.from_numpy(centre))


def _representatives(
    atoms: Any, token: Integers, first: Integers, kind: Integers
) -> Integers:
    """Cα of a residue, C1′ of a nucleotide, else the first atom ``[T]``."""
    centre = first.copy()
    found = np.zeros(len(token), dtype=bool)
    for polymer, name in _REPRESENTATIVE.items():
        found |= (kind == polymer) & (atoms.atom_name == name)
    rows = np.flatnonzero(found)[::-1]
    centre[token[rows]] = rows
    return centre


def _annotation(atoms: Any, name: str, default: Any) -> NDArray[Any]:
    if name in atoms.get_annotation_categories():
        return getattr(atoms, name)
    return np.full(atoms.array_length(), default)


def _integers(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))
