"""Structures and molecules → residues, single atoms, or connected components."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyg_atomenc.chem.codes import by_first_atom, connected
from pyg_atomenc.chem.rdkit import check_mol, is_mol, residues_of
from pyg_atomenc.chem.residues import check_bonds
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import molecule_tokens, structure_tokens
from pyg_atomenc.tokenizers.fragments import fragments


@dataclass(eq=False)
class Residue:
    """Makes every residue, nucleotide, water and ligand molecule one token.

    Atoms of the same chain, residue number, insertion code and residue name belong
    together, also where they stand apart. Where an atom name comes back, as in waters
    of one number, another residue starts. Tokens are numbered by their first atom. A
    molecule of RDKit has the residues of its PDB information; without, it is one.

    Every tokenizer of structures gives, for ``T`` tokens:

    - ``token_name``: the residue's name, such as ``ALA``
    - ``token_chain``; ``token_res_id`` ``[T]``, int64: the residue number;
      ``token_ins_code``: the insertion code, ``""`` for none
    - ``token_entity_kind`` ``[T]``, int64: a position in
      :data:`~pyg_atomenc.tokenizers.ENTITY_KINDS`: protein, DNA, RNA, ligand
    - ``token_is_standard`` ``[T]``, bool: one of the 20 amino acids and 8 nucleotides,
      or of the unknown ones ``UNK``, ``N`` and ``DN``, in a polymer
    - ``token_label_chain`` and ``token_label_res_id`` ``[T]``, int64: from the
      annotations ``label_asym_id`` and ``label_seq_id``; ``""`` and 0 for none
    - ``token_sym_id`` ``[T]``, int64: from ``sym_id``, the copy in an assembly, or 0
    - ``representative`` ``[T]``, int64: a residue's Cα or C1′, else its first atom

    Shapes:
        - input: a biotite ``AtomArray`` or an RDKit ``Mol``, ``N > 0`` atoms, unchanged
        - output: :class:`Tokens` with ``atom_to_token`` ``[N]``, int64

    Raises:
        ValueError: If the input is neither or has no atoms.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its residue; see the class."""
        residues = residues_of(source)
        return structure_tokens(residues, residues.index)


@dataclass(eq=False)
class Atom:
    """Makes every atom a token.

    Those of a molecule have the element's symbol as ``token_name``; else features,
    shapes and errors are those of :class:`Residue`.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom a token; see the class."""
        if is_mol(source):
            check_mol(source)
            names = [atom.GetSymbol() for atom in source.GetAtoms()]
            return molecule_tokens(source, np.arange(len(names)), names)
        residues = residues_of(source)
        return structure_tokens(residues, np.arange(len(residues.index)))


@dataclass(eq=False)
class Components:
    """Makes all atoms that bonds connect one token: a chain, a ligand, a water, an ion.

    Tokens of a structure have the features of the residue of their first atom, as in
    :class:`Residue`; those of a molecule their canonical SMILES as ``token_name``.
    Numbered by first atoms; shapes and errors are those of :class:`BRICS`.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its component; see the class."""
        if is_mol(source):
            return fragments(source)
        residues = residues_of(source)
        check_bonds(source)
        piece = connected(len(residues.index), source.bonds.as_array()[:, :2])
        return structure_tokens(residues, by_first_atom(piece)[0])
