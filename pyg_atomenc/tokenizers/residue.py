"""Structures → residues: one token for every residue, nucleotide or ligand."""

from typing import Any

import numpy as np

from pyg_atomenc.chem.codes import Integers, by_first_atom, code, join
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import (
    residue_codes,
    residue_kinds,
    structure_tokens,
)
from pyg_atomenc.tokenizers.source import as_atom_array


class Residue:
    """Makes every residue, nucleotide, water and ligand molecule one token.

    Atoms belong together when chain, residue number, insertion code and residue name
    are the same. They need not stand together: hydrogens at the end of a file go to
    their residue. Only where a later stretch repeats an atom name, as when residue
    numbers start anew after 9,999 waters, is it a residue of its own. Tokens are
    numbered by their first atom.

    A molecule of RDKit has the residues of its PDB information; without that, it is
    one residue.

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
    - ``representative`` ``[T]``, int64: the Cα of a residue, the C1′ of a nucleotide,
      else the first atom

    Shapes:
        - input: a ``biotite.structure.AtomArray`` or an ``rdkit.Chem.Mol`` of ``N > 0``
          atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64

    Raises:
        ValueError: If the input is neither or has no atoms.
    """

    def __call__(self, source: Any) -> Tokens:
        """Assign every atom to its residue; see the class."""
        atoms = as_atom_array(source)
        residue, first = find_residues(atoms)
        kinds = residue_kinds(atoms, residue, first)
        return structure_tokens(atoms, residue, len(first), residue, kinds)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def find_residues(atoms: Any) -> tuple[Integers, Integers]:
    """The residue of every atom ``[N]``, and the first atom of each ``[R]``."""
    residue = residue_codes(atoms)
    run = np.cumsum(np.diff(residue, prepend=residue[:1]) != 0)
    runs = residue[np.flatnonzero(np.diff(run, prepend=-1))]
    if len(np.unique(runs)) < len(runs):
        copy = _copy_of_run(residue, run, code(atoms.atom_name))[run]
        residue = join(residue, copy)
    return by_first_atom(residue)


def _copy_of_run(residue: Integers, run: Integers, name: Integers) -> Integers:
    """How many runs of the same residue before each run repeat one of its names."""
    named = join(residue, name)
    order = np.lexsort((run, named))
    named, run = named[order], run[order]
    new = np.ones(len(named), dtype=bool)
    new[1:] = (named[1:] != named[:-1]) | (run[1:] != run[:-1])
    named, run = named[new], run[new]
    start = np.searchsorted(named, named)
    earlier = np.arange(len(named)) - start
    copies = np.zeros(run.max() + 1, dtype=np.int64)
    np.maximum.at(copies, run, earlier)
    return copies
