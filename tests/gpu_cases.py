"""Inputs for a CUDA device, and what they should give by loops in float64."""

import torch
from torch.nn import functional as F

from pyg_atomenc.attention import (
    TokenLayout,
    attention,
    attention_pool,
    backends,
)

BACKENDS = tuple(backends())
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Single atoms, residues, drugs, each size at which a kernel changes, and empty tokens.
SIZES = (
    *[1] * 20, *range(2, 13), *range(2, 13), *range(8, 65, 4), 15, 16, 17, 31, 33, 63,
    0, 65, 66, 129, 300, 1000, 0,
)  # fmt: skip
# Which of them are compared on their own, so that no large token hides a small one.
CLASSES = ((1, 1), (2, 16), (17, 32), (33, 64), (65, 10**9))


def draw_index(sizes):
    """Token ids in no order, and their number."""
    sizes = torch.tensor(sizes, dtype=torch.long)
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    return index[torch.randperm(len(index))], len(sizes)


def draw_layout(sizes=SIZES, device="cuda"):
    """A layout of tokens whose atoms are in no order."""
    return TokenLayout.from_index(*draw_index(sizes)).to(device)


class Case:
    """Queries, keys, values and a bias, as the device sees them and in float64."""

    def __init__(
        self, device, dtype, sizes=SIZES, heads=4, d=32, width=None, value_heads=None,
        bias=True,
    ):  # fmt: skip
        self.layout = draw_layout(sizes, device)
        count = self.layout.num_atoms
        shapes = [(count, heads, d)] * 2 + [(count, value_heads or heads, width or d)]
        if bias:
            shapes.append((self.layout.num_pairs, heads))
        drawn = [torch.randn(shape).to(dtype) for shape in shapes]
        self.exact = [t.double().requires_grad_() for t in drawn]
        self.tensors = [t.to(device).requires_grad_() for t in drawn]

    def run(self, backend, pool):
        """What a backend gives, as a tuple."""
        *heads, bias = self.tensors if len(self.tensors) == 4 else [*self.tensors, None]
        if pool:
            return attention_pool(*heads, self.layout, bias, backend=backend)
        return (attention(*heads, self.layout, bias, backend=backend),)

    def expected(self, pool):
        """What the formulas say, as a tuple."""
        atoms, tokens, weights = token_loop(self.layout, *self.exact)
        return (tokens, weights) if pool else (atoms,)


def token_loop(layout, query, key, value, bias=None):
    """Attention token by token, on the CPU: atoms, tokens and atom weights."""
    perm, ptr = layout.perm.cpu(), layout.host_ptr.tolist()
    heads, scale = query.size(1), query.size(-1) ** -0.5
    value = value.expand(-1, heads, -1)
    order, atoms, weights, pair = [], [], [], 0
    tokens = [value.new_zeros(heads, value.size(2)) for _ in ptr[1:]]
    for token, (start, stop) in enumerate(zip(ptr, ptr[1:], strict=False)):
        rows, size = perm[start:stop], stop - start
        if size == 0:
            continue
        q, k, v = (x[rows].transpose(0, 1) for x in (query, key, value))
        logits = q @ k.mT * scale
        if bias is not None:
            own = bias[pair : pair + size**2].view(size, size, heads)
            logits, pair = logits + own.permute(2, 0, 1), pair + size**2
        alpha = logits.softmax(-1)
        out = (alpha @ v).transpose(0, 1)
        tokens[token] = out.mean(0)
        order.append(rows)
        atoms.append(out)
        weights.append(alpha.mean(1).T)
    back = torch.cat(order).argsort()
    return torch.cat(atoms)[back], torch.stack(tokens), torch.cat(weights)[back]


def encode_loop(layout, x, weights, bias=None, biases=None):
    """LayerNorm, projections and :func:`token_loop`: tokens and atom weights."""
    h = F.layer_norm(x, x.shape[-1:])
    q, k, v = (torch.einsum("nc,hdc->nhd", h, w) for w in weights)
    if biases is not None:
        q, k, v = q + biases[0], k + biases[1], v + biases[2]
    return token_loop(layout, q, k, v, bias)[1:]


def draw_weights(outputs):
    """Random numbers to weigh outputs with, on the CPU in float64."""
    return [torch.randn(out.shape, dtype=torch.float64) for out in outputs]


def gradients(outputs, tensors, weights, **options):
    """The gradients of the outputs' sum, weighed."""
    given = [w.to(o.device, o.dtype) for w, o in zip(weights, outputs, strict=True)]
    return torch.autograd.grad(outputs, tensors, given, **options)


def check_close(found, expected, tolerance, layout=None):
    """Compare with float64, relative to the largest value, as tolerances are meant.

    With a layout, what has a row an atom, a token or a pair is also compared among
    tokens of like size, where four times as much is allowed.
    """
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        one, other = one.detach().double().cpu(), other.detach()
        assert one.shape == other.shape
        assert one.isfinite().all(), f"result {place} is not finite"
        parts = [("all", slice(None), tolerance)]
        if layout is not None:
            sizes = _sizes_of_rows(layout, len(one))
            for low, high in CLASSES:
                rows = (sizes >= low) & (sizes <= high)
                if rows.any():
                    parts.append((f"{low} to {high} atoms", rows, 4 * tolerance))
        largest = other.abs().max().clamp(1e-30)
        for name, rows, allowed in parts:
            scale = other[rows].abs().max()
            # A single atom's logits have no gradient: what is 0 has no scale.
            scale = largest if scale < 1e-9 * largest else scale
            gap = (one[rows] - other[rows]).abs().max() / scale
            assert gap <= allowed, f"result {place}, tokens of {name}: {gap:.2e}"


def _sizes_of_rows(layout, count):
    """The size of the token of every row; a result may have a row a pair."""
    sizes = layout.host_ptr.diff()
    if count == layout.num_atoms:
        return sizes[layout.atom_to_token.cpu()]
    if count == layout.num_pairs:
        return sizes.repeat_interleave(sizes**2)
    return sizes if count == len(sizes) else torch.zeros(count)
