"""The Triton kernels: attention of many small tokens, forward and backward.

An item is one head of one token, padded to ``S`` atoms; a program works on ``ITEMS`` of
them. Items are neighbours: all heads of a token come before the next token, so that a
program reads whole rows of ``[N, H, d]``. Every row is read once, and nothing of an
item's pairs leaves the program.

Blocks are written ``[.., S]`` for atoms and ``[.., S, S]`` for pairs, ``..`` being the
dimension of items or nothing: a program of a single item has scalars where others have
``[ITEMS]``. Sums are taken in float32; logits and their maxima are in base 2.

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
# What changes with every batch: Triton would compile anew where it is 1, or a multiple
# of 16, which no kernel gains by.
CHANGING = ("first", "count")


@triton.jit(do_not_specialize=CHANGING)
def attention_forward(
    query, key, value, bias,
    out, weights,
    perm, ptr, pair_ptr, token_order, first, count, scale,
    query_row, query_head, key_row, key_head, value_row, value_head,
    POOL: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, D_BLOCK: tl.constexpr, V: tl.constexpr, V_BLOCK: tl.constexpr,
    S: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Outputs of atoms, or of tokens together with the atom weights."""
    token, head, h, size, exists, atom, inside, q, k, v, alpha, offsets, pairs = attend(
        query, key, value, bias,
        perm, ptr, pair_ptr, token_order, first, count, scale,
        query_row, query_head, key_row, key_head, value_row, value_head,
        HEADS, D, D_BLOCK, V, V_BLOCK, S, ITEMS,
    )  # fmt: skip
    if POOL:
        atoms = tl.maximum(size, 1).to(tl.float32)
        weight = tl.sum(alpha, axis=-2) / by_row(atoms, ITEMS)
        tl.store(weights + atom * HEADS + h, weight, mask=inside)
        pooled = tl.sum(of_query(weight) * v.to(tl.float32), axis=-2)
        at, mask = token_offsets(token, head, exists, HEADS, V, V_BLOCK, ITEMS)
        tl.store(out + at, pooled.to(out.dtype.element_ty), mask=mask)
    else:
        o = mix(alpha, v)
        store_rows(out, o, atom, h, HEADS * V, V, inside, V, V_BLOCK)


