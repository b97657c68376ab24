"""The dense backend's attention over windows: batches of [W, H] matrices.

Every window gathers the keys and values that it sees. Windows are taken in groups: on a
CPU so few that a group stays in cache, elsewhere as many as fit in memory. Where nobody
asks for gradients, torch's fused attention runs each group; else plain operations do.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.exact import inverse_root, is_followed, softmax
from pyg_atomenc.attention.inputs import AttentionInputs, accumulate_dtype
from pyg_atomenc.attention.layouts.window import WindowBias, WindowLayout
from pyg_atomenc.attention.ragged import ranges, take
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
    query_index, _ = layout.query_index()
    key_index, is_key = layout.key_index()
    closed = torch.where(is_key, 0.0, -torch.inf).to(dtype)[:, None, None]
    # Where gradients, transforms or tangents follow, nothing is fused.
    followed = any(t is not None and is_followed(t) for t in inputs.tensors())
    fused = inputs.dropout == 0 and not followed
    outputs, groups = [], [slice(None)]
    if not torch.compiler.is_compiling():
        step = CPU_WINDOWS if query.device.type == "cpu" else MAX_WINDOWS
        groups = [slice(i, i + step) for i in range(0, layout.num_windows, step)]
    for group in groups:
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
    # Queries stand in the order of the atoms, with padding behind each graph's last.
    first = torch.arange(layout.num_windows, device=out.device) * layout.queries
    sizes = layout.query_stop - layout.query_start
    return out.flatten(0, 1).index_select(0, ranges(first, sizes, layout.num_atoms))


def _heads(x: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    return take(x, index).to(dtype).transpose(1, 2)
