"""What atoms are, and what pairs of atoms in a window are to each other."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention import TokenLayout, WindowLayout, take
from pyg_atomenc.checks import check_range
from pyg_atomenc.data.storage import to_ids
from pyg_atomenc.nn.atom_transformer import TensorDataclass
from pyg_atomenc.nn.boltz.config import NAME_CHARACTERS, NAME_LENGTH, BoltzConfig
from pyg_atomenc.nn.boltz.inputs import BoltzInputs, TokenPairs
from pyg_atomenc.nn.pair_bias_attention import window_groups
from pyg_atomenc.nn.projections import ZeroLinear, folded_weight

# Rows of token pairs that are normalised together.
MAX_ROWS = 2**16


class AtomFeatureEmbedding(torch.nn.Module):
    """A linear layer on the one-hot features of a config, without forming them."""

    def __init__(self, config: BoltzConfig) -> None:
        super().__init__()
        self.widths = config.features
        width, channels = sum(self.widths.values()), config.atom_channels
        self.lin = torch.nn.Linear(width, channels, bias=config.feature_bias)

    def forward(self, inputs: BoltzInputs, layout: TokenLayout) -> Tensor:
        """Embed the atoms as ``[N, atom_channels]``."""
        parts = folded_weight(self.lin, "lin").split(list(self.widths.values()), dim=1)
        out: Any = 0.0 if self.lin.bias is None else self.lin.bias
        for name, part in zip(self.widths, parts, strict=True):
            of_token = name.startswith("token_")
            count = layout.num_tokens if of_token else layout.num_atoms
            rows = _embed(inputs, name, part.T, count)
            out = out + (take(rows, layout.atom_to_token) if of_token else rows)
        return out


@dataclass(frozen=True, eq=False)
class AtomPairs(TensorDataclass):
    """The pairs of atoms in windows, whose :meth:`features` :class:`PairBias` reads.

    It holds copies of weights: later changes of the embedding's do not reach it.
    """

    layout: WindowLayout
    query: Tensor  # of every window [K, W]
    key: Tensor  # of every window [K, H]
    space: Tensor  # the reference space of every atom [N]
    position: Tensor  # reference positions [N, 3] in ångström
    of_query: Tensor  # what every atom gives its pairs as a query [N, C]
    of_key: Tensor  # what it gives them as a key [N, C]
    geometry: Tensor  # weights of offset, distance and one reference [C, 5]
    mlp: Tensor  # weights of the three layers [3, C, C]
    tokens: Optional[TokenPairs] = None  # what the tokens' pairs give [R, C]

    def features(self, windows: slice) -> Tensor:
        """The normalised features of some windows' pairs ``[C, k, W, H]``."""
        query, key, space = self.query[windows], self.key[windows], self.space
        same = take(space, query).unsqueeze(2) == take(space, key).unsqueeze(1)
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
    """

    def __init__(self, config: BoltzConfig) -> None:
        super().__init__()
        channels = config.pair_channels
        linear = partial(torch.nn.Linear, out_features=channels, bias=False)
        self.lin_position, self.lin_distance, self.lin_same = map(linear, (3, 1, 1))
        self.lin_query = ZeroLinear(config.atom_channels, channels)
        self.lin_key = ZeroLinear(config.atom_channels, channels)
        mlp = linear(channels), linear(channels), ZeroLinear(channels, channels)
        self.mlp = torch.nn.ModuleList(mlp)
        self.norm_token = self.lin_token = None
        if config.diffusion:
            self.norm_token = torch.nn.LayerNorm(config.token_pair_channels)
            self.lin_token = ZeroLinear(config.token_pair_channels, channels)

    def forward(
        self,
        layout: WindowLayout,
        ref_pos: Tensor,
        ref_space_uid: Tensor,
        cond: Tensor,
        token_pairs: Optional[TokenPairs] = None,
    ) -> AtomPairs:
        """Prepare the pairs of positions ``[N, 3]`` in ångström and spaces ``[N]``."""
        active = F.relu(cond)
        query, key = layout.query_index()[0], layout.key_index()[0]
        if token_pairs is not None:
            token_pairs = self._project_tokens(token_pairs, layout, query, key)
        given = self.lin_query(active), self.lin_key(active)
        names = ("lin_position", "lin_distance", "lin_same")
        geometry = [folded_weight(getattr(self, name), name) for name in names]
        mlp = [folded_weight(linear, "mlp") for linear in self.mlp]
        weights = torch.cat(geometry, dim=1), torch.stack(mlp)
        known = (layout, query, key, ref_space_uid, ref_pos.to(cond.dtype))
        return AtomPairs(*known, *given, *weights, token_pairs)

    def _project_tokens(
        self, tokens: TokenPairs, layout: WindowLayout, query: Tensor, key: Tensor
    ) -> TokenPairs:
        """The rows normalised and projected; of a long chain those in some window."""
        assert self.norm_token is not None and self.lin_token is not None
        values, rank = tokens.values, None
        places = query.numel() * key.size(-1)
        if not torch.compiler.is_compiling() and 8 * values.size(0) > places:
            seen = torch.zeros(values.size(0), dtype=torch.bool, device=values.device)
            for group in window_groups(layout):
                seen[tokens.index(query[group], key[group])] = True
            rank = seen.cumsum(0, dtype=torch.int32) - 1
            values = values.index_select(0, seen.nonzero().squeeze(1))
        dtype = self.lin_token.weight.dtype
        parts = (self.norm_token(part.to(dtype)) for part in values.split(MAX_ROWS))
        table = torch.cat([self.lin_token(part) for part in parts])
        return replace(tokens, values=table, rank=rank)


def _embed(inputs: BoltzInputs, name: str, table: Tensor, count: int) -> Tensor:
    """One feature times its weights ``[width, C]``, as ``[count, C]``."""
    if name == "mask":
        return table
    if name == "ref_pos":
        return inputs.shaped(name, count, 3).to(table.dtype) @ table
    if name == "ref_atom_name_chars":
        codes = _codes(inputs, name, NAME_CHARACTERS, count, NAME_LENGTH)
        letters = zip(codes.unbind(1), table.split(NAME_CHARACTERS), strict=True)
        return torch.stack([F.embedding(*letter) for letter in letters]).sum(0)
    if len(table) == 1:
        return inputs.shaped(name, count).to(table.dtype).unsqueeze(1) * table
    return F.embedding(_codes(inputs, name, len(table), count), table)


def _columns(x: Tensor, index: Tensor) -> Tensor:
    """``[N, C]`` → ``[C, *index.shape]``."""
    return x.index_select(0, index.flatten()).T.reshape(-1, *index.shape)


def _codes(inputs: BoltzInputs, name: str, kinds: int, *shape: int) -> Tensor:
    codes = to_ids(name, inputs.shaped(name, *shape))
    if not torch.compiler.is_compiling():
        check_range(name, codes, kinds, "kinds")
    return codes
