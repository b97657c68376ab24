"""`AdaptiveLayerNorm`: LayerNorm whose scale and shift come from a condition."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.checks import check_sizes


class AdaptiveLayerNorm(torch.nn.Module):
    r"""LayerNorm whose scale and shift come from a condition.

    .. math::
        \sigma(W_s \, \mathrm{LN}(c) + b_s) \odot \mathrm{LN}(x) + W_b \, \mathrm{LN}(c)

    from `"Accurate structure prediction of biomolecular interactions with AlphaFold 3"
    <https://doi.org/10.1038/s41586-024-07487-w>`_, Algorithm 26 of its supplement. The
    LayerNorm of :math:`x` has no parameters, that of :math:`c` a weight alone.

    Args:
        channels (int): Channels ``C`` of the input.
        cond_channels (int): Channels ``S`` of the condition.

    Shapes:
        - input: ``[..., C]`` and the condition ``[..., S]``, broadcast to each other
        - output: ``[..., C]``

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(self, channels: int, cond_channels: int) -> None:
        super().__init__()
        check_sizes(channels=channels, cond_channels=cond_channels)
        self.channels = channels
        self.cond_channels = cond_channels
        self.norm_cond = torch.nn.LayerNorm(cond_channels, bias=False)
        self.lin_scale = torch.nn.Linear(cond_channels, channels)
        self.lin_shift = torch.nn.Linear(cond_channels, channels, bias=False)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for module in (self.norm_cond, self.lin_scale, self.lin_shift):
            module.reset_parameters()

    def modulation(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and the shift of a condition, each ``[..., C]``."""
        cond = self.norm_cond(cond)
        return self.lin_scale(cond).sigmoid(), self.lin_shift(cond)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Normalise; shapes are those of the class."""
        return modulate(x, *self.modulation(cond))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channels}, {self.cond_channels})"


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm without parameters, then ``scale`` and ``shift``."""
    return torch.addcmul(shift, scale, F.layer_norm(x, x.shape[-1:]))


def gate_linear(cond_channels: int, channels: int) -> torch.nn.Linear:
    """What gates a residual branch by a condition; nearly shut at the start."""
    linear = torch.nn.Linear(cond_channels, channels)
    reset_gate(linear)
    return linear


def reset_gate(linear: torch.nn.Linear) -> None:
    """A weight of zeros and a bias of -2, as in Algorithms 24 and 25."""
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.constant_(linear.bias, -2.0)
