"""`AtomTransformer`: conditioned attention with a pair bias, over any layout."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Optional, Self, Union, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint as run_again

import pyg_atomenc.attention as attention
import pyg_atomenc.checks as checks
import pyg_atomenc.nn.conditioned_transition as conditioned
import pyg_atomenc.nn.pair_bias_attention as pairs
from pyg_atomenc.attention.layouts.base import Device
from pyg_atomenc.nn.projections import ZeroLinear, reset_children


class TensorDataclass:
    """What dataclasses of tensors, layouts and each other share: they move as one."""

    def to(self, device: Device, non_blocking: bool = False) -> Self:
        """The same on a device; a layout may keep some of its tensors."""

        def move(value: Any) -> Any:
            movable = hasattr(value, "to")
            return value.to(device, non_blocking=non_blocking) if movable else value

        moved = tree_map(move, vars(self), is_leaf=lambda value: hasattr(value, "to"))
        return type(self)(**moved)


@dataclass(frozen=True, eq=False)
class TransformerConditioning(TensorDataclass):
    """All that does not change from step to step; of ``AtomTransformer.condition``."""

    layout: attention.Layout
    # Of every layer scale, shift and gate of attention and of transition, each [N, C].
    modulations: list[tuple[Tensor, ...]]
    biases: list[Optional[attention.Bias]]  # of every layer, None without pairs


class AtomTransformerLayer(torch.nn.Module):
    """One layer of :class:`AtomTransformer`, whose arguments these are."""

    def __init__(
        self,
        channels: int,
        cond_channels: int,
        heads: int,
        expansion: int,
        post_norm: bool,
        backend: str,
    ) -> None:
        super().__init__()
        sizes = channels, cond_channels
        self.norm = conditioned.AdaptiveLayerNorm(*sizes)
        self.attention = pairs.PairBiasAttention(channels, heads, backend)
        self.lin_cond = ZeroLinear(cond_channels, channels, bias=True)
        self.transition = conditioned.ConditionedTransition(*sizes, expansion)
        self.post_norm = torch.nn.LayerNorm(channels) if post_norm else None

    def modulation(self, cond: Tensor) -> tuple[Tensor, ...]:
        """What the layer makes of the condition ``[N, S]``, six times ``[N, C]``."""
        own = (*self.norm.modulation(cond), self.lin_cond(cond).sigmoid())
        return *own, *self.transition.modulation(cond)

    def forward(
        self,
        x: Tensor,
        layout: attention.Layout,
        modulation: tuple[Tensor, ...],
        bias: Optional[attention.Bias],
        targets: Optional[slice] = None,
    ) -> Tensor:
        """Attend and transform ``[N, C]`` or ``[M, N, C]``: all, or the targets."""
        alone = targets is None and x.device.type == "cpu" and attention.is_readable(x)
        alone = alone and isinstance(layout, attention.WindowLayout)
        if alone and not torch.is_grad_enabled() and not isinstance(bias, Tensor):
            # The atoms of a few windows stay in cache through all of the layer.
            parts, known = [], cast(attention.WindowLayout, layout)
            for group in pairs.window_groups(known):
                queries, keys, part = known.part(group)
                inner = slice(queries.start - keys.start, queries.stop - keys.start)
                seen = tuple(value[keys] for value in modulation)
                own = None if bias is None else attention.WindowBias(bias.values[group])
                parts.append(self.forward(x[..., keys, :], part, seen, own, inner))
            return torch.cat(parts, dim=-2) if parts else x
        targets = slice(None) if targets is None else targets
        scale, shift, *rest = modulation
        attended = self.attention(self.norm(x, scale, shift), layout, bias, targets)
        gate, *transition = (value[targets] for value in rest)
        x = torch.addcmul(x[..., targets, :], gate, attended)
        x = self.transition(x, *transition)
        return x if self.post_norm is None else self.post_norm(x)


class AtomTransformer(torch.nn.Module):
    r"""A transformer whose atoms attend as a layout says, with a pair bias.

    Each layer is

    .. math::
        x \leftarrow x + \sigma(W_c c) \odot \mathrm{Attention}(\mathrm{AdaLN}(x, c),
        \beta), \qquad x \leftarrow x + \mathrm{Transition}(x, c)

    with the condition :math:`c` of every atom and the bias :math:`\beta` of every pair:
    Algorithms 7 and 23 to 26 of `AlphaFold 3's supplement
    <https://doi.org/10.1038/s41586-024-07487-w>`_, as Boltz computes them, with its
    sequential residuals and three-factor transition. The layout may be windows, as
    there, tokens, or any edges. What depends on condition and pairs alone can be
    computed once with :meth:`condition` and serve many calls.

    Args:
        channels (int): Channels ``C`` of the atoms, a multiple of the heads.
        heads (int): Number of heads ``H``. (default: ``4``)
        depth (int): Number of layers. (default: ``3``)
        cond_channels (int, optional): ``S`` of the condition. (default: ``channels``)
        pair_channels (int, optional): Channels of the pairs. (default: no pair bias)
        expansion (int): Inner channels as a multiple of ``C``. (default: ``2``)
        shared_pair_norm (bool): Layers share the pairs' LayerNorm. (default: ``False``)
        post_norm (bool): End every layer with a LayerNorm. (default: ``False``)
        checkpoint (bool): In training, keep only the layers' inputs and compute the
            rest again in the backward pass. (default: ``False``)
        backend (str): ``"auto"`` or the name of a backend. (default: ``"auto"``)

    Shapes:
        - input: atoms ``[N, C]``, or ``[M, N, C]`` of samples that share the rest;
          condition ``[N, S]``; pairs ``[E, pair_channels]`` of the layout's edges
        - output: as the atoms

    Raises:
        ValueError: If a size is not positive, an option unknown, or inputs do not fit.

    Example:
        >>> from pyg_atomenc.attention import WindowLayout
        >>> layout = WindowLayout.from_batch(torch.tensor([0] * 40 + [1] * 7))
        >>> transformer = AtomTransformer(64, pair_channels=16)
        >>> cond, pair = torch.randn(47, 64), torch.randn(layout.num_pairs, 16)
        >>> transformer(torch.randn(47, 64), layout, cond, pair).shape
        torch.Size([47, 64])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        depth: int = 3,
        *,
        cond_channels: Optional[int] = None,
        pair_channels: Optional[int] = None,
        expansion: int = 2,
        shared_pair_norm: bool = False,
        post_norm: bool = False,
        checkpoint: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.channels, self.heads, self.checkpoint = channels, heads, checkpoint
        self.cond_channels = channels if cond_channels is None else cond_channels
        sizes = {"channels": channels, "cond_channels": self.cond_channels}
        checks.check_sizes(**sizes, heads=heads, depth=depth, expansion=expansion)
        checks.check_heads("channels", channels, heads)
        attention.check_backend(backend)
        self.pair_bias = None
        if pair_channels is not None:
            checks.check_sizes(pair_channels=pair_channels)
            given = pair_channels, heads, depth, shared_pair_norm
            self.pair_bias = pairs.PairBias(*given)
        options = (channels, self.cond_channels, heads, expansion, post_norm, backend)
        layers = (AtomTransformerLayer(*options) for _ in range(depth))
        self.layers: Any = torch.nn.ModuleList(layers)

    reset_parameters = reset_children

    def condition(
        self,
        layout: Union[attention.Layout, Tensor],
        cond: Tensor,
        pair: Union[Tensor, pairs.WindowPairs, None] = None,
    ) -> TransformerConditioning:
        """Compute once, of the weights as they are now, what serves many calls.

        Args:
            layout (TokenLayout, WindowLayout or Tensor): Which atoms attend to which; a
                tensor is an edge list ``[2, E]``, (source, target) = (key, query).
            cond (Tensor): The condition of every atom ``[N, S]``.
            pair (Tensor or Callable, optional): The features of every edge
                ``[E, pair_channels]``; or a function that makes those of some windows,
                as :class:`PairBias` takes it. (default: ``None``)
        """
        checks.check_shape("cond", cond, "num_atoms", self.cond_channels)
        layout = attention.as_layout(layout, cond.size(0), name="layout")
        checks.check_wanted("pair", pair, self.pair_bias is not None, "pair_channels")
        biases: list[Optional[attention.Bias]] = [None] * len(self.layers)
        if self.pair_bias is not None and pair is not None:
            if not callable(pair):
                edges = "num_edges" if layout.num_pairs is None else layout.num_pairs
                hint = "one row for every edge of layout.to_edge_index()"
                channels = self.pair_bias.pair_channels
                checks.check_shape("pair", pair, edges, channels, hint=hint)
            biases = list(self.pair_bias(pair, layout))
        modulations = [layer.modulation(cond) for layer in self.layers]
        return TransformerConditioning(layout, modulations, biases)

    def forward(
        self,
        x: Tensor,
        layout: Union[attention.Layout, Tensor, TransformerConditioning],
        cond: Optional[Tensor] = None,
        pair: Union[Tensor, pairs.WindowPairs, None] = None,
    ) -> Tensor:
        """Transform atoms ``x``; shapes are those of the class.

        The other arguments are those of :meth:`condition`, or what it gave, alone.
        """
        if not isinstance(layout, TransformerConditioning):
            layout = self.condition(layout, checks.check_tensor("cond", cond), pair)
        else:
            text = "'cond' and 'pair' are part of the conditioning: leave them out."
            checks.check(cond is None and pair is None, text)
        check_samples("x", x, layout.modulations[0][0].size(-2), self.channels)
        again = self.checkpoint and self.training and torch.is_grad_enabled()
        known = zip(self.layers, layout.modulations, layout.biases, strict=True)
        for layer, modulation, bias in known:
            run = partial(run_again, layer, use_reentrant=False) if again else layer
            x = run(x, layout.layout, modulation, bias)
        return x

    def __repr__(self) -> str:
        sizes = f"{self.channels}, heads={self.heads}, depth={len(self.layers)}"
        return f"{type(self).__name__}({sizes})"


def check_samples(name: str, value: Any, *shape: int) -> Tensor:
    """The value, if it is a tensor of ``shape``, or of samples of that shape."""
    dim = value.dim() if isinstance(value, Tensor) else 0
    lead = ("samples",) if dim > len(shape) else ()
    return checks.check_shape(name, value, *lead, *shape)
