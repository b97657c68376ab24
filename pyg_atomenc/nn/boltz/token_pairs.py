"""Where the pairs of tokens of a ragged batch lie."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.errors import AtomEncodingError


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Rows of token pair features, and where those of two atoms are found.

    Attributes:
        values (Tensor): The rows ``[R, C]``.
        row (Tensor): For every atom as a query, where its token's rows start ``[N]``.
        column (Tensor): For every atom as a key, what to add ``[N]``.
    """

    values: Tensor
    row: Tensor
    column: Tensor

    @staticmethod
    def from_blocks(
        z_trunk: Tensor,
        layout: TokenLayout,
        batch_ptr: Tensor,
        num_tokens: Optional[Tensor],
        channels: int,
    ) -> "TokenPairs":
        """Read the pairs of all graphs.

        Args:
            z_trunk (Tensor): The ``[n_g, n_g]`` blocks of all graphs, flattened to
                ``[sum of n_g ** 2, channels]``; or padded to ``[G, n, n, channels]``.
            layout (TokenLayout): The tokens of the atoms.
            batch_ptr (Tensor): The atoms of graph ``g`` are ``batch_ptr[g]`` to
                ``batch_ptr[g + 1] - 1``.
            num_tokens (Tensor, optional): Tokens of every graph ``[G]``; ``None`` to
                see them from the atoms.
            channels (int): Channels of a pair.

        Raises:
            ValueError: If the blocks do not have the size of the graphs.
        """
        counts = _token_counts(layout, batch_ptr, num_tokens)
        graphs = counts.numel()
        padded = z_trunk.dim() == 4
        if z_trunk.dim() not in (2, 4) or z_trunk.size(-1) != channels:
            raise AtomEncodingError(
                f"'z_trunk' needs the shape [sum of n_g ** 2, {channels}] or [graphs, "
                f"n, n, {channels}], found: {list(z_trunk.shape)}."
            )
        if padded:
            width = z_trunk.size(1)
            largest = int(counts.max()) if graphs else 0
            if z_trunk.shape[:3] != (graphs, width, width) or width < largest:
                raise AtomEncodingError(
                    f"'z_trunk' has blocks of shape {list(z_trunk.shape[1:3])} for "
                    f"{z_trunk.size(0)} graphs, but the batch has {graphs} graphs of "
                    f"up to {largest} tokens."
                )
            stride = torch.full_like(counts, width)
        else:
            stride = counts
            if z_trunk.size(0) != int((counts**2).sum()):
                raise AtomEncodingError(
                    f"'z_trunk' has {z_trunk.size(0)} rows, but graphs of "
                    f"{_listed(counts)} tokens have {int((counts**2).sum())} pairs: "
                    f"flatten the [n_g, n_g] blocks of all graphs one after the other, "
                    f"and say in 'num_tokens' how many tokens every graph has."
                )
        values = z_trunk.reshape(-1, channels)
        sizes = batch_ptr.diff()
        graph = torch.arange(graphs, device=sizes.device).repeat_interleave(sizes)
        local = layout.atom_to_token - (counts.cumsum(0) - counts)[graph]
        block = stride**2
        row = (block.cumsum(0) - block)[graph] + local * stride[graph]
        return TokenPairs(values, row, local)


def _token_counts(
    layout: TokenLayout, batch_ptr: Tensor, num_tokens: Optional[Tensor]
) -> Tensor:
    graphs = batch_ptr.numel() - 1
    if num_tokens is None and graphs == 1:
        return torch.tensor([layout.num_tokens], device=layout.device)
    sizes = batch_ptr.diff()
    graph = torch.arange(graphs, device=sizes.device).repeat_interleave(sizes)
    if num_tokens is None:
        filled = layout.sizes > 0
        if not bool(filled.all()) or not bool((sizes > 0).all()):
            raise AtomEncodingError(
                "'num_tokens' is one number, but some tokens or graphs have no atoms: "
                "pass the number of tokens of every graph."
            )
        owner = layout.sizes.new_empty(layout.num_tokens)
        owner[layout.atom_to_token] = graph
        counts = owner.bincount(minlength=graphs)
    else:
        counts = num_tokens.to(layout.device).long()
        if counts.shape != (graphs,) or int(counts.sum()) != layout.num_tokens:
            raise AtomEncodingError(
                f"'num_tokens' is {_listed(counts)} for {graphs} graphs with "
                f"{layout.num_tokens} tokens: pass one number for every graph."
            )
    first = counts.cumsum(0) - counts
    low = layout.atom_to_token < first[graph]
    high = layout.atom_to_token >= (first + counts)[graph]
    if bool((low | high).any()):
        atom = int((low | high).nonzero()[0])
        raise AtomEncodingError(
            f"'atom_to_token' puts atom {atom} of graph {int(graph[atom])} into token "
            f"{int(layout.atom_to_token[atom])}, which belongs to another graph: "
            f"number the tokens graph by graph, as AtomTokenData batches them."
        )
    return counts


def _listed(counts: Tensor) -> str:
    shown = counts.flatten().tolist()
    return str(shown) if len(shown) < 9 else f"{shown[:8]}… ({len(shown)} graphs)"
