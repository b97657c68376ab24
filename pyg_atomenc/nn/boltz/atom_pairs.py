"""`AtomPairEmbedding`: what pairs of atoms in a window are to each other."""

from dataclasses import dataclass, replace
from typing import Optional, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn.inits import reset

from pyg_atomenc.attention import WindowLayout
from pyg_atomenc.nn.atom_transformer import TensorDataclass
from pyg_atomenc.nn.boltz.config import BoltzConfig
from pyg_atomenc.nn.boltz.inputs import TokenPairs, gather
from pyg_atomenc.nn.pair_bias_attention import window_groups

# Rows of token pairs that are normalised together.
MAX_ROWS = 2**16


@dataclass(frozen=True, eq=False)
class AtomPairs(TensorDataclass):
    """The pairs of atoms in windows: what their features are made of, few at a time.

    It is what :class:`PairBias` reads, and holds copies of the few weights that it
    needs: later changes of the embedding's do not reach it.

    Attributes:
        layout (WindowLayout): The windows.
        query (Tensor): The queries of every window ``[K, W]``.
        key (Tensor): The keys of every window ``[K, H]``.
        space (Tensor): The reference space of every atom ``[N]``.
        position (Tensor): Reference positions ``[N, 3]`` in ångström.
        of_query (Tensor): What every atom gives its pairs as a query ``[N, C]``.
        of_key (Tensor): What it gives them as a key ``[N, C]``.
        geometry (Tensor): Weights of offset, distance and one reference ``[C, 5]``.
        mlp (Tensor): Weights of the three layers ``[3, C, C]``.
        tokens (TokenPairs, optional): What the tokens' pairs give ``[R, C]``.
    """

    layout: WindowLayout
    query: Tensor
    key: Tensor
    space: Tensor
    position: Tensor
    of_query: Tensor
    of_key: Tensor
    geometry: Tensor
    mlp: Tensor
    tokens: Optional[TokenPairs] = None

    def features(self, windows: slice) -> Tensor:
        """The normalised features of some windows' pairs ``[C, k, W, H]``."""
        query, key, space = self.query[windows], self.key[windows], self.space
        same = gather(space, query).unsqueeze(2) == gather(space, key).unsqueeze(1)
        offset = _columns(self.position, key).unsqueeze(2)
        offset = offset - _columns(self.position, query).unsqueeze(3)
        distance = (1 + offset.square().sum(0, keepdim=True)).reciprocal()
        given = torch.cat([offset, distance, torch.ones_like(distance)]).mul_(same)
        pair = self.geometry @ given.flatten(1)
        if self.tokens is not None:
            # A product with the identity transposes faster than a copy does.
            rows = self.tokens.values.index_select(0, self.tokens.index(query, key))
            identity = torch.eye(rows.size(1), dtype=rows.dtype, device=rows.device)
            pair.addmm_(identity, rows.T)
        pair = pair.view(-1, *given.shape[1:])
        pair += _columns(self.of_query, query).unsqueeze(3)
        pair += _columns(self.of_key, key).unsqueeze(2)
        first, second, third = self.mlp.unbind()
        hidden = first @ F.relu(pair.flatten(1))
        hidden = second @ hidden.relu_()
        hidden = third @ hidden.relu_()
        pair += hidden.view_as(pair)
        # LayerNorm over the first dimension.
        pair -= pair.mean(0)
        return pair * (pair.square().mean(0) + 1e-5).rsqrt()


class AtomPairEmbedding(torch.nn.Module):
    r"""Features of the pairs of atoms in windows.

    .. math::
        p_{ab} = v_{ab} \left( W_p d_{ab} + \frac{W_r}{1 + \|d_{ab}\|^2} + W_v \right)
        + W_z \mathrm{LN}(z_{t(a) t(b)})
        + W_q \mathrm{relu}(c_a) + W_k \mathrm{relu}(c_b), \qquad
        p \leftarrow p + \mathrm{MLP}(p)

    for query :math:`a` and key :math:`b`, with the reference offset :math:`d_{ab}` in
    ångström, and :math:`v_{ab} = 1` where both lie in one reference space, else 0.
    Channels come first, so that every step runs over long rows.

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
        self.norm_token = self.lin_token = None
        if config.diffusion:
            width = config.token_pair_channels
            self.norm_token = torch.nn.LayerNorm(width)
            self.lin_token = torch.nn.Linear(width, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; what Boltz starts at zero starts at zero."""
        for child in self.children():
            reset(child)
        for linear in (self.lin_query, self.lin_key, self.mlp[-1], self.lin_token):
            if linear is not None:
                torch.nn.init.zeros_(cast(Tensor, linear.weight))

    def forward(
        self,
        layout: WindowLayout,
        ref_pos: Tensor,
        ref_space_uid: Tensor,
        cond: Tensor,
        token_pairs: Optional[TokenPairs] = None,
    ) -> AtomPairs:
        """Prepare the pairs.

        Args:
            layout (WindowLayout): The windows.
            ref_pos (Tensor): Reference positions ``[N, 3]`` in ångström.
            ref_space_uid (Tensor): The reference space of every atom ``[N]``.
            cond (Tensor): The atoms' condition ``[N, atom_channels]``.
            token_pairs (TokenPairs, optional): The features of token pairs.
                (default: ``None``)

        Returns:
            AtomPairs: The pairs, whose features are made when they are used.
        """
        active = F.relu(cond)
        linears = (self.lin_position, self.lin_distance, self.lin_same)
        mlp = [cast(Tensor, linear.weight) for linear in self.mlp]
        pairs = AtomPairs(
            layout,
            layout.query_index()[0],
            layout.key_index()[0],
            ref_space_uid,
            ref_pos.to(cond.dtype),
            self.lin_query(active),
            self.lin_key(active),
            torch.cat([linear.weight for linear in linears], dim=1),
            torch.stack(mlp),
        )
        if token_pairs is None:
            return pairs
        return replace(pairs, tokens=self._project_tokens(token_pairs, pairs))

    def _project_tokens(self, tokens: TokenPairs, pairs: AtomPairs) -> TokenPairs:
        """The rows projected.

        Windows see few of the pairs of a long chain's tokens: only those that some
        window sees are normalised and projected.
        """
        assert self.norm_token is not None and self.lin_token is not None
        values, rank = tokens.values, None
        places = pairs.query.numel() * pairs.key.size(-1)
        if not torch.compiler.is_compiling() and 8 * values.size(0) > places:
            seen = torch.zeros(values.size(0), dtype=torch.bool, device=values.device)
            for group in window_groups(pairs.layout):
                seen[tokens.index(pairs.query[group], pairs.key[group])] = True
            rank = seen.cumsum(0, dtype=torch.int32) - 1
            values = values.index_select(0, seen.nonzero().squeeze(1))
        dtype = self.lin_token.weight.dtype
        blocks = [
            self.lin_token(self.norm_token(block.to(dtype)))
            for block in values.split(MAX_ROWS)
        ]
        table = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return replace(tokens, values=table, rank=rank)


def _columns(x: Tensor, index: Tensor) -> Tensor:
    """``[N, C]`` → ``[C, *index.shape]``."""
    return x.index_select(0, index.flatten()).T.reshape(-1, *index.shape)
