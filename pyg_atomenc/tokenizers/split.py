"""Residues of which some are split into their atoms."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.codes import Integers, by_first_atom
from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.features import structure_tokens


def split_residues(
    atoms: Any, residue: Integers, kinds: Integers, split: NDArray[np.bool_]
) -> Tokens:
    """Give every atom of some residues a token of its own.

    Args:
        atoms (biotite.structure.AtomArray): ``N`` atoms.
        residue (numpy.ndarray): The residue of every atom ``[N]``, int64.
        kinds (numpy.ndarray): The kind of every residue ``[R]``, int64.
        split (numpy.ndarray): Which of them to split ``[R]``, bool.

    Returns:
        Tokens: Numbered by their first atoms; each has its residue's features.
    """
    own = len(kinds) + np.arange(len(residue))
    token, first = by_first_atom(np.where(split[residue], own, residue))
    return structure_tokens(atoms, token, len(first), residue, kinds)
