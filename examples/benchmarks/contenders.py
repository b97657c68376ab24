"""What `attention.py` compares: problems, and ways to solve them."""

import torch
from torch.nn import functional as F
from torch_geometric.nn import TransformerConv, global_mean_pool
from torch_geometric.nn.aggr import SetTransformerAggregation
from torch_geometric.utils import scatter, softmax, to_dense_batch

from pyg_atomenc import AtomAttentionEncoder, TokenLayout
from pyg_atomenc.attention import attention_pool

C, H, D = 128, 4, 32
# Beyond this many numbers in memory a contender is not started.
LIMIT = {"cpu": 3.5e9, "cuda": 3e10}


def draw(name, generator):
    """Token sizes by the name of a mix, or of a point of a sweep."""

    def between(low, high, count):
        return torch.randint(low, high + 1, (count,), generator=generator)

    kind, *numbers = name.split("-")
    numbers = [int(number) for number in numbers]
    if kind == "residues":
        # `residues-1000`: tokens of 4 to 14 atoms, about 1000 atoms in all.
        return between(4, 14, numbers[0] // 9 if numbers else 12_000)
    if kind == "molecules":
        # `molecules-32`: as drawn from a data set, a token each.
        drawn = torch.randn(numbers[0], generator=generator) * 7 + 25
        return drawn.round().clamp(5, 60).long()
    if kind == "fragments":
        # `fragments-128`: what BRICS leaves of molecules.
        return between(1, 12, numbers[0])
    if kind == "drug":
        # `drug-8`: eight molecules, a token each.
        return between(20, 36, numbers[0] if numbers else 3_000)
    if kind == "mixed":
        parts = [torch.ones(1_800).long(), between(2, 14, 4_194), between(300, 1500, 6)]
        return torch.cat(parts)[torch.randperm(6_000, generator=generator)]
    size, atoms = numbers
    return torch.full((atoms // size,), size)


class Problem:
    """Atoms, tokens and weights, all from one seed."""

    def __init__(
        self, name, device, dtype=torch.float32, share=1.0, grad=False, pairs=False
    ):
        generator = torch.Generator().manual_seed(0)
        sizes = draw(name, generator)
        if share < 1.0:
            sizes = sizes[: max(3, int(share * len(sizes)))]
        self.num_tokens = len(sizes)
        self.sizes = sizes
        index = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.index = index.to(device)
        x = torch.randn(len(index), C, generator=generator, dtype=torch.float64)
        self.x = x.to(device, dtype).requires_grad_(grad)
        weight = torch.randn(3, H * D, C, generator=generator, dtype=torch.float64)
        weight = (weight / C**0.5).to(device, dtype)
        self.query, self.key, self.value = (
            w.clone().requires_grad_(grad) for w in weight
        )
        self.bias = None
        if pairs:
            bias = torch.randn(self.pairs, H, generator=generator)
            self.bias = bias.to(device, dtype).requires_grad_(grad)
        self.leaves = [self.x, self.query, self.key, self.value]

    @property
    def pairs(self):
        """Atom pairs inside tokens."""
        return int((self.sizes**2).sum())

    def heads(self):
        """LayerNorm and projections: q, k, v, each [N, H, D]."""
        h = F.layer_norm(self.x, (C,))
        return [F.linear(h, w).view(-1, H, D) for w in self.leaves[1:]]

    def mean(self, out):
        """Tokens [T, H * D] from atoms [N, H * D]."""
        return global_mean_pool(out, self.index, self.num_tokens)


class Projected(Problem):
    """Queries, keys and values in place of atoms: attention and pooling alone."""

    def __init__(self, *args, grad=False, **options):
        super().__init__(*args, **options)
        self.leaves = [q.detach().requires_grad_(grad) for q in super().heads()]

    def heads(self):
        """The tensors themselves."""
        return self.leaves

    def bytes(self, grad):
        """What has to be read and written, and what inputs and outputs take."""
        one = self.leaves[0].nbytes
        tokens = one * self.num_tokens // len(self.index)
        forward, kept = 3 * one + tokens, 3 * one + tokens
        return (
            (3 * forward - tokens, kept + 3 * one + tokens) if grad else (forward, kept)
        )


def require(problem, numbers, what):
    """Stop where a contender would need more than LIMIT numbers."""
    if numbers > LIMIT[problem.x.device.type]:
        raise MemoryError(f"not started: {what} of {numbers:.1e} numbers")


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


def padded_sdpa(problem):
    """to_dense_batch, then scaled_dot_product_attention with a mask."""
    width = int(problem.sizes.max())
    require(problem, 4 * problem.num_tokens * width * max(width, H * D), "padding")

    def run():
        q, k, v = (t.flatten(1) for t in problem.heads())
        (q, mask), k, v = (
            to_dense_batch(q, problem.index, batch_size=problem.num_tokens),
            to_dense_batch(k, problem.index, batch_size=problem.num_tokens)[0],
            to_dense_batch(v, problem.index, batch_size=problem.num_tokens)[0],
        )
        q, k, v = (t.unflatten(2, (H, D)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, mask[:, None, None])
        out = (out * mask[:, None, :, None]).sum(2) / mask.sum(1).view(-1, 1, 1)
        return out.flatten(1)

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


def flex(problem):
    """flex_attention, compiled, with a mask that joins atoms of one token."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    count, index = len(problem.index), problem.index
    mask = torch.compile(create_block_mask)(
        lambda b, h, q, k: index[q] == index[k], None, None, count, count, index.device
    )
    compiled = torch.compile(flex_attention)

    def run():
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in problem.heads())
        out = compiled(q, k, v, block_mask=mask)
        return problem.mean(out.squeeze(0).transpose(0, 1).flatten(1))

    return run, problem.leaves


def varlen(problem):
    """torch.nn.attention.varlen, which runs on CUDA in half types."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.cat([torch.zeros(1).long(), problem.sizes.cumsum(0)])
    ends = ends.int().to(problem.x.device)
    width = int(problem.sizes.max())

    def run():
        q, k, v = problem.heads()
        out = varlen_attn(q, k, v, ends, ends, width, width)
        return problem.mean(out.flatten(1))

    return run, problem.leaves


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
    "to_dense_batch + SDPA": padded_sdpa,
    "nested tensor SDPA": nested_sdpa,
    "flex_attention": flex,
    "varlen_attn": varlen,
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
    "to_dense_batch + SDPA": padded_sdpa,
    "nested tensor SDPA": nested_sdpa,
    "flex_attention": flex,
    "varlen_attn": varlen,
}


def loop(problem):
    """Token by token, as the formulas say."""
    q, k, v = problem.heads()
    ends, pairs = problem.sizes.cumsum(0).tolist(), (problem.sizes**2).cumsum(0)
    tokens = []
    for size, end, last in zip(problem.sizes.tolist(), ends, pairs, strict=True):
        rows = slice(end - size, end)
        logits = torch.einsum("ahd,bhd->hab", q[rows], k[rows]) / D**0.5
        if problem.bias is not None:
            bias = problem.bias[last - size**2 : last].view(size, size, H)
            logits = logits + bias.permute(2, 0, 1)
        out = torch.einsum("hab,bhd->ahd", logits.softmax(-1), v[rows])
        tokens.append(out.mean(0).flatten())
    return torch.stack(tokens)
