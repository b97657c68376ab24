"""`PairBias`: features of atom pairs → a bias on the logits of every layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pyg_atomenc.attention import Bias, WindowBias, WindowLayout
from pyg_atomenc.checks import check_sizes, check_tensor
from pyg_atomenc.errors import AtomEncodingError


@dataclass(frozen=True, eq=False)
class WindowPairs:
    """Features of all pairs in windows, computed where they are used.

    All pairs together would take more memory than anything else of a structure, so they
    are made a few windows at a time, and only what is made of them is kept.

    Attributes:
        layout (WindowLayout): The windows.
        embed (callable): From a slice of the windows to the features of their pairs
            ``[C, k, W, keys]``, normalised over the channels as by a LayerNorm without
            parameters; anything finite at places that are no pair.
        step (int): Windows to work on together.
        tracked (bool): Whether gradients flow to what the features are made of.
    """

    layout: WindowLayout
    embed: Callable[[slice], Tensor]
    step: int
    tracked: bool

    def groups(self) -> list[slice]:
        """The slices to work on, one after the other."""
        count = self.layout.num_windows
        if torch.compiler.is_compiling():
            return [slice(0, count)]
        return [
            slice(start, min(start + self.step, count))
            for start in range(0, count, self.step)
        ]


class PairBias(torch.nn.Module):
    r"""A bias on the logits of every layer and head, from features of atom pairs.

    .. math:: \beta^l_{ab} = W^l \, \mathrm{LN}^l(p_{ab})

    the pair bias of Algorithm 24 of AlphaFold 3's supplement
    (https://doi.org/10.1038/s41586-024-07487-w).

    Args:
        pair_channels (int): Channels ``C`` of a pair.
        heads (int): Number of heads ``H``.
        depth (int): Number of layers ``L``.
        shared_norm (bool): Whether the layers share the weight and the bias of their
            LayerNorm. (default: ``False``)

    Shapes:
        - input: ``[E, C]``, one row an edge; or the pairs of windows
        - output: a list of ``L`` biases, each ``[E, H]``; or one
          :class:`~pyg_atomenc.attention.WindowBias` a layer

    Raises:
        ValueError: If a size is not positive, or the input does not fit.
    """

    def __init__(
        self, pair_channels: int, heads: int, depth: int, shared_norm: bool = False
    ) -> None:
        super().__init__()
        check_sizes(pair_channels=pair_channels, heads=heads, depth=depth)
        self.pair_channels = pair_channels
        self.heads = heads
        self.depth = depth
        norms = 1 if shared_norm else depth
        self.norms = torch.nn.ModuleList(
            torch.nn.LayerNorm(pair_channels) for _ in range(norms)
        )
        self.lins = torch.nn.ModuleList(
            torch.nn.Linear(pair_channels, heads, bias=False) for _ in range(depth)
        )

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for module in (*self.norms, *self.lins):
            module.reset_parameters()

    def forward(self, pair: Union[Tensor, WindowPairs]) -> list[Bias]:
        """Project; shapes are those of the class."""
        if isinstance(pair, WindowPairs):
            return self._of_windows(pair)
        if check_tensor("pair", pair).dim() != 2 or pair.size(1) != self.pair_channels:
            raise AtomEncodingError(
                f"'pair' needs the shape [num_edges, {self.pair_channels}], one row "
                f"for every edge of layout.to_edge_index(), found: {list(pair.shape)}."
            )
        # The layers' LayerNorms differ in their weights alone.
        normed = F.layer_norm(pair, (self.pair_channels,))
        return [F.linear(normed, *self._folded(i)) for i in range(self.depth)]

    def _folded(self, layer: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer's LayerNorm and projection in one."""
        norm = self.norms[layer if len(self.norms) > 1 else 0]
        weight = cast(Tensor, self.lins[layer].weight)
        return weight * cast(Tensor, norm.weight), weight @ cast(Tensor, norm.bias)

    def _of_windows(self, pairs: WindowPairs) -> list[Bias]:
        folded = [self._folded(layer) for layer in range(self.depth)]
        weight, shift = (torch.cat(part) for part in zip(*folded, strict=True))
        _, is_key = pairs.layout.key_index()

        def project(group: slice) -> Tensor:
            features = pairs.embed(group)
            bias = (weight @ features.flatten(1)).add_(shift.unsqueeze(1))
            bias = bias.view(-1, *features.shape[1:])
            return bias.masked_fill_(~is_key[group][:, None], -torch.inf)

        groups, layout = pairs.groups(), pairs.layout
        tracked = torch.is_grad_enabled() and (pairs.tracked or weight.requires_grad)
        if tracked and groups:
            values = torch.cat([_compute_again(project, g) for g in groups], dim=1)
        else:
            shape = (len(weight), layout.num_windows, layout.queries, layout.keys)
            values = weight.new_empty(shape)
            for group in groups:
                values[:, group] = project(group)
        return [WindowBias(bias.transpose(0, 1)) for bias in values.split(self.heads)]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.pair_channels}, heads={self.heads}, "
            f"depth={self.depth})"
        )


def _compute_again(project: Callable[[slice], Tensor], group: slice) -> Tensor:
    """Keeps nothing for the backward pass but what went in."""
    if torch.compiler.is_compiling():
        return project(group)
    return checkpoint(project, group, use_reentrant=False)
