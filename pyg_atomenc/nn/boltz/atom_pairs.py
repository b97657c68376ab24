"""`AtomPairEmbedding`: what pairs of atoms in a window are to each other."""

from typing import Optional, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention import WindowLayout
from pyg_atomenc.nn.boltz.config import BoltzConfig
from pyg_atomenc.nn.boltz.token_pairs import TokenPairs
from pyg_atomenc.nn.pair_bias import WindowPairs

# Windows whose pairs are worked on together: few enough to stay in a CPU's cache.
CPU_WINDOWS = 32
MAX_WINDOWS = 1024
# Rows of token pairs that are normalised together.
MAX_ROWS = 2**16


class AtomPairEmbedding(torch.nn.Module):
    r"""Features of the pairs of atoms in windows.

    .. math::
        p_{ab} = v_{ab} \left( W_p d_{ab} + \frac{W_r}{1 + \|d_{ab}\|^2} + W_v \right)
        + W_z \mathrm{LN}(z_{t(a) t(b)})
        + W_q \mathrm{relu}(c_a) + W_k \mathrm{relu}(c_b), \qquad
        p \leftarrow p + \mathrm{MLP}(p)

    for query :math:`a` and key :math:`b`, with the reference offset :math:`d_{ab}` in
    ångström, and :math:`v_{ab} = 1` where both lie in one reference space, else 0.
    Channels come first, so that every step runs over long rows, and windows go through
    all of it in groups.

    Args:
        config (BoltzConfig): The sizes.
    """

    def __init__(self, config: BoltzConfig) -> None:
        super().__init__()
        channels = config.pair_channels
        self.lin_position = torch.nn.Linear(3, channels, bias=False)
        self.lin_distance = torch.nn.Linear(1, channels, bias=False)
        self.lin_same = torch.nn.Linear(1, channels, bias=False)
        self.lin_query = torch.nn.Linear(config.atom_channels, channels, bias=False)
        self.lin_key = torch.nn.Linear(config.atom_channels, channels, bias=False)
        self.mlp = torch.nn.ModuleList(
            torch.nn.Linear(channels, channels, bias=False) for _ in range(3)
        )
        self.norm_token: Optional[torch.nn.LayerNorm] = None
        self.lin_token: Optional[torch.nn.Linear] = None
        if config.diffusion:
            self.norm_token = torch.nn.LayerNorm(config.token_pair_channels)
            self.lin_token = torch.nn.Linear(
                config.token_pair_channels, channels, bias=False
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; what Boltz starts at zero starts at zero."""
        for linear in (self.lin_position, self.lin_distance, self.lin_same, *self.mlp):
            linear.reset_parameters()
        zeros: list[torch.nn.Module] = [self.lin_query, self.lin_key, self.mlp[-1]]
        if self.norm_token is not None and self.lin_token is not None:
            self.norm_token.reset_parameters()
            zeros.append(self.lin_token)
        for linear in zeros:
            torch.nn.init.zeros_(cast(Tensor, linear.weight))

    def forward(
        self,
        layout: WindowLayout,
        ref_pos: Tensor,
        ref_space_uid: Tensor,
        cond: Tensor,
        token_pairs: Optional[TokenPairs] = None,
    ) -> WindowPairs:
        """Prepare the pairs.

        Args:
            layout (WindowLayout): The windows.
            ref_pos (Tensor): Reference positions ``[N, 3]`` in ångström.
            ref_space_uid (Tensor): The reference space of every atom ``[N]``.
            cond (Tensor): The atoms' condition ``[N, atom_channels]``.
            token_pairs (TokenPairs, optional): The features of token pairs.
                (default: ``None``)

        Returns:
            WindowPairs: The pairs, made when they are used.
        """
        active = F.relu(cond)
        atoms = (ref_pos.to(cond.dtype), self.lin_query(active), self.lin_key(active))
        query, _ = layout.query_index()
        key, _ = layout.key_index()
        table: tuple[Tensor, ...] = ()
        if token_pairs is not None:
            table = self._project_tokens(token_pairs, query, key)
        given = (ref_space_uid, *atoms, *table)

        def embed(group: slice) -> Tensor:
            return self._embed(query[group], key[group], *given)

        tracked = any(t.requires_grad for t in (*given, *self.parameters()))
        return WindowPairs(layout, embed, _step(cond.device), tracked)

    def _embed(
        self,
        query: Tensor,
        key: Tensor,
        space: Tensor,
        position: Tensor,
        of_query: Tensor,
        of_key: Tensor,
        *table: Tensor,
    ) -> Tensor:
        """The pairs of queries ``[k, W]`` and keys ``[k, H]``: ``[C, k, W, H]``."""
        same = _rows(space, query).unsqueeze(2) == _rows(space, key).unsqueeze(1)
        offset = _columns(position, key).unsqueeze(2)
        offset = offset - _columns(position, query).unsqueeze(3)
        distance = (1 + offset.square().sum(0, keepdim=True)).reciprocal()
        features = torch.cat([offset, distance, torch.ones_like(distance)]).mul_(same)
        linears = (self.lin_position, self.lin_distance, self.lin_same)
        weight = torch.cat([linear.weight for linear in linears], dim=1)
        pair = weight @ features.flatten(1)
        if table:
            # A product with the identity transposes faster than a copy does.
            rows = _token_rows(query, key, *table)
            identity = torch.eye(rows.size(1), dtype=rows.dtype, device=rows.device)
            pair.addmm_(identity, rows.T)
        pair = pair.view(-1, *features.shape[1:])
        pair += _columns(of_query, query).unsqueeze(3)
        pair += _columns(of_key, key).unsqueeze(2)
        first, second, third = (cast(Tensor, linear.weight) for linear in self.mlp)
        hidden = first @ F.relu(pair.flatten(1))
        hidden = second @ hidden.relu_()
        hidden = third @ hidden.relu_()
        pair += hidden.view_as(pair)
        # LayerNorm over the first dimension.
        pair -= pair.mean(0)
        return pair * (pair.square().mean(0) + 1e-5).rsqrt()

    def _project_tokens(
        self, pairs: TokenPairs, query: Tensor, key: Tensor
    ) -> tuple[Tensor, ...]:
        """Projected rows, where to find them, and the renumbering of rows if any.

        Windows see few of the pairs of a long chain's tokens: only those that some
        window sees are normalised and projected.
        """
        assert self.norm_token is not None and self.lin_token is not None
        values = pairs.values
        places = query.numel() * key.size(-1)
        rank: tuple[Tensor, ...] = ()
        if not torch.compiler.is_compiling() and 8 * values.size(0) > places:
            seen = torch.zeros(values.size(0), dtype=torch.bool, device=values.device)
            step = _step(values.device)
            for start in range(0, query.size(0), step):
                group = slice(start, start + step)
                seen[_pair_rows(query[group], key[group], pairs.row, pairs.column)] = 1
            rank = (seen.cumsum(0, dtype=torch.int32) - 1,)
            values = values.index_select(0, seen.nonzero().squeeze(1))
        dtype = self.lin_token.weight.dtype
        blocks = [
            self.lin_token(self.norm_token(block.to(dtype)))
            for block in values.split(MAX_ROWS)
        ]
        table = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return (table, pairs.row, pairs.column, *rank)


def _step(device: torch.device) -> int:
    return CPU_WINDOWS if device.type == "cpu" else MAX_WINDOWS


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:])


def _columns(x: Tensor, index: Tensor) -> Tensor:
    """``[N, C]`` → ``[C, *index.shape]``."""
    return x.index_select(0, index.flatten()).T.reshape(-1, *index.shape)


def _pair_rows(query: Tensor, key: Tensor, row: Tensor, column: Tensor) -> Tensor:
    rows = _rows(row, query).unsqueeze(2) + _rows(column, key).unsqueeze(1)
    return rows.flatten()


def _token_rows(
    query: Tensor,
    key: Tensor,
    table: Tensor,
    row: Tensor,
    column: Tensor,
    rank: Optional[Tensor] = None,
) -> Tensor:
    index = _pair_rows(query, key, row, column)
    if rank is not None:
        index = rank.index_select(0, index)
    return table.index_select(0, index)
