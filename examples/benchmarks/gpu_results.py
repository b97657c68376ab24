"""What `gpu_check.py` compares with the definition in float64, on the CPU.

A case has inputs in no order, among them tokens of 1 to 65, 300 and 2,000 atoms, and
empty ones. A row tells the largest difference of outputs, of their gradients along
random directions, and of the gradients of these, each over the largest value. `gap` is
the largest of them, of second gradients a half; and so that no large token hides a
small one, a quarter of what is found among tokens of like size alone. Allowed is the
backend's own tolerance, and twice that for layers, which project first. Memory that
nothing wrote is NaN.
"""

from functools import lru_cache

import torch
from problems import definition
from torch.nn import functional as F

from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv
from pyg_atomenc.attention import (
    TokenLayout,
    WindowLayout,
    attention,
    attention_pool,
    backends,
)
from pyg_atomenc.attention.triton.launch import is_interpreted

SIZES = (0, *range(65, 0, -1), 0, 300)
LARGE = (1, 2000, 0, 9)
GRAPHS = (500, 1, 300)
NODES, EDGES = 400, 3000
# Which sizes are compared on their own.
CLASSES = ((1, 1), (2, 16), (17, 32), (33, 64), (65, 10**9))


class Case:
    """Inputs, how a backend takes them, and what the definition says.

    Attributes:
        leaves (list): In float64, of numbers that the type has.
        expected (callable): Outputs from the leaves, in float64.
        run (callable): Outputs from a backend's name and the leaves as it takes them.
        sizes (callable, optional): The size of the token of every row, of so many rows.
        steps (int): How often numbers are rounded on the way, projections included.
    """

    def __init__(self, leaves, expected, run, sizes=None, steps=1):
        self.leaves = [t.detach().double().requires_grad_() for t in leaves]
        self.expected, self.run, self.sizes, self.steps = expected, run, sizes, steps
        outputs = expected(self.leaves)
        self.ways = [torch.randn_like(out) for out in outputs]
        self.others = [torch.randn_like(leaf) for leaf in self.leaves]
        self.exact = self.orders(outputs, self.leaves)

    def orders(self, outputs, leaves):
        """Outputs, gradients and second gradients."""
        ways, others = (
            [w.to(t.device, t.dtype) for w, t in zip(given, like, strict=True)]
            for given, like in ((self.ways, outputs), (self.others, leaves))
        )
        first = torch.autograd.grad(outputs, leaves, ways, create_graph=True)
        second = torch.autograd.grad(first, leaves, others)
        return [[t.detach() for t in found] for found in (outputs, first, second)]

    def gaps(self, backend, device, dtype):
        """A row's numbers."""
        leaves = [t.detach().to(device, dtype).requires_grad_() for t in self.leaves]
        found = self.orders(self.run(backend, leaves), leaves)
        names = ("forward", "gradient", "second")
        gaps = {
            name: max(map(self.gap, *pair))
            for name, *pair in zip(names, found, self.exact, strict=True)
        }
        # Of second gradients the first ones are rounded, too.
        return {
            **gaps,
            "gap": max(gaps["forward"], gaps["gradient"], gaps["second"] / 2),
            "allowed": backends()[backend].tolerance[dtype] * self.steps,
        }

    def gap(self, found, exact):
        """The largest difference, relative to the largest value."""
        found, largest = found.double().cpu(), exact.abs().max().clamp(min=1e-30)
        if found.shape != exact.shape:
            raise ArithmeticError(f"the shape is {list(found.shape)}")
        gaps = [(found - exact).abs().max() / largest]
        sizes = self.sizes(len(exact)) if self.sizes else None
        for low, high in CLASSES if sizes is not None else ():
            rows = (sizes >= low) & (sizes <= high)
            if rows.any():
                # A single atom's logits have no gradient: what is 0 has no scale.
                scale = exact[rows].abs().max()
                scale = largest if scale < 1e-9 * largest else scale
                gaps.append((found[rows] - exact[rows]).abs().max() / scale / 4)
        # Of numbers that are not all finite `max` would keep any.
        return max(float("inf") if gap.isnan() else gap.item() for gap in gaps)


