"""The Triton kernels: attention of many small tokens, forward and backward.

A program works on one token, padded to ``S`` atoms, and ``ITEMS`` heads of it. Every
row is read once, and nothing of a token's pairs leaves the program. Rows past the last
atom are read as that atom again, so that no number of another token is ever seen.

Blocks are written ``[.., S]`` for atoms and ``[.., S, S]`` for pairs, ``..`` being the
dimension of heads, of size 1 where all have the same, or nothing where a program has a
single head. Sums are taken in float32; exponents are in base 2.

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
CHANGING = ("first",)


@triton.jit(do_not_specialize=CHANGING)
def attention_forward(
    query, key, value, bias,
    out, weights,
    perm, ptr, pair_ptr, token_order, first, scale,
    query_row, query_head, key_row, key_head, value_row, value_head,
    POOL: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, D_BLOCK: tl.constexpr, V: tl.constexpr, V_BLOCK: tl.constexpr,
    S: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Outputs of atoms, or of tokens together with the atom weights."""
    token, size, h, atom, inside, q, k, v, alpha, offsets, pairs = attend(
        query, key, value, bias,
        perm, ptr, pair_ptr, token_order, first, scale,
        query_row, query_head, key_row, key_head, value_row, value_head,
        HEADS, D, D_BLOCK, V, V_BLOCK, S, ITEMS,
    )  # fmt: skip
    if POOL:
        weight = tl.sum(alpha, axis=-2) / size.to(tl.float32)
        tl.store(weights + atom * HEADS + h, weight, mask=inside)
        at, mask = token_offsets(token, h, HEADS, V, V_BLOCK)
        if v.dtype == tl.float32:
            pooled = tl.sum(of_query(weight) * v, axis=-2)
        else:
            # Every row of the product is the token, of which the first is written.
            rows = tl.broadcast_to(of_key(weight), alpha.shape)
            pooled = product(rows.to(v.dtype), v)
            at = tl.broadcast_to(of_key(at), pooled.shape)
            mask = of_key(mask) & of_query(tl.arange(0, S) == 0)
        tl.store(out + at, pooled.to(out.dtype.element_ty), mask=mask)
    else:
        o = mix(alpha, v)
        store_rows(out, o, atom, h, HEADS * V, V, inside, V, V_BLOCK)


