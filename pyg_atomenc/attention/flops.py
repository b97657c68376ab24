"""Nominal numbers of floating-point operations, for torch's FlopCounterMode.

They are those of the definition's matrix products, 2·m·n·k each, over the pairs inside
tokens: of the projections, of q·k and of α·v, and of autograd's way back through them.
What a backend computes again, pads or saves is not in them, so all have the same.
"""

from typing import Optional

from pyg_atomenc.attention.context import Needed, Tensors


def attention_flops(
    tensors: Tensors, pairs: int, outputs: Tensors = (), needed: Optional[Needed] = None
) -> int:
    """Of attention from query ``[N, H, d]``, key, value ``[N, H or 1, D]`` and bias.

    ``outputs`` are the output gradients, of which those of the attended values may be
    ``None``, and ``needed`` says which gradients are wanted; without it, it is the
    forward pass.
    """
    query, _, value, _ = tensors
    entries = 2 * pairs * query.shape[1]
    logits, values = entries * query.shape[2], entries * value.shape[2]
    if needed is None:
        return logits + values
    query, key, value, bias = needed
    uses_output = outputs[0] is not None
    count = logits * (query + key)
    return count + values * (value + (query or key or bias)) * uses_output


def encode_flops(
    tensors: Tensors, pairs: int, outputs: Tensors = (), needed: Optional[Needed] = None
) -> int:
    """Of the projections and attention; arguments are as there."""
    heads, width, channels = tensors[3].shape
    projection = 2 * tensors[0].shape[0] * channels * heads * width
    logits = 2 * pairs * heads * width
    if needed is None:
        return 3 * projection + 2 * logits
    x, *weights = needed[:4]
    query, key, value = (x or needed[i] or needed[i + 3] for i in (1, 2, 3))
    uses_output = outputs[0] is not None
    value = value and uses_output
    used = query, key, value
    products = sum(a and b for a, b in zip(used, weights, strict=True)) + sum(used) * x
    count = query + key + value + (query or key or needed[-1]) * uses_output
    return projection * products + logits * count
