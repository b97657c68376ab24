"""Ways from atoms to tokens that `attention.py`, `gpu_check.py` and others compare.

Each takes a problem, makes what depends on the batch alone, and gives a function from
the problem's leaves to tokens, and what to differentiate by.
"""

import torch
from fused import flex, nested_sdpa, padded_sdpa, varlen, xformers
from problems import C, D, H, require
from torch.nn import functional as F
from torch_geometric.nn import TransformerConv
from torch_geometric.nn.aggr import SetTransformerAggregation
from torch_geometric.utils import scatter, softmax

from pyg_atomenc import AtomAttentionEncoder, TokenLayout
from pyg_atomenc.attention import attention_pool


def floor(problem):
    """LayerNorm and one matrix product."""
    weight = torch.cat(problem.leaves[1:]).detach().requires_grad_()

    def run():
        return F.linear(F.layer_norm(problem.x, (C,)), weight)

    return run, [problem.x, weight]


def package(backend):
    """This package's encoder, given a layout."""

    def make(problem):
        edge_dim = None if problem.bias is None else H
        encoder = AtomAttentionEncoder(C, D, H, backend=backend, edge_dim=edge_dim)
        encoder.lin_query.weight = torch.nn.Parameter(problem.query.detach())
        encoder.lin_key.weight = torch.nn.Parameter(problem.key.detach())
        encoder.lin_value.weight = torch.nn.Parameter(problem.value.detach())
        layout = TokenLayout.from_index(problem.index, problem.num_tokens)
        if backend == "edges":
            require(problem, 4 * layout.num_pairs * H * D, "edges")
        leaves = [problem.x, *encoder.parameters()]
        if problem.bias is not None:
            encoder.lin_edge.weight = torch.nn.Parameter(torch.eye(H))
            leaves = [problem.x, *encoder.parameters(), problem.bias]
        encoder = encoder.to(problem.x.device, problem.x.dtype)
        return lambda: encoder(problem.x, layout, edge_attr=problem.bias), leaves

    return make


def pooled(backend):
    """This package's attention and pooling, from queries, keys and values."""

    def make(problem):
        layout = TokenLayout.from_index(problem.index, problem.num_tokens)

        def run():
            tokens, _ = attention_pool(*problem.heads(), layout, backend=backend)
            return tokens.flatten(1)

        return run, problem.leaves

    return make


def pyg_edges(problem):
    """Edge list, PyG's scatter softmax and scatter, as one writes them by hand."""
    require(problem, 4 * problem.pairs * H * D, "edges")
    source, target = TokenLayout.from_index(problem.index).to_edge_index()
    extra = []
    if problem.bias is not None:
        heads = torch.eye(H, device=problem.x.device, dtype=problem.x.dtype)
        extra = [problem.bias, heads.requires_grad_()]

    def run():
        q, k, v = problem.heads()
        logits = (q[target] * k[source]).sum(-1) / D**0.5
        if problem.bias is not None:
            logits = logits + F.linear(problem.bias, heads)
        alpha = softmax(logits, target, num_nodes=len(q))
        out = scatter(alpha.unsqueeze(-1) * v[source], target, 0, len(q), "sum")
        return problem.mean(out.flatten(1))

    return run, [*problem.leaves, *extra]


def transformer_conv(problem):
    """PyG's TransformerConv on the edge list."""
    require(problem, 5 * problem.pairs * H * D, "edges")
    edge_index = TokenLayout.from_index(problem.index).to_edge_index()
    conv = TransformerConv(C, D, H, root_weight=False, bias=False)
    conv = conv.to(problem.x.device, problem.x.dtype)
    for name, weight in zip(("query", "key", "value"), problem.leaves[1:], strict=True):
        linear = getattr(conv, f"lin_{name}")
        linear.weight = torch.nn.Parameter(weight.detach())
        if linear.bias is not None:
            torch.nn.init.zeros_(linear.bias)

    def run():
        return problem.mean(conv(F.layer_norm(problem.x, (C,)), edge_index))

    return run, [problem.x, *conv.parameters()]


