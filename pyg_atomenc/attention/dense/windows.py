"""The dense backend's attention over windows: batches of [W, H] matrices.

Atoms are projected once, before; every window gathers the keys and values that it sees.
Windows are taken in groups: on a CPU so few that a group stays in cache, elsewhere so
many that their matrices fit in memory. Where nobody asks for gradients, torch's fused
attention runs each group; else plain operations do, which autograd follows any number
of times.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.autograd import needs_reference
from pyg_atomenc.attention.exact import inverse_root, softmax
from pyg_atomenc.attention.inputs import AttentionInputs, accumulate_dtype
from pyg_atomenc.attention.layouts import WindowBias, WindowLayout
from pyg_atomenc.attention.ragged import take
from pyg_atomenc.attention.tracing import draw

# Windows in a group.
CPU_WINDOWS = 32
MAX_WINDOWS = 4096


def attend_windows(inputs: AttentionInputs, layout: WindowLayout) -> Tensor:
    """Attention outputs ``[N, H, D]`` in the accumulation type."""
    dtype = accumulate_dtype(inputs.query.dtype)
    query, key, value, bias = inputs.tensors()
    if layout.num_windows == 0:
        return value.new_zeros(0, query.size(1), value.size(2), dtype=dtype)
    query_index, is_query = layout.query_index()
    key_index, is_key = layout.key_index()
    closed = torch.where(is_key, 0.0, -torch.inf).to(dtype)[:, None, None]
    fused = inputs.dropout == 0 and not _is_followed(inputs)
    outputs = []
    for group in _groups(layout.num_windows, query.device):
        q = _heads(query, query_index[group], dtype)
        k = _heads(key, key_index[group], dtype)
        v = _heads(value, key_index[group], dtype)
        mask = closed[group]
        if bias is not None and isinstance(inputs.bias, WindowBias):
            mask = bias[group].to(dtype)
        elif bias is not None:
            pairs = take(bias, layout.pair_index(group)[0]).to(dtype)
            # Fused kernels of GPUs read masks row by row.
            mask = (mask + pairs.movedim(-1, 1)).contiguous()
        if fused:
            mask = mask.expand(-1, -1, q.size(2), -1)
            v = v.expand(-1, q.size(1), -1, -1)
            out = F.scaled_dot_product_attention(q, k, v, mask)
        else:
            alpha = softmax((q * inverse_root(q)) @ k.mT + mask)
            if inputs.dropout > 0:
                alpha = draw(partial(F.dropout, alpha, inputs.dropout))
            out = alpha @ v
        outputs.append(out.transpose(1, 2))
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return out.flatten(0, 1).index_select(0, _slots(is_query, layout))


def _slots(is_query: Tensor, layout: WindowLayout) -> Tensor:
    # Queries stand in the order of the atoms, with padding behind each graph's last.
    first = torch.arange(layout.num_windows, device=is_query.device) * layout.queries
    shift = (first - layout.query_start).repeat_interleave(
        layout.query_stop - layout.query_start, output_size=layout.num_atoms
    )
    return shift + torch.arange(layout.num_atoms, device=is_query.device)


def _is_followed(inputs: AttentionInputs) -> bool:
    """Whether gradients, transforms or tangents follow, for which none is fused."""
    tensors = inputs.tensors()
    followed = any(t is not None and t.requires_grad for t in tensors)
    return needs_reference(tensors) or (torch.is_grad_enabled() and followed)


def _groups(count: int, device: torch.device) -> list[slice]:
    if torch.compiler.is_compiling():
        return [slice(None)]
    step = CPU_WINDOWS if device.type == "cpu" else MAX_WINDOWS
    return [slice(start, start + step) for start in range(0, count, step)]


def _heads(x: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    return take(x, index).to(dtype).transpose(1, 2)
