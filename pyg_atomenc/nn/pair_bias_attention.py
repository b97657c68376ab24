"""`PairBias` and `PairBiasAttention`: gated attention biased by features of pairs."""

from collections.abc import Callable
from functools import partial
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import pyg_atomenc.attention as attention
from pyg_atomenc.attention import Bias, Layout, WindowBias, WindowLayout
from pyg_atomenc.checks import check_type
from pyg_atomenc.nn.projections import ZeroLinear, folded_weight, has_to_be_called

# Windows whose pairs are worked on together: few enough to stay in a CPU's cache.
CPU_WINDOWS = 32
MAX_WINDOWS = 1024

# Makes the features of the pairs of ``k`` windows, ``[C, k, W, keys]``, normalised over
# the channels as by a LayerNorm without parameters; anything finite where no pair is.
# All pairs at once would take more memory than anything else of a structure.
WindowPairs = Callable[[slice], Tensor]


def window_groups(layout: WindowLayout) -> list[slice]:
    """The windows to work on together, group after group."""
    if torch.compiler.is_compiling():
        return [slice(0, layout.num_windows)]
    step = CPU_WINDOWS if layout.device.type == "cpu" else MAX_WINDOWS
    return [slice(start, start + step) for start in range(0, layout.num_windows, step)]


class PairBias(torch.nn.Module):
    r"""A bias on the logits of every layer and head, from features of atom pairs.

    .. math:: \beta^l_{ab} = W^l \, \mathrm{LN}^l(p_{ab})

    as in :class:`PairBiasAttention`. Features ``[E, C]``, one row an edge, give
    ``depth`` biases ``[E, H]``; a function that makes those of some windows, see
    ``WindowPairs``, gives :class:`~pyg_atomenc.attention.WindowBias`.
    """

    def __init__(self, channels: int, heads: int, depth: int, shared: bool) -> None:
        super().__init__()
        self.pair_channels, self.heads = channels, heads
        norms = (torch.nn.LayerNorm(channels) for _ in range(1 if shared else depth))
        lins = (torch.nn.Linear(channels, heads, bias=False) for _ in range(depth))
        self.norms, self.lins = torch.nn.ModuleList(norms), torch.nn.ModuleList(lins)

    def forward(self, pair: Union[Tensor, WindowPairs], layout: Layout) -> list[Bias]:
        """Project; shapes are those of the class."""
        norms: Any = [*self.norms] * (len(self.lins) // len(self.norms))
        layers = list(zip(norms, self.lins, strict=True))
        if isinstance(pair, Tensor):
            if any(has_to_be_called(lin, pair) for lin in self.lins):
                return [lin(norm(pair)) for norm, lin in layers]
        # Weight and bias of every layer's LayerNorm and projection in one.
        weights = ((folded_weight(lin, "lins"), norm) for norm, lin in layers)
        folded = [(w * norm.weight, w @ norm.bias) for w, norm in weights]
        if isinstance(pair, Tensor):
            # The layers' LayerNorms differ in their weights alone.
            normed = attention.layer_norm(pair)
            return [F.linear(normed, *layer) for layer in folded]
        mend, pairs = "pass the windows whose pairs the function makes.", pair
        layout = check_type("layout", layout, WindowLayout, mend)
        weight, shift = (torch.cat(part) for part in zip(*folded, strict=True))
        _, is_key = layout.key_index()

        def project(group: slice) -> Tensor:
            features = pairs(group)
            bias = (weight @ features.flatten(1)).add_(shift.unsqueeze(1))
            bias = bias.view(-1, *features.shape[1:])
            return bias.masked_fill_(~is_key[group][:, None], -torch.inf)

        groups = window_groups(layout)
        if torch.is_grad_enabled() and groups:
            if not torch.compiler.is_compiling():
                # Keeps nothing for the backward pass but what went in.
                project = partial(checkpoint, project, use_reentrant=False)
            values = torch.cat([project(group) for group in groups], dim=1)
        else:
            shape = (len(weight), layout.num_windows, layout.queries, layout.keys)
            values = weight.new_empty(shape)
            for group in groups:
                values[:, group] = project(group)
        return [WindowBias(bias.transpose(0, 1)) for bias in values.split(self.heads)]


class PairBiasAttention(torch.nn.Module):
    r"""Gated multi-head attention with a bias for every pair of atoms.

    .. math::
        W_o \, \Vert_h \, \sigma(W^h_g x_a) \odot \sum_b \mathrm{softmax}_b\left(
        \frac{(W^h_q x_a + b_q) \cdot (W^h_k x_b)}{\sqrt{d}} + \beta^h_{ab}
        \right) W^h_v x_b

    Algorithm 24 of AlphaFold 3's supplement
    (https://doi.org/10.1038/s41586-024-07487-w), without its norms and residual.
    Input and output are atoms ``[N, C]``, or ``[M, N, C]`` for ``M`` samples that share
    layout and bias; the bias is ``[E, H]`` or a
    :class:`~pyg_atomenc.attention.WindowBias`.
    """

    def __init__(self, channels: int, heads: int, backend: str) -> None:
        super().__init__()
        self.heads, self.backend = heads, backend
        self.lin_query = torch.nn.Linear(channels, channels)
        lins = (torch.nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.lin_key, self.lin_value, self.lin_gate = lins
        self.lin_out = ZeroLinear(channels, channels)

    __prepare_scriptable__ = attention.refuse_script

    def forward(
        self, x: Tensor, layout: Layout, bias: Optional[Bias], targets: slice
    ) -> Tensor:
        """Attend as a layout says, from some of the atoms to all; shapes as there."""
        target = x[..., targets, :]
        projected = self.lin_query(target), self.lin_key(x), self.lin_value(x)
        query, key, value = (x.unflatten(-1, (self.heads, -1)) for x in projected)
        out = attention.attention(query, key, value, layout, bias, backend=self.backend)
        return self.lin_out(self.lin_gate(target).sigmoid() * out.flatten(-2))
