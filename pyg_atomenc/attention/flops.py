"""Nominal numbers of floating-point operations, for torch's FlopCounterMode.

They are those of the definition's matrix products, 2·m·n·k each, over the pairs inside
tokens: of the projections, of q·k and of α·v, and of autograd's way back through them.
What a backend computes again, pads or saves is not in them, so all have the same.
"""

from collections.abc import Sequence
from typing import Any, Optional

Needed = Sequence[bool]


def attention_flops(
    tensors: Sequence[Any],
    num_pairs: int,
    needed: Optional[Needed] = None,
    uses_output: bool = True,
) -> int:
    """Of attention from query ``[N, H, d]``, key, value ``[N, H or 1, D]`` and bias.

    ``needed`` says which gradients are wanted, ``None`` stands for the forward pass;
    ``uses_output`` whether the gradient of the attended values is there, not only one
    of the weights.
    """
    query, _, value, _ = tensors
    _, heads, width = query.shape
    return _attention(num_pairs * heads, width, value.shape[2], needed, uses_output)


def _attention(
    entries: int, width: int, channels: int, needed: Optional[Needed], uses_output: bool
) -> int:
    logits, values = 2 * entries * width, 2 * entries * channels
    if needed is None:
        return logits + values
    query, key, value, bias = needed
    count = logits * (query + key)
    return count + values * (value + (query or key or bias)) * uses_output


def encode_flops(
    tensors: Sequence[Any],
    num_pairs: int,
    needed: Optional[Needed] = None,
    uses_output: bool = True,
) -> int:
    """Of the projections and attention; arguments are as there."""
    x, value = tensors[0], tensors[3]
    heads, width, channels = value.shape
    projection = 2 * x.shape[0] * channels * heads * width
    sizes = num_pairs * heads, width, width
    if needed is None:
        return 3 * projection + _attention(*sizes, None, True)
    used = [needed[0] or needed[i] or needed[i + 3] for i in (1, 2, 3)]
    if not uses_output:
        used[2] = False
    weights = [a and b for a, b in zip(used, needed[1:4], strict=True)]
    products = sum(weights) + (sum(used) if needed[0] else 0)
    attended = _attention(*sizes, (*used, needed[-1]), uses_output)
    return projection * products + attended
