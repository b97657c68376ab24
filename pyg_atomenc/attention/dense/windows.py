"""The dense backend's attention over windows: batches of [W, H] matrices.

Every window gathers the keys and values that it sees. Windows are taken in groups, on a
CPU as few of one sample as fit its cache. All samples share the bias. Where nobody asks
for gradients, torch's fused attention runs each group; else plain operations do.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.exact import inverse_root, is_followed, softmax
from pyg_atomenc.attention.inputs import AttentionInputs, accumulate_dtype
from pyg_atomenc.attention.layouts.window import WindowBias, WindowLayout
from pyg_atomenc.attention.ragged import ranges, take
from pyg_atomenc.attention.tracing import draw

# Windows in a group, those of every sample counted.
CPU_WINDOWS, MAX_WINDOWS = 32, 4096
MAX_GRID = 65_535  # windows times heads of a fused call: CUDA's grids end there


def attend_windows(inputs: AttentionInputs, layout: WindowLayout) -> Tensor:
    """Attention outputs ``[N, H, D]`` or ``[S, N, H, D]``, in the products' type."""
    query, key, value, bias = inputs.tensors()
    if 0 in query.shape[:-1]:
        return inputs.nothing()
    if query.size(-1) == 0:  # the bias alone decides
        query, key = F.pad(query, (0, 1)), F.pad(key, (0, 1))
    samples, heads = query.size(0) if query.dim() == 4 else 1, query.size(-2)
    value = value.expand(*value.shape[:-2], heads, -1)
    exact, on_cpu = accumulate_dtype(query.dtype), query.is_cpu
    dtype = exact if on_cpu else query.dtype  # a CPU multiplies half types no faster
    (query_index, _), (key_index, is_key) = layout.query_index(), layout.key_index()
    # Not fused: what gradients or tangents follow, and a bias that would be rounded.
    followed = any(t is not None and is_followed(t) for t in inputs.tensors())
    kept = bias is None or torch.promote_types(dtype, bias.dtype) == dtype
    fused = inputs.dropout == 0 and kept and not followed
    outputs, groups = [], [slice(None)]
    if not torch.compiler.is_compiling():
        most = CPU_WINDOWS if on_cpu else max(1, min(MAX_WINDOWS, MAX_GRID // heads))
        # Every group's gradient is of all atoms of its samples, so these are cut first.
        count = 1 if on_cpu else max(1, most // layout.num_windows)
        if query.dim() == 4 and (count == 1 or count < samples):
            if isinstance(inputs.bias, Tensor):
                by_window = WindowBias.from_edges(inputs.bias, layout)
                inputs = replace(inputs, bias=by_window)
            each = [attend_windows(x, layout) for x in inputs.samples(count)]
            return torch.stack(each) if count == 1 else torch.cat(each)
        groups = [slice(i, i + most) for i in range(0, layout.num_windows, most)]
    elif not on_cpu:
        fused = fused and layout.num_windows * samples * heads <= MAX_GRID
    closed = torch.where(is_key, 0.0, -torch.inf).to(dtype if fused else exact)
    for group in groups:
        q = _matrices(query, query_index[group], dtype)
        k, v = (_matrices(x, key_index[group], dtype) for x in (key, value))
        mask = closed[group, None, None].expand(-1, -1, layout.queries, -1)
        if bias is not None and isinstance(inputs.bias, WindowBias):
            mask = bias[group].to(mask.dtype)
        elif bias is not None:
            pairs = take(bias, layout.pair_index(group)[0]).to(mask.dtype)
            # Fused kernels of GPUs read masks row by row.
            mask = (mask + pairs.movedim(-1, 1)).contiguous()
        if query.dim() == 4:
            mask = mask.expand(-1, heads, -1, -1).transpose(0, 1).flatten(0, 1)[None]
        if fused:
            out = F.scaled_dot_product_attention(q, k, v, mask)
        else:
            # Scaled first, queries of half types would be rounded once more.
            plain, scale = dtype == exact, inverse_root(q)
            logits = (q * scale) @ k.mT if plain else (q @ k.mT).to(exact) * scale
            alpha = softmax(logits + mask)
            if inputs.dropout > 0:
                alpha = draw(partial(F.dropout, alpha, inputs.dropout))
            out = alpha.to(dtype) @ v
        if query.dim() == 4:
            out = out.unflatten(1, (heads, -1)).transpose(1, 2)
        outputs.append(out.transpose(-3, -2))
    out = (outputs[0] if len(outputs) == 1 else torch.cat(outputs, -4)).flatten(-4, -3)
    # Queries stand in the order of the atoms, with padding behind each graph's last.
    first = torch.arange(layout.num_windows, device=out.device) * layout.queries
    sizes = layout.query_stop - layout.query_start
    return out.index_select(-3, ranges(first, sizes, layout.num_atoms))


def _matrices(x: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """What windows see, ``[K, H, W, d]``; of samples ``[S, H * K, W, d]``."""
    if x.dim() == 3:
        return take(x, index).to(dtype).transpose(1, 2)
    rows = x.transpose(1, 2).index_select(2, index.flatten()).to(dtype)
    return rows.unflatten(2, index.shape).flatten(1, 2)
