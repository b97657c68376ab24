"""Contenders of `contenders.py` that call fused attention, of torch or xformers."""

import torch
from problems import D, H, require
from torch.nn import functional as F
from torch_geometric.utils import to_dense_batch

from pyg_atomenc.errors import require_package

# In one call of fused attention; CUDA starts no grid with more than 65,535 rows.
SEQUENCES = 2**15
# Of flex_attention's mask: queries, and keys, of a block.
BLOCK = 128


def stretches(problem):
    """Tokens of as many calls as SEQUENCES needs, and their atoms, as slices."""
    ends = torch.cat([torch.zeros(1).long(), problem.sizes.cumsum(0)])
    for first in range(0, problem.num_tokens, SEQUENCES):
        stop = min(first + SEQUENCES, problem.num_tokens)
        yield slice(first, stop), slice(int(ends[first]), int(ends[stop]))


def padded_sdpa(problem):
    """to_dense_batch, then scaled_dot_product_attention with a mask."""
    width = int(problem.sizes.max())
    require(problem, 4 * problem.num_tokens * width * max(width, H * D), "padding")
    parts = [
        (atoms, problem.index[atoms] - tokens.start, tokens.stop - tokens.start)
        for tokens, atoms in stretches(problem)
    ]

    def part(heads, index, count):
        q, k, v = (to_dense_batch(t, index, batch_size=count) for t in heads)
        mask = q[1]
        q, k, v = (t.unflatten(2, (H, D)).transpose(1, 2) for t, _ in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, mask[:, None, None])
        out = (out * mask[:, None, :, None]).sum(2) / mask.sum(1).view(-1, 1, 1)
        return out.flatten(1)

    def run():
        heads = [t.flatten(1) for t in problem.heads()]
        return torch.cat([part([t[a] for t in heads], i, n) for a, i, n in parts])

    return run, problem.leaves


def nested_sdpa(problem):
    """scaled_dot_product_attention on nested (jagged) tensors."""
    offsets = torch.cat([torch.zeros(1).long(), problem.sizes.cumsum(0)])
    offsets = offsets.to(problem.x.device)
    width = int(problem.sizes.max())

    def run():
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(
                t.contiguous(), offsets, min_seqlen=1, max_seqlen=width
            ).transpose(1, 2)
            for t in problem.heads()
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return problem.mean(out.values().flatten(1))

    return run, problem.leaves


def block_mask(problem):
    """A mask that joins atoms of one token, by the blocks of keys of every block.

    Atoms are sorted by token, so these are the blocks from the first atom of its first
    token to the last of its last; no matrix of all atoms is made.
    """
    from torch.nn.attention.flex_attention import BlockMask

    index, count = problem.index, len(problem.index)
    ends = problem.sizes.cumsum(0).to(index.device)
    begin = torch.arange(0, count, BLOCK, device=index.device)
    first, last = index[begin], index[(begin + BLOCK).clamp(max=count) - 1]
    low = (ends[first] - problem.sizes.to(index.device)[first]) // BLOCK
    high = (ends[last] - 1) // BLOCK
    block = torch.arange(len(begin), device=index.device)
    there = (low[:, None] <= block) & (block <= high[:, None])
    # Blocks in which all atoms, and as many as fit, are of one token need no mask.
    whole = (first == last) & (begin + BLOCK <= count)
    full = whole[:, None] & whole & (first[:, None] == first)

    def ordered(chosen):
        order = chosen.int().argsort(dim=1, descending=True, stable=True)
        return chosen.sum(1).int()[None, None], order.int()[None, None]

    return BlockMask.from_kv_blocks(
        *ordered(there & ~full),
        *ordered(there & full),
        BLOCK_SIZE=BLOCK,
        mask_mod=lambda b, h, q, k: index[q] == index[k],
        seq_lengths=(count, count),
    )


def flex(problem):
    """flex_attention, compiled, with a mask that joins atoms of one token."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = block_mask(problem)
    torch.compiler.reset()
    attend = torch.compile(flex_attention)

    def run():
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in problem.heads())
        out = attend(q, k, v, block_mask=mask)
        return problem.mean(out.squeeze(0).transpose(0, 1).flatten(1))

    return run, problem.leaves


def varlen(problem):
    """torch.nn.attention.varlen, which runs on CUDA in half types."""
    module = require_package("torch.nn.attention.varlen", "varlen_attn")
    parts = []
    for tokens, atoms in stretches(problem):
        sizes = problem.sizes[tokens]
        ends = torch.cat([torch.zeros(1).long(), sizes.cumsum(0)]).int()
        ends, width = ends.to(problem.x.device), int(sizes.max())
        parts.append((atoms, (ends, ends, width, width)))

    def run():
        heads = problem.heads()
        found = [module.varlen_attn(*(t[a] for t in heads), *g) for a, g in parts]
        return problem.mean(torch.cat(found).flatten(1))

    return run, problem.leaves


def xformers(problem):
    """The memory_efficient_attention of xformers with a BlockDiagonalMask, on CUDA."""
    ops = require_package("xformers.ops", "the contender of xformers")
    parts = []
    for tokens, atoms in stretches(problem):
        sizes = problem.sizes[tokens].tolist()
        mask = ops.fmha.BlockDiagonalMask.from_seqlens(sizes, device=problem.x.device)
        parts.append((atoms, mask))

    def run():
        heads = [t.unsqueeze(0) for t in problem.heads()]
        found = [
            ops.memory_efficient_attention(*(t[:, a] for t in heads), attn_bias=mask)
            for a, mask in parts
        ]
        return problem.mean(torch.cat(found, 1).squeeze(0).flatten(1))

    return run, problem.leaves