class Tokens:
    """Tokens whose atoms are in no order, and the definition for them."""

    def __init__(self, sizes):
        self.sizes = torch.tensor(sizes)
        index = torch.arange(len(sizes)).repeat_interleave(self.sizes)
        self.index = index[torch.randperm(len(index))]
        self.layout = TokenLayout.from_index(self.index, len(sizes))
        self.order = self.index.argsort(stable=True)
        self.pairs = int((self.sizes**2).sum())

    def definition(self, q, k, v, bias=None):
        """Atoms, tokens and atom weights."""
        q, k, v = (t[self.order] for t in (q, k, v))
        atoms, tokens, weights = definition(q, k, v, self.sizes, bias)
        back = self.order.argsort()
        return atoms[back], tokens, weights[back]

    def sizes_of(self, count):
        """Of the token of every atom, pair or token."""
        if count == len(self.index):
            return self.sizes[self.index]
        if count == self.pairs:
            return self.sizes.repeat_interleave(self.sizes**2)
        return self.sizes if count == len(self.sizes) else None


def draw(dtype, *shapes):
    """Random numbers that a type has."""
    return [torch.randn(shape).to(dtype) for shape in shapes]


def of_tokens(
    dtype, pool, sizes=None, heads=4, d=32, width=32, value_heads=None, bias=True
):
    """Attention, or attention and pooling, from queries, keys and values."""
    tokens = Tokens(sizes or SIZES)
    count = len(tokens.index)
    shapes = [(count, heads, d)] * 2 + [(count, value_heads or heads, width)]
    leaves = draw(dtype, *shapes, *([(tokens.pairs, heads)] if bias else []))

    def expected(given):
        found = tokens.definition(*given)
        return list(found[1:] if pool else found[:1])

    def run(backend, given):
        layout = tokens.layout.to(given[0].device)
        qkv, pairs = given[:3], given[3] if bias else None
        function = attention_pool if pool else attention
        found = function(*qkv, layout, pairs, backend=backend)
        return list(found) if pool else [found]

    return Case(leaves, expected, run, tokens.sizes_of)


def of_layer(make, dtype, layout, features, expected, sizes=None):
    """A layer of 64 channels, 4 heads of 32 and 3 features of a pair."""
    layer = make(64, 32, 4, edge_dim=3)
    atoms, pairs = draw(dtype, *features)
    leaves = [atoms, pairs, *(p.to(dtype) for p in layer.parameters())]
    places = {name: i + 2 for i, (name, _) in enumerate(layer.named_parameters())}

    def of_leaves(given):
        x = F.layer_norm(given[0], (64,)) if make is AtomAttentionEncoder else given[0]
        weights = [given[places[f"lin_{n}.weight"]] for n in ("query", "key", "value")]
        q, k, v = (F.linear(x, weight).unflatten(1, (4, 32)) for weight in weights)
        bias = F.linear(given[1], given[places["lin_edge.weight"]])
        return [expected(q, k, v, bias).flatten(1)]

    def run(backend, given):
        made = make(64, 32, 4, edge_dim=3, backend=backend)
        made = made.to(given[0].device, given[0].dtype)
        with torch.no_grad():
            for parameter, leaf in zip(made.parameters(), given[2:], strict=True):
                parameter.copy_(leaf)
        given[2:] = made.parameters()
        there = layout.to(given[0].device)
        if make is AtomAttentionEncoder:
            return [made(given[0], there, edge_attr=given[1])]
        return [made(given[0], there, given[1])]

    return Case(leaves, of_leaves, run, sizes, steps=2)


def of_tokens_layer(make, dtype):
    """An encoder, or a convolution over tokens."""
    tokens, place = Tokens(SIZES), int(make is AtomAttentionEncoder)
    features = (len(tokens.index), 64), (tokens.pairs, 3)

    def expected(*given):
        return tokens.definition(*given)[place]

    return of_layer(make, dtype, tokens.layout, features, expected, tokens.sizes_of)


