"""The dense backend's attention over windows: one batch of [W, H] matrices.

Every step is an operation of torch, so autograd follows it any number of times. Atoms
are projected once, before; their keys and values are gathered by every window that sees
them. Windows are taken in groups, so that the matrices of long chains fit in memory.
"""

from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.ops.attention.chunks import take
from pyg_atomenc.ops.attention.inputs import AttentionInputs, accumulate_dtype
from pyg_atomenc.ops.attention.window_layout import WindowLayout

# Windows whose matrices are in memory at once.
MAX_WINDOWS = 512


def attend_windows(inputs: AttentionInputs, layout: WindowLayout) -> Tensor:
    """Attention outputs ``[N, H, D]`` in the accumulation type."""
    dtype = accumulate_dtype(inputs.query.dtype)
    value = inputs.value
    if layout.num_windows == 0:
        return value.new_zeros(0, inputs.query.size(1), value.size(2), dtype=dtype)
    query_index, is_query = layout.query_index()
    key_index, is_key = layout.key_index()
    pair_index = None if inputs.bias is None else layout.pair_index()[0]
    outputs = []
    for group in _groups(layout.num_windows):
        pairs: Optional[Tensor] = None
        if pair_index is not None and inputs.bias is not None:
            pairs = take(inputs.bias, pair_index[group]).to(dtype)
        outputs.append(
            _attend(
                _heads(inputs.query, query_index[group], dtype),
                _heads(inputs.key, key_index[group], dtype),
                _heads(value, key_index[group], dtype),
                is_key[group],
                pairs,
                inputs.dropout,
            )
        )
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    # Queries stand in the order of the atoms, with padding behind each graph's last.
    place = torch.arange(is_query.numel(), device=is_query.device).view_as(is_query)
    slot = place[:, 0] - layout.query_start
    window = torch.arange(layout.num_windows, device=is_query.device)
    window = window.repeat_interleave(
        layout.query_stop - layout.query_start, output_size=layout.num_atoms
    )
    atom = torch.arange(layout.num_atoms, device=is_query.device)
    return out.flatten(0, 1).index_select(0, atom + slot[window])


def _groups(count: int) -> list[slice]:
    if torch.compiler.is_compiling():
        return [slice(None)]
    return [
        slice(start, min(start + MAX_WINDOWS, count))
        for start in range(0, count, MAX_WINDOWS)
    ]


def _heads(x: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    return take(x, index).to(dtype).transpose(1, 2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_key: Tensor,
    pairs: Optional[Tensor],
    dropout: float,
) -> Tensor:
    """``[K, H, W, d]``, keys and values ``[K, H, keys, d]`` → ``[K, W, H, D]``."""
    logits = (query * query.size(-1) ** -0.5) @ key.mT
    if pairs is not None:
        logits = logits + pairs.movedim(-1, 1)
    logits = logits.masked_fill(~is_key[:, None, None], -torch.inf)
    alpha = logits.softmax(-1)
    if dropout > 0:
        alpha = F.dropout(alpha, dropout)
    return (alpha @ value).transpose(1, 2)