def buckets(problem):
    """Tokens padded to the next power of two, and batched products for each of these.

    Indices and masks are made before, and the mean over a token's atoms is taken of
    the attention weights, as this package does.
    """
    device, sizes = problem.x.device, problem.sizes
    widths = 2 ** sizes.double().log2().ceil().long()
    require(problem, 3 * int((widths * (widths * H + H * D)).sum()), "padding")
    starts, parts, order = sizes.cumsum(0) - sizes, [], []
    for width in widths.unique().tolist():
        tokens = (widths == width).nonzero().squeeze(1)
        place, size = torch.arange(width), sizes[tokens, None]
        # Padding is a token's last atom again.
        slots = starts[tokens, None] + place.minimum(size - 1)
        parts.append([t.to(device) for t in (slots.flatten(), place < size, size)])
        order.append(tokens)
    back = torch.cat(order).argsort().to(device)

    def part(heads, slots, inside, size):
        shape = (*inside.shape, H, D)
        q, k, v = (t.index_select(0, slots).view(shape).transpose(1, 2) for t in heads)
        logits = q @ k.mT / D**0.5
        logits = logits.masked_fill(~inside[:, None, None], float("-inf"))
        alpha = logits.softmax(-1) * inside[:, None, :, None]
        weights = alpha.sum(2, keepdim=True) / size.view(-1, 1, 1, 1)
        return (weights.to(v.dtype) @ v).flatten(1)

    def run():
        heads = problem.heads()
        return torch.cat([part(heads, *given) for given in parts])[back]

    return run, problem.leaves


def compiled(make):
    """Another contender, compiled."""

    def made(problem):
        run, leaves = make(problem)
        # Versions for earlier problems count towards how many torch keeps of one code.
        torch.compiler.reset()
        return torch.compile(run), leaves

    return made


def set_transformer(problem):
    """PyG's pooling by attention, of a model of its own, on padded tokens."""
    width = int(problem.sizes.max())
    numbers = 4 * problem.num_tokens * width * max(H * width, C)
    require(problem, numbers, "padding")
    pool = SetTransformerAggregation(C, heads=H)
    pool = pool.to(problem.x.device, problem.x.dtype)

    def run():
        return pool(problem.x, problem.index, dim_size=problem.num_tokens)

    return run, [problem.x, *pool.parameters()]


# Behind this in a contender's name, it gets a bias for every pair of atoms.
PAIRS = ", pair bias"

CONTENDERS = {
    "pyg_atomenc auto": package("auto"),
    "pyg_atomenc edges": package("edges"),
    "pyg_atomenc dense": package("dense"),
    "PyG edges + softmax + scatter": pyg_edges,
    "PyG TransformerConv": transformer_conv,
    "PyG edges, compiled": compiled(pyg_edges),
    "to_dense_batch + SDPA": padded_sdpa,
    "size buckets": buckets,
    "size buckets, compiled": compiled(buckets),
    "nested tensor SDPA": nested_sdpa,
    "flex_attention": flex,
    "varlen_attn": varlen,
    "xformers BlockDiagonalMask": xformers,
    "PyG SetTransformerAggregation": set_transformer,
    "pyg_atomenc auto" + PAIRS: package("auto"),
    "PyG edges + softmax + scatter" + PAIRS: pyg_edges,
}

# Whose numbers are those of another model, so that the loop is none for them.
PEERS = ("PyG SetTransformerAggregation",)

# The same from queries, keys and values, for `Projected`.
ATTENTIONS = {
    "pyg_atomenc triton": pooled("triton"),
    "pyg_atomenc dense": pooled("dense"),
    "PyG edges + softmax + scatter": pyg_edges,
    "PyG edges, compiled": compiled(pyg_edges),
    "to_dense_batch + SDPA": padded_sdpa,
    "size buckets": buckets,
    "size buckets, compiled": compiled(buckets),
    "nested tensor SDPA": nested_sdpa,
    "flex_attention": flex,
    "varlen_attn": varlen,
    "xformers BlockDiagonalMask": xformers,
}
