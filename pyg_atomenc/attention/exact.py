"""Where torch's own functions are not exact: written out for some derivatives."""

from typing import Union

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from pyg_atomenc.attention.tracing import leaves_package

EPS = 1e-5


def carries_tangents() -> bool:
    """Whether torch.func's transforms or forward-mode differentiation are at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_followed(x: Tensor) -> bool:
    """Whether gradients or tangents of ``x`` are."""
    return carries_tangents() or (torch.is_grad_enabled() and x.requires_grad)


def layer_norm(x: Tensor, exact: bool = False) -> Tensor:
    """LayerNorm over the channels, without weights.

    The gradient of its tangent, and its third derivative, are wrong in
    ``torch.nn.functional.layer_norm``. This is right under transforms, and with
    ``exact`` wherever gradients are followed, for the price of some passes over ``x``.
    """
    if not (is_followed(x) if exact else carries_tangents()):
        return F.layer_norm(x, x.shape[-1:], eps=EPS)
    inside = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = inside - inside.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return (centred * (variance + EPS).rsqrt()).to(x.dtype)


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension; gradients go through its tangents."""
    if forward_ad._current_level < 0:
        return logits.softmax(-1)
    exponent = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return exponent / exponent.sum(-1, keepdim=True)


def inverse_root(x: Tensor) -> Union[Tensor, float]:
    """One over the root of the number of channels, in the type of ``x``."""
    # Traces that leave the package would round a number to float32.
    if leaves_package():
        return x.new_full((), x.size(-1)) ** -0.5
    return float(x.size(-1) ** -0.5)
