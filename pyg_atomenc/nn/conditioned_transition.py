"""`ConditionedTransition`: the feed-forward block of a conditioned transformer."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.checks import check_sizes
from pyg_atomenc.nn.adaptive_layer_norm import (
    AdaptiveLayerNorm,
    gate_linear,
    modulate,
    reset_gate,
)

# Atoms that are transformed together where no gradients are asked for.
MAX_ROWS = 1024


class ConditionedTransition(torch.nn.Module):
    r"""The feed-forward block of a conditioned transformer, without its residual.

    .. math::
        a = \mathrm{AdaLN}(x, c), \qquad
        \sigma(W_c c + b_c) \odot W_o
        (\mathrm{silu}(W_g a) \odot W_v a \odot W_u a)

    Algorithm 25 of AlphaFold 3's supplement
    (https://doi.org/10.1038/s41586-024-07487-w), with a third factor :math:`W_u a` as
    Boltz has it.

    Args:
        channels (int): Channels ``C`` of the input.
        cond_channels (int): Channels ``S`` of the condition.
        expansion (int): Inner channels as a multiple of ``C``. (default: ``2``)

    Shapes:
        - input: ``[..., C]`` and the condition ``[..., S]``, broadcast to each other
        - output: ``[..., C]``

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(self, channels: int, cond_channels: int, expansion: int = 2) -> None:
        super().__init__()
        check_sizes(expansion=expansion)
        self.norm = AdaptiveLayerNorm(channels, cond_channels)
        inner = expansion * channels
        self.lin_gate = torch.nn.Linear(channels, inner, bias=False)
        self.lin_value = torch.nn.Linear(channels, inner, bias=False)
        self.lin_up = torch.nn.Linear(channels, inner, bias=False)
        self.lin_out = torch.nn.Linear(inner, channels, bias=False)
        self.lin_cond = gate_linear(cond_channels, channels)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.norm.reset_parameters()
        for linear in (self.lin_gate, self.lin_value, self.lin_up, self.lin_out):
            linear.reset_parameters()
        reset_gate(self.lin_cond)

    def modulation(self, cond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, shift and gate of a condition, each ``[..., C]``."""
        return *self.norm.modulation(cond), self.lin_cond(cond).sigmoid()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Transform; shapes are those of the class."""
        return self.transform(x, *self.modulation(cond))

    def transform(
        self, x: Tensor, scale: Tensor, shift: Tensor, gate: Tensor
    ) -> Tensor:
        """The same, from what :meth:`modulation` made of the condition."""
        if torch.is_grad_enabled() or x.size(-2) <= MAX_ROWS:
            return self._transform(x, scale, shift, gate)
        # The inner channels of a few atoms stay in cache.
        out = torch.empty_like(x)
        for start in range(0, x.size(-2), MAX_ROWS):
            rows = slice(start, start + MAX_ROWS)
            part = (t[..., rows, :] for t in (x, scale, shift, gate))
            out[..., rows, :] = self._transform(*part)
        return out

    def _transform(
        self, x: Tensor, scale: Tensor, shift: Tensor, gate: Tensor
    ) -> Tensor:
        a = modulate(x, scale, shift)
        inner = F.silu(self.lin_gate(a)) * self.lin_value(a) * self.lin_up(a)
        return gate * self.lin_out(inner)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.norm.channels}, {self.norm.cond_channels})"
