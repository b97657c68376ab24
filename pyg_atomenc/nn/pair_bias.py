"""`PairBias`: features of atom pairs → a bias on the logits of every layer."""

from collections.abc import Callable
from typing import Protocol, Union, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pyg_atomenc.attention import WindowBias, WindowLayout
from pyg_atomenc.attention.inputs import Bias
from pyg_atomenc.checks import check_sizes

# Windows whose pairs are worked on together: few enough to stay in a CPU's cache.
CPU_WINDOWS = 32
MAX_WINDOWS = 1024


class WindowPairs(Protocol):
    """Pairs of atoms in windows, whose features are made where they are used.

    All pairs together would take more memory than anything else of a structure, so they
    are made a few windows at a time, and only what is made of them is kept.
    """

    @property
    def layout(self) -> WindowLayout:
        """The windows."""

    def features(self, windows: slice) -> Tensor:
        """The features of all pairs of some windows.

        Args:
            windows (slice): Which windows, ``k`` in number.

        Returns:
            Tensor: ``[C, k, W, keys]``, a fresh one, normalised over the channels as by
            a LayerNorm without parameters; anything finite at places that are no pair.
        """


def window_groups(layout: WindowLayout) -> list[slice]:
    """The windows to work on together, group after group."""
    count = layout.num_windows
    if torch.compiler.is_compiling():
        return [slice(0, count)]
    step = CPU_WINDOWS if layout.device.type == "cpu" else MAX_WINDOWS
    return [slice(start, start + step) for start in range(0, count, step)]


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
        - input: ``[E, C]``, one row an edge; or :class:`WindowPairs`
        - output: a list of ``L`` biases, each ``[E, H]``; or one
          :class:`~pyg_atomenc.attention.WindowBias` a layer

    Raises:
        ValueError: If a size is not positive.
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
        if not isinstance(pair, Tensor):
            return self._of_windows(pair)
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
        layout = pairs.layout
        _, is_key = layout.key_index()

        def project(group: slice) -> Tensor:
            features = pairs.features(group)
            bias = (weight @ features.flatten(1)).add_(shift.unsqueeze(1))
            bias = bias.view(-1, *features.shape[1:])
            return bias.masked_fill_(~is_key[group][:, None], -torch.inf)

        groups = window_groups(layout)
        if torch.is_grad_enabled() and groups:
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
