"""Structures → residues: one token for every residue, nucleotide or ligand."""

from typing import Any

import numpy as np
import torch

from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.codes import Integers, by_first_atom, code, join

_IDENTITY = ("chain_id", "res_id", "ins_code", "res_name")


def check_atom_array(atoms: Any, argument: str = "atoms") -> None:
    """Raise a ValueError unless ``atoms`` is a biotite ``AtomArray`` with atoms.

    Args:
        atoms (biotite.structure.AtomArray): What the user gave.
        argument (str): Its name, for the message. (default: ``"atoms"``)

    Raises:
        ValueError: If it is something else or empty.
    """
    structure = require_package("biotite.structure", "an AtomArray")
    if not isinstance(atoms, structure.AtomArray):
        mend = (
            "pass one model of the stack, such as stack[0]"
            if isinstance(atoms, structure.AtomArrayStack)
            else "pass a biotite.structure.AtomArray"
        )
        raise AtomEncodingError(
            f"'{argument}' is of type {type(atoms).__name__}: {mend}."
        )
    if atoms.array_length() == 0:
        raise AtomEncodingError(
            f"'{argument}' has no atoms: pass at least one, and check what they were "
            f"filtered by."
        )


class Residue:
    """Makes every residue, nucleotide, water and ligand molecule one token.

    Atoms belong together when chain, residue number, insertion code and residue name
    are the same. They need not stand together: hydrogens at the end of a file go to
    their residue. Only where a later stretch repeats an atom name, as when residue
    numbers start anew after 9,999 waters, is it a residue of its own. Tokens are
    numbered by their first atom.

    ``token_name`` is the residue's name, such as ``ALA``; ``token_chain`` the chain;
    ``token_res_id`` ``[T]`` int64 the residue number; ``token_ins_code`` the insertion
    code, ``""`` for none.

    Shapes:
        - input: a ``biotite.structure.AtomArray`` of ``N > 0`` atoms, left unchanged
        - output: :class:`~pyg_atomenc.tokenizers.Tokens` with ``atom_to_token``
          ``[N]``, int64

    Raises:
        ValueError: If the input is no ``AtomArray`` or has no atoms.
    """

    def __call__(self, atoms: Any) -> Tokens:
        """Assign every atom to its residue; see the class."""
        check_atom_array(atoms)
        residue = join(*(code(getattr(atoms, name)) for name in _IDENTITY))
        run = np.cumsum(np.diff(residue, prepend=residue[:1]) != 0)
        copy = _copy_of_run(residue, run, code(atoms.atom_name))[run]
        token, first = by_first_atom(join(residue, copy))
        return Tokens(
            atom_to_token=torch.from_numpy(token),
            num_tokens=len(first),
            attributes={
                "token_name": atoms.res_name[first].tolist(),
                "token_chain": atoms.chain_id[first].tolist(),
                "token_res_id": torch.from_numpy(atoms.res_id[first].astype(np.int64)),
                "token_ins_code": atoms.ins_code[first].tolist(),
            },
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


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
