"""Checks of a token assignment, made once where a layout is built."""

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_atomenc.errors import AtomEncodingError

_INTEGER_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_token_index(
    atom_to_token: Tensor,
    num_tokens: Optional[int] = None,
    batch: Optional[Tensor] = None,
) -> int:
    """Check a token assignment, and count its tokens.

    Args:
        atom_to_token (Tensor): The token of every atom ``[N]``, any integer type.
        num_tokens (int, optional): The number of tokens, empty ones included.
            (default: ``atom_to_token.max() + 1``)
        batch (Tensor, optional): The graph of every atom ``[N]``; a token may not
            have atoms in two graphs. (default: ``None``)

    Returns:
        int: The number of tokens ``T``.

    Raises:
        ValueError: If ``atom_to_token`` is no vector of integers in ``[0, T)``, if
            ``num_tokens`` is too small or no count, or if a token lies in two graphs.
    """
    if not isinstance(atom_to_token, Tensor):
        raise AtomEncodingError(
            f"'atom_to_token' is of type {type(atom_to_token).__name__}: pass a tensor "
            f"[num_atoms] with the token of every atom."
        )
    if atom_to_token.dim() != 1:
        raise AtomEncodingError(
            f"'atom_to_token' has shape {list(atom_to_token.shape)}: pass a vector "
            f"[num_atoms] with the token of every atom."
        )
    if atom_to_token.dtype not in _INTEGER_TYPES:
        raise AtomEncodingError(
            f"'atom_to_token' is of type {atom_to_token.dtype}: token ids are "
            f"integers; convert with atom_to_token.long()."
        )
    if num_tokens is not None:
        num_tokens = _check_count(num_tokens)
    if atom_to_token.numel() == 0:
        return num_tokens or 0

    # One transfer for both bounds: on a GPU each `int()` would wait on its own.
    low, high = torch.stack(atom_to_token.aminmax()).tolist()
    if low < 0:
        raise AtomEncodingError(
            f"'atom_to_token' holds the negative token id {low}: token ids count from "
            f"0; drop atoms that belong to no token before encoding."
        )
    if num_tokens is None:
        num_tokens = high + 1
    elif high >= num_tokens:
        raise AtomEncodingError(
            f"'atom_to_token' holds token id {high}, but 'num_tokens' is {num_tokens}: "
            f"pass num_tokens >= {high + 1}, or mend the ids."
        )
    if batch is not None:
        check_graphs(atom_to_token, num_tokens, batch)
    return num_tokens


def _check_count(num_tokens: Any) -> int:
    if isinstance(num_tokens, Tensor) and num_tokens.numel() == 1:
        num_tokens = num_tokens.item()
    if isinstance(num_tokens, Tensor):
        raise AtomEncodingError(
            f"'num_tokens' is a tensor of {num_tokens.numel()} numbers: pass their "
            f"sum, int(batch.num_tokens.sum()), for a batch of graphs."
        )
    if isinstance(num_tokens, bool) or not hasattr(num_tokens, "__index__"):
        raise AtomEncodingError(
            f"'num_tokens' is {num_tokens!r}: pass the number of tokens as an int."
        )
    if num_tokens < 0:
        raise AtomEncodingError(
            f"'num_tokens' is {num_tokens}: pass the number of tokens, 0 or more."
        )
    return int(num_tokens)


def check_graphs(atom_to_token: Tensor, num_tokens: int, batch: Tensor) -> None:
    """Raise a ValueError if a token has atoms in two graphs of ``batch`` ``[N]``."""
    if batch.shape != atom_to_token.shape:
        raise AtomEncodingError(
            f"'batch' has shape {list(batch.shape)} for {atom_to_token.numel()} atoms: "
            f"pass the graph of every atom."
        )
    index, graph = atom_to_token.long(), batch.long()
    first = graph.new_full((num_tokens,), 2**62).scatter_reduce(0, index, graph, "amin")
    last = graph.new_full((num_tokens,), -1).scatter_reduce(0, index, graph, "amax")
    torn = (first < last).nonzero().flatten()
    if torn.numel() > 0:
        token = int(torn[0])
        raise AtomEncodingError(
            f"'atom_to_token' puts atoms of graphs {int(first[token])} and "
            f"{int(last[token])} of 'batch' into token {token}: the batch was made "
            f"from plain Data objects, which do not shift token ids. Make each graph a "
            f"pyg_atomenc.data.AtomTokenData before batching."
        )