@triton.jit(do_not_specialize=CHANGING)
def attention_backward(
    query, key, value, bias,
    grad_out, grad_weights,
    grad_query, grad_key, grad_value, grad_bias,
    perm, ptr, pair_ptr, token_order, first, scale,
    query_row, query_head, key_row, key_head, value_row, value_head,
    grad_query_row, grad_key_row, grad_value_row,
    POOL: tl.constexpr, LOGITS: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, D_BLOCK: tl.constexpr, V: tl.constexpr, V_BLOCK: tl.constexpr,
    S: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Gradients of what :func:`attention_forward` reads; it computes that again."""
    token, size, h, atom, inside, q, k, v, alpha, offsets, pairs = attend(
        query, key, value, bias,
        perm, ptr, pair_ptr, token_order, first, scale,
        query_row, query_head, key_row, key_head, value_row, value_head,
        HEADS, D, D_BLOCK, V, V_BLOCK, S, ITEMS,
    )  # fmt: skip
    if POOL:
        share = 1.0 / size.to(tl.float32)
        if grad_out is not None:
            at, mask = token_offsets(token, h, HEADS, V, V_BLOCK)
            grad_token = tl.load(grad_out + at, mask=mask, other=0.0)
        if grad_value is not None:
            weight = tl.sum(alpha, axis=-2) * share
            dv = of_query(weight) * of_key(grad_token.to(tl.float32))
        if LOGITS:
            # Of the weights, as a row for every query; all rows are the same.
            if grad_out is None:
                dw = tl.zeros_like(alpha)
            elif v.dtype == tl.float32:
                dw = of_key(tl.sum(v * of_key(grad_token), axis=-1))
            else:
                rows = tl.broadcast_to(of_key(grad_token), v.shape)
                dw = product(rows.to(v.dtype), swap(v))
            if grad_weights is not None:
                at = atom * HEADS + h
                dw += of_key(tl.load(grad_weights + at, mask=inside, other=0.0))
            mean = tl.sum(alpha * dw, axis=-1)
            dl = alpha * (dw - of_query(mean)) * share
    else:
        do = load_rows(grad_out, atom, h, HEADS * V, V, V, V_BLOCK)
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
    if LOGITS:
        dl *= scale
    if grad_query is not None:
        dq = mix(dl, k)
        store_rows(grad_query, dq, atom, h, grad_query_row, D, inside, D, D_BLOCK)
    if grad_key is not None:
        dk = mix(swap(dl), q)
        store_rows(grad_key, dk, atom, h, grad_key_row, D, inside, D, D_BLOCK)


@triton.jit
def attend(
    query, key, value, bias,
    perm, ptr, pair_ptr, token_order, first, scale,
    query_row, query_head, key_row, key_head, value_row, value_head,
    HEADS: tl.constexpr,
    D: tl.constexpr, D_BLOCK: tl.constexpr, V: tl.constexpr, V_BLOCK: tl.constexpr,
    S: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """A program's token and heads, what it reads of them, and their attention weights.

    In order: the token and its size; the heads ``[.., 1]``; atoms and which exist
    ``[.., S]``; queries, keys and values; weights ``[.., S, S]``, zeros where no pair
    is; offsets of the bias, and which pairs exist.
    """
    program = tl.program_id(0)
    token = tl.load(token_order + first + program // (HEADS // ITEMS))
    start = tl.load(ptr + token)
    size = tl.load(ptr + token + 1) - start
    row = by_head(tl.arange(0, S), ITEMS)
    inside = row < size
    atom = tl.load(perm + start + tl.minimum(row, size - 1))
    # Heads may lie farther apart than 32 bits count.
    h = (program % (HEADS // ITEMS) * ITEMS).to(tl.int64)
    if ITEMS > 1:
        h += tl.expand_dims(tl.arange(0, ITEMS), -1)
    q = load_rows(query, atom, h, query_row, query_head, D, D_BLOCK)
    k = load_rows(key, atom, h, key_row, key_head, D, D_BLOCK)
    v = load_rows(value, atom, h, value_row, value_head, V, V_BLOCK)
    logits = product(q, swap(k))
    # Logits are brought to base 2 here where a bias is added, else in the exponent.
    factor = scale * LOG2E
    offsets = 0
    pairs = of_query(inside) & of_key(inside)
    if bias is not None:
        pair = of_query(row) * size + of_key(row)
        offsets = (tl.load(pair_ptr + token) + pair) * HEADS + of_query(h)
        found = tl.load(bias + offsets, mask=pairs, other=0.0).to(tl.float32)
        # The lowest number may mean "almost closed", and must not become -inf.
        scaled = tl.maximum(found * LOG2E, LOWEST)
        logits = logits * factor + tl.where(found > float("-inf"), scaled, found)
        factor = 1.0
    logits = tl.where(of_key(inside), logits, float("-inf"))
    maximum = tl.max(logits, axis=-1)
    # Any number will do where all logits are -inf.
    maximum = tl.where(maximum == float("-inf"), 0.0, maximum)
    power = tl.exp2(logits * factor - of_query(maximum * factor))
    inverse = tl.where(inside, 1.0 / tl.sum(power, axis=-1), 0.0)
    alpha = power * of_query(inverse)
    return token, size, h, atom, inside, q, k, v, alpha, offsets, pairs


@triton.jit
def by_head(x, ITEMS: tl.constexpr):
    """What all heads have, to go with what each has: ``[S]`` → ``[.., S]``."""
    return tl.expand_dims(x, 0) if ITEMS > 1 else x


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
    atom, head, row_stride, head_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Where rows of ``[N, H, WIDTH]`` are ``[.., S, BLOCK]``, and which columns are."""
    column = tl.arange(0, BLOCK)
    offsets = tl.expand_dims(atom * row_stride + head * head_stride, -1) + column
    # Of the offsets' rank, which masks need before Triton 3.3.
    return offsets, (offsets == offsets) & (column < WIDTH)


@triton.jit
def load_rows(
    x, atom, head, row_stride, head_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Rows ``[.., S, BLOCK]``: zeros past the width."""
    offsets, mask = rows_at(atom, head, row_stride, head_stride, WIDTH, BLOCK)
    if WIDTH == BLOCK:
        return tl.load(x + offsets)
    else:
        return tl.load(x + offsets, mask=mask, other=0.0)


@triton.jit
def store_rows(
    x, rows, atom, head, row_stride, head_stride, inside,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write rows of the atoms that exist, in the type of ``x``."""
    offsets, mask = rows_at(atom, head, row_stride, head_stride, WIDTH, BLOCK)
    mask = mask & tl.expand_dims(inside, -1)
    tl.store(x + offsets, rows.to(x.dtype.element_ty), mask=mask)


@triton.jit
def token_offsets(
    token, head, HEADS: tl.constexpr, V: tl.constexpr, V_BLOCK: tl.constexpr
):  # fmt: skip
    """Where heads' rows of ``[T, H, V]`` are ``[.., V_BLOCK]``, and which columns."""
    column = tl.arange(0, V_BLOCK)
    offsets = (token * HEADS + head) * V + column
    return offsets, (offsets == offsets) & (column < V)


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
