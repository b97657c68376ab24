"""Residues of which some are split into their atoms."""

from typing import Any

import torch
from torch import Tensor

from pyg_atomenc.tokenizers.base import Tokens
from pyg_atomenc.tokenizers.codes import by_first_atom


def split_residues(residues: Tokens, split: Tensor) -> Tokens:
    """Give every atom of some residues a token of its own.

    Args:
        residues (Tokens): One token a residue.
        split (Tensor): Which of them to split ``[T]``, bool.

    Returns:
        Tokens: Numbered by their first atoms; each has its residue's attributes.
    """
    index = residues.atom_to_token
    own = residues.num_tokens + torch.arange(index.numel())
    token, first = by_first_atom(torch.where(split[index], own, index).numpy())
    source = index[torch.from_numpy(first)]
    attributes = {
        name: _gather(values, source) for name, values in residues.attributes.items()
    }
    return Tokens(torch.from_numpy(token), len(first), attributes)


def _gather(values: Any, index: Tensor) -> Any:
    if isinstance(values, Tensor):
        return values[index]
    return [values[i] for i in index.tolist()]