@triton.jit(do_not_specialize=CHANGING)
def attention_backward(
    query, key, value, bias,
    grad_out, grad_weights,
    grad_query, grad_key, grad_value, grad_bias,
    perm, ptr, pair_ptr, token_order, first, count, scale,
    query_row, query_head, key_row, key_head, value_row, value_head,
    grad_query_row, grad_key_row, grad_value_row,
    POOL: tl.constexpr, LOGITS: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, D_BLOCK: tl.constexpr, V: tl.constexpr, V_BLOCK: tl.constexpr,
    S: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Gradients of what :func:`attention_forward` reads; it computes that again."""
    token, head, h, size, exists, atom, inside, q, k, v, alpha, offsets, pairs = attend(
        query, key, value, bias,
        perm, ptr, pair_ptr, token_order, first, count, scale,
        query_row, query_head, key_row, key_head, value_row, value_head,
        HEADS, D, D_BLOCK, V, V_BLOCK, S, ITEMS,
    )  # fmt: skip
    if POOL:
        share = 1.0 / by_row(tl.maximum(size, 1).to(tl.float32), ITEMS)
        grad_token = None
        if grad_out is not None:
            at, mask = token_offsets(token, head, exists, HEADS, V, V_BLOCK, ITEMS)
            grad_token = tl.load(grad_out + at, mask=mask, other=0.0).to(tl.float32)
        if grad_value is not None:
            weight = tl.sum(alpha, axis=-2) * share
            dv = of_query(weight) * of_key(grad_token)
        if LOGITS:
            at = atom * HEADS + h
            if grad_token is not None:
                dw = tl.sum(v.to(tl.float32) * of_key(grad_token), axis=-1)
                if grad_weights is not None:
                    dw += tl.load(grad_weights + at, mask=inside, other=0.0)
            else:
                dw = tl.load(grad_weights + at, mask=inside, other=0.0)
            dw = share * dw
            mean = tl.sum(alpha * of_key(dw), axis=-1)
            dl = alpha * (of_key(dw) - of_query(mean))
    else:
        do = load_rows(grad_out, atom, h, HEADS * V, V, inside, V, V_BLOCK)
        if grad_value is not None:
            dv = mix(swap(alpha), do)
        if LOGITS:
            da = product(do, swap(v))
            mean = tl.sum(alpha * da, axis=-1)
            dl = alpha * (da - of_query(mean))
    if grad_value is not None:
        store_rows(grad_value, dv, atom, h, grad_value_row, V, inside, V, V_BLOCK)
    if grad_bias is not None:
        tl.store(grad_bias + offsets, dl.to(grad_bias.dtype.element_ty), mask=pairs)
    if grad_query is not None:
        dq = mix(dl, k) * scale
        store_rows(grad_query, dq, atom, h, grad_query_row, D, inside, D, D_BLOCK)
    if grad_key is not None:
        dk = mix(swap(dl), q) * scale
        store_rows(grad_key, dk, atom, h, grad_key_row, D, inside, D, D_BLOCK)


@triton.jit
def attend(
    query, key, value, bias,
    perm, ptr, pair_ptr, token_order, first, count, scale,
    query_row, query_head, key_row, key_head, value_row, value_head,
    HEADS: tl.constexpr,
    D: tl.constexpr, D_BLOCK: tl.constexpr, V: tl.constexpr, V_BLOCK: tl.constexpr,
    S: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """A program's items, what it reads of them, and their attention weights.

    In order: tokens and heads ``[..]``, these to go with atoms, sizes and which items
    exist ``[..]``; atoms and which exist ``[.., S]``; queries, keys and values; weights
    ``[.., S, S]``, zeros where no pair is; offsets of the bias, and which pairs exist.
    """
    item = tl.program_id(0).to(tl.int64) * ITEMS
    if ITEMS > 1:
        item += tl.arange(0, ITEMS)
    # Not `item < count * HEADS`: `count` has 32 bits, the product may need more.
    exists = item // HEADS < count
    token = tl.load(token_order + first + item // HEADS, mask=exists, other=0)
    start = tl.load(ptr + token, mask=exists, other=0)
    size = tl.load(ptr + token + 1, mask=exists, other=0) - start
    size = tl.where(exists, size, 0)
    row = tl.arange(0, S)
    inside = row < by_row(size, ITEMS)
    atom = tl.load(perm + by_row(start, ITEMS) + row, mask=inside, other=0)
    head = item % HEADS
    h = by_row(head, ITEMS)
    q = load_rows(query, atom, h, query_row, query_head, inside, D, D_BLOCK)
    k = load_rows(key, atom, h, key_row, key_head, inside, D, D_BLOCK)
    v = load_rows(value, atom, h, value_row, value_head, inside, V, V_BLOCK)
    logits = product(q, swap(k)) * (scale * LOG2E)
    offsets = 0
    pairs = of_query(inside) & of_key(inside)
    if bias is not None:
        first_pair = by_pair(tl.load(pair_ptr + token), ITEMS)
        pair = of_query(row).to(tl.int64) * by_pair(size, ITEMS) + of_key(row)
        offsets = (first_pair + pair) * HEADS + by_pair(head, ITEMS)
        found = tl.load(bias + offsets, mask=pairs, other=0.0).to(tl.float32)
        # The lowest number may mean "almost closed", and must not become -inf.
        scaled = tl.maximum(found * LOG2E, LOWEST)
        logits += tl.where(found > float("-inf"), scaled, found)
    # Queries past the last are 0, but not their products with an infinite key.
    logits = tl.where(pairs, logits, float("-inf"))
    maximum = tl.max(logits, axis=-1)
    # Any number will do where all logits are -inf.
    maximum = tl.where(maximum == float("-inf"), 0.0, maximum)
    power = tl.exp2(logits - of_query(maximum))
    total = tl.where(inside, tl.sum(power, axis=-1), 1.0)
    alpha = power * of_query(1.0 / total)
    return token, head, h, size, exists, atom, inside, q, k, v, alpha, offsets, pairs


@triton.jit
def by_row(x, ITEMS: tl.constexpr):
    """What every item has, to go with its atoms: ``[ITEMS]`` → ``[ITEMS, 1]``."""
    return tl.expand_dims(x, -1) if ITEMS > 1 else x


@triton.jit
def by_pair(x, ITEMS: tl.constexpr):
    """What every item has, to go with its pairs: ``[ITEMS]`` → ``[ITEMS, 1, 1]``."""
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
def rows_at(
    atom, head, row_stride, head_stride, inside,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Where rows of ``[N, H, WIDTH]`` are ``[.., S, BLOCK]``, and which exist."""
    column = tl.arange(0, BLOCK)
    offsets = tl.expand_dims(atom * row_stride + head * head_stride, -1) + column
    mask = tl.expand_dims(inside, -1)
    return offsets, (mask if WIDTH == BLOCK else mask & (column < WIDTH))


@triton.jit
def load_rows(
    x, atom, head, row_stride, head_stride, inside,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows ``[.., S, BLOCK]``: zeros past the width, and where no atom is."""
    offsets, mask = rows_at(atom, head, row_stride, head_stride, inside, WIDTH, BLOCK)
    return tl.load(x + offsets, mask=mask, other=0.0)


@triton.jit
def store_rows(
    x, rows, atom, head, row_stride, head_stride, inside,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write rows, in the type of ``x``."""
    offsets, mask = rows_at(atom, head, row_stride, head_stride, inside, WIDTH, BLOCK)
    tl.store(x + offsets, rows.to(x.dtype.element_ty), mask=mask)


@triton.jit
def token_offsets(
    token, head, exists,
    HEADS: tl.constexpr, V: tl.constexpr, V_BLOCK: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Where items' rows of ``[T, H, V]`` are ``[.., V_BLOCK]``, and which exist."""
    column = tl.arange(0, V_BLOCK)
    mask = column < by_row(tl.where(exists, V, 0), ITEMS)
    return by_row((token * HEADS + head) * V, ITEMS) + column, mask


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
