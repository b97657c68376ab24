"""What all Triton kernels share: rows, products and logits of a block.

Tensors of a block are written ``[.., S]`` for its atoms and ``[.., S, S]`` for its
pairs, ``..`` being a dimension of items or nothing: an item is one head of one token,
and a program that works on a single item has scalars where others have ``[B]``.
Everything is added up in float32; logits and their maxima are in base 2.

This file imports Triton, so nothing imports it before a kernel is launched. Triton
reads ``TRITON_INTERPRET`` when it does.
"""

from pyg_atomenc.attention.triton.launch import is_interpreted
from pyg_atomenc.errors import require_package

triton = require_package("triton", "the triton backend")
tl = require_package("triton.language", "the triton backend")

LOG2E = tl.constexpr(1.4426950408889634)
# Of float32, with room for a logit beside it.
LOWEST = tl.constexpr(-3.4e38)
# The interpreter keeps bfloat16 as integers, which it does not multiply as numbers.
INTERPRETED = tl.constexpr(is_interpreted())


@triton.jit
def count(x):
    """A number to loop up to; as NumPy 2.4 wants it, where the interpreter runs."""
    if INTERPRETED:
        return x.handle.data.item()
    else:
        return x


@triton.jit
def by_row(x, ITEMS: tl.constexpr):
    """What every item has, to go with its atoms: ``[B]`` → ``[B, 1]``."""
    return tl.expand_dims(x, -1) if ITEMS > 1 else x


@triton.jit
def by_pair(x, ITEMS: tl.constexpr):
    """What every item has, to go with its pairs: ``[B]`` → ``[B, 1, 1]``."""
    return tl.expand_dims(tl.expand_dims(x, -1), -1) if ITEMS > 1 else x


@triton.jit
def of_query(x):
    """What every atom has, for the pairs whose first atom it is: ``[.., S, 1]``."""
    return tl.expand_dims(x, -1)


@triton.jit
def of_key(x):
    """What every atom has, for the pairs whose second atom it is: ``[.., 1, S]``."""
    return tl.expand_dims(x, -2)


@triton.jit
def swap(x):
    """The last two dimensions exchanged."""
    if len(x.shape) == 3:
        return tl.permute(x, (0, 2, 1))
    else:
        return tl.trans(x)


@triton.jit
def row_offsets(
    atom,
    head,
    row_stride,
    head_stride,
    inside,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where rows of ``[N, H, WIDTH]`` are ``[.., S, BLOCK]``, and which exist."""
    column = tl.arange(0, BLOCK)
    offsets = tl.expand_dims(atom * row_stride + head * head_stride, -1) + column
    mask = tl.expand_dims(inside, -1)
    return offsets, (mask if WIDTH == BLOCK else mask & (column < WIDTH))


@triton.jit
def load_rows(
    x,
    atom,
    head,
    row_stride,
    head_stride,
    inside,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rows ``[.., S, BLOCK]``: zeros past the width, and where no atom is."""
    offsets, mask = row_offsets(
        atom, head, row_stride, head_stride, inside, WIDTH, BLOCK
    )
    return tl.load(x + offsets, mask=mask, other=0.0)


@triton.jit
def store_rows(
    x,
    rows,
    atom,
    head,
    row_stride,
    head_stride,
    inside,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write rows, in the type of ``x``."""
    offsets, mask = row_offsets(
        atom, head, row_stride, head_stride, inside, WIDTH, BLOCK
    )
    tl.store(x + offsets, rows.to(x.dtype.element_ty), mask=mask)


@triton.jit
def product(a, b):
    """The matrix product of blocks as loaded; float32 keeps its precision."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def mix(a, b):
    """The product of computed numbers ``a`` in float32 with a block as loaded."""
    if b.dtype == tl.float32:
        return product(a, b)
    elif b.dtype == tl.float16:
        # Small gradients would fall out of float16's range, so that each row is scaled
        # to 1 first.
        top = tl.maximum(tl.max(tl.abs(a), axis=-1), 1e-30)
        scaled = (a * tl.expand_dims(1.0 / top, -1)).to(tl.float16)
        return product(scaled, b) * tl.expand_dims(top, -1)
    else:
        return product(a.to(b.dtype), b)


@triton.jit
def pair_offsets(first_pair, query, key, size, head, HEADS: tl.constexpr):
    """Where the pairs of queries and keys stand in a bias ``[E, H]``."""
    return (first_pair + query.to(tl.int64) * size + key) * HEADS + head


@triton.jit
def add_bias(logits, bias, offsets, inside):
    """Logits with their bias, both in base 2."""
    found = tl.load(bias + offsets, mask=inside, other=0.0).to(tl.float32)
    # The most negative number may mean "almost closed", and must not become -inf.
    scaled = tl.where(found > float("-inf"), tl.maximum(found * LOG2E, LOWEST), found)
    return logits + scaled


@triton.jit
def finite(maximum):
    """The maximum to subtract: any number will do where all logits are -inf."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def weight_gradient(
    value, token_gradient, grad_weights, atom, head, inside, HEADS: tl.constexpr
):
    """The gradients ``[.., S]`` of how much atoms count in their token.

    ``token_gradient`` is that of the token ``[.., D]``, or ``None``; ``grad_weights``
    what users of the atom weights gave ``[N, H]``, or ``None``.
    """
    if token_gradient is not None:
        grad = tl.sum(value.to(tl.float32) * of_key(token_gradient), axis=-1)
        if grad_weights is not None:
            grad += tl.load(grad_weights + atom * HEADS + head, mask=inside, other=0.0)
        return grad
    else:
        return tl.load(grad_weights + atom * HEADS + head, mask=inside, other=0.0)