def of_windows(dtype):
    """A convolution over windows of 32 queries and 128 keys."""
    graphs = torch.tensor(GRAPHS)
    layout = WindowLayout.from_ptr(F.pad(graphs.cumsum(0), (1, 0)))
    windows = []
    for start, size in zip((graphs.cumsum(0) - graphs).tolist(), GRAPHS, strict=True):
        for first in range(0, size, 32):
            rows = slice(start + first, start + min(first + 32, size))
            keys = slice(start + max(first - 48, 0), start + min(first + 80, size))
            windows.append((rows, keys))

    def expected(q, k, v, bias):
        found, last = [], 0
        for rows, keys in windows:
            logits = torch.einsum("ahd,bhd->hab", q[rows], k[keys]) / 32**0.5
            size = logits[0].numel()
            own = bias[last : last + size].view(*logits.shape[1:], 4)
            last += size
            alpha = (logits + own.permute(2, 0, 1)).softmax(-1)
            found.append(torch.einsum("hab,bhd->ahd", alpha, v[keys]))
        return torch.cat(found)

    features = (int(graphs.sum()), 64), (layout.num_pairs, 3)
    return of_layer(TokenAttentionConv, dtype, layout, features, expected)


def of_edges(dtype):
    """A convolution over a list of edges, to some nodes none."""
    places = torch.randperm(NODES * (NODES // 2))[:EDGES]
    source, target = places // (NODES // 2), places % (NODES // 2)

    def expected(q, k, v, bias):
        logits = torch.einsum("ahd,bhd->abh", q, k) / 32**0.5
        closed = torch.full_like(logits, float("-inf"))
        closed = closed.index_put((target, source), bias)
        # Nodes without edges attend to nothing.
        alpha = (logits + closed)[: NODES // 2].softmax(1)
        out = torch.einsum("abh,bhd->ahd", alpha, v)
        return F.pad(out, (0, 0, 0, 0, 0, NODES - NODES // 2))

    edges = torch.stack([source, target])
    features = (NODES, 64), (EDGES, 3)
    return of_layer(TokenAttentionConv, dtype, edges, features, expected)


# What is compared, by which backends; the first is what is used most.
ALL, WITHOUT_KERNELS = ("triton", "dense", "edges"), ("dense", "edges")
NARROW = {"sizes": (1, 7, 40, 0, 3), "heads": 3, "d": 5, "width": 17, "bias": False}
CASES = {
    "attention and pooling": (lambda t: of_tokens(t, True), ALL),
    "attention": (lambda t: of_tokens(t, False), ALL),
    "encoder": (lambda t: of_tokens_layer(AtomAttentionEncoder, t), ALL),
    "pooling without a bias": (lambda t: of_tokens(t, True, bias=False), ALL),
    "conv over tokens": (lambda t: of_tokens_layer(TokenAttentionConv, t), ALL),
    "conv over windows": (of_windows, WITHOUT_KERNELS),
    "conv over edges": (of_edges, WITHOUT_KERNELS),
    "a token of 2,000": (
        lambda t: of_tokens(t, True, LARGE, heads=2, d=16, width=16), ALL,
    ),
    "odd widths": (lambda t: of_tokens(t, True, **NARROW), ALL),
    "shared values": (
        lambda t: of_tokens(t, True, SIZES[-9:], value_heads=1, bias=False), ALL,
    ),
}  # fmt: skip


def correctness(device):
    """Jobs: every case in every type, by every backend that has it."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    able = [b for b in ALL if b != "triton" or device == "cuda" or is_interpreted()]
    types = list(backends()["dense"].tolerance)
    # A case is made once, when its first backend needs it.
    made = lru_cache(1)(lambda what, dtype: CASES[what][0](dtype))

    def job(what, backend, dtype):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            return made(what, dtype).gaps(backend, device, dtype)
        finally:
            torch.use_deterministic_algorithms(False)

    for what, (_, names) in CASES.items():
        for dtype in sorted(types, key=lambda t: t == torch.float64):
            for backend in (name for name in names if name in able):
                if dtype in backends()[backend].tolerance:
                    told = {"what": what, "backend": backend, "type": str(dtype)[6:]}
                    yield told, lambda w=what, b=backend, t=dtype: job(w, b, t)
