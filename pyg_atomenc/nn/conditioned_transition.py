"""`AdaptiveLayerNorm` and `ConditionedTransition`: layers with a condition."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention import layer_norm
from pyg_atomenc.nn.projections import ZeroLinear


class AdaptiveLayerNorm(torch.nn.Module):
    r"""LayerNorm whose scale and shift come from a condition.

    .. math::
        \sigma(W_s \, \mathrm{LN}(c) + b_s) \odot \mathrm{LN}(x) + W_b \, \mathrm{LN}(c)

    from `"Accurate structure prediction of biomolecular interactions with AlphaFold 3"
    <https://doi.org/10.1038/s41586-024-07487-w>`_, Algorithm 26 of its supplement. The
    LayerNorm of :math:`x` has no parameters, that of :math:`c` a weight alone. Input
    and output are ``[..., channels]``, the condition is ``[..., cond_channels]``.
    """

    def __init__(self, channels: int, cond_channels: int) -> None:
        super().__init__()
        self.norm_cond = torch.nn.LayerNorm(cond_channels, bias=False)
        self.lin_scale = torch.nn.Linear(cond_channels, channels)
        self.lin_shift = torch.nn.Linear(cond_channels, channels, bias=False)

    def modulation(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and the shift of a condition, each ``[..., C]``."""
        cond = self.norm_cond(cond)
        return self.lin_scale(cond).sigmoid(), self.lin_shift(cond)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Normalise ``[..., C]`` with what :meth:`modulation` gave."""
        return torch.addcmul(shift, scale, layer_norm(x))


class ConditionedTransition(torch.nn.Module):
    r"""The feed-forward block of a conditioned transformer, with its residual.

    .. math::
        a = \mathrm{AdaLN}(x, c), \qquad
        x + \sigma(W_c c + b_c) \odot W_o
        (\mathrm{silu}(W_g a) \odot W_v a \odot W_u a)

    Algorithm 25 of that supplement, with Boltz's 3rd factor :math:`W_u a`. Shapes are
    as of :class:`AdaptiveLayerNorm`; inside are ``expansion`` times the channels.
    """

    def __init__(self, channels: int, cond_channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.norm = AdaptiveLayerNorm(channels, cond_channels)
        inner = expansion * channels
        lins = (torch.nn.Linear(channels, inner, bias=False) for _ in range(3))
        self.lin_gate, self.lin_value, self.lin_up = lins
        self.lin_out = torch.nn.Linear(inner, channels, bias=False)
        self.lin_cond = ZeroLinear(cond_channels, channels, bias=True)

    def modulation(self, cond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, shift and gate of a condition, each ``[..., C]``."""
        return *self.norm.modulation(cond), self.lin_cond(cond).sigmoid()

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor, gate: Tensor) -> Tensor:
        """Transform ``[..., C]`` with what :meth:`modulation` gave."""
        a = self.norm(x, scale, shift)
        inner = F.silu(self.lin_gate(a)) * self.lin_value(a) * self.lin_up(a)
        return torch.addcmul(x, gate, self.lin_out(inner))
