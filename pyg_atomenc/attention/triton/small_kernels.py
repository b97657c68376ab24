"""Tokens that one program attends in whole, several items at once.

An item, one head of one token, is padded to ``S`` atoms. The items of a program are
neighbours: all heads of a token come before the next token, so that the program reads
whole rows of ``[N, H, d]``. Every row is read once, and nothing of an item's pairs
leaves the program.
"""

from pyg_atomenc.attention.triton.kernels import (
    LOG2E,
    add_bias,
    by_pair,
    by_row,
    finite,
    load_rows,
    mix,
    of_key,
    of_query,
    pair_offsets,
    product,
    store_rows,
    swap,
    tl,
    triton,
    weight_gradient,
)


@triton.jit
def _find_items(
    ptr,
    token_order,
    first,
    count,
    HEADS: tl.constexpr,
    S: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Which tokens and heads a program works on, and of how many atoms."""
    item = tl.program_id(0).to(tl.int64) * ITEMS
    if ITEMS > 1:
        item += tl.arange(0, ITEMS)
    # Not `item < count * HEADS`: `count` has 32 bits, the product may need more.
    exists = item // HEADS < count
    token = tl.load(token_order + first + item // HEADS, mask=exists, other=0)
    start = tl.load(ptr + token, mask=exists, other=0)
    size = tl.load(ptr + token + 1, mask=exists, other=0) - start
    return token, item % HEADS, start, tl.where(exists, size, 0), exists


@triton.jit
def _attention_weights(
    query,
    key,
    bias,
    pair_ptr,
    token,
    head,
    size,
    scale,
    HEADS: tl.constexpr,
    S: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Attention weights ``[.., S, S]``, zeros where no pair is; bias offsets."""
    row = tl.arange(0, S)
    logits = product(query, swap(key)) * (scale * LOG2E)
    inside = row < by_row(size, ITEMS)
    offsets = 0
    pairs = of_query(inside) & of_key(inside)
    if bias is not None:
        first_pair = tl.load(pair_ptr + token)
        offsets = pair_offsets(
            by_pair(first_pair, ITEMS),
            of_query(row),
            of_key(row),
            by_pair(size, ITEMS),
            by_pair(head, ITEMS),
            HEADS,
        )
        logits = add_bias(logits, bias, offsets, pairs)
    # Queries past the last are 0, but not their products with an infinite key.
    logits = tl.where(pairs, logits, float("-inf"))
    maximum = finite(tl.max(logits, axis=-1))
    power = tl.exp2(logits - of_query(maximum))
    total = tl.where(inside, tl.sum(power, axis=-1), 1.0)
    return power * of_query(1.0 / total), offsets, pairs


@triton.jit
def small_forward(
    query,
    key,
    value,
    bias,
    out,
    weights,
    perm,
    ptr,
    pair_ptr,
    token_order,
    first,
    count,
    scale,
    query_row,
    query_head,
    key_row,
    key_head,
    value_row,
    value_head,
    POOL: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    D_BLOCK: tl.constexpr,
    V: tl.constexpr,
    V_BLOCK: tl.constexpr,
    S: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Outputs of atoms, or of tokens together with the atom weights."""
    token, head, start, size, exists = _find_items(
        ptr, token_order, first, count, HEADS, S, ITEMS
    )
    row, h = tl.arange(0, S), by_row(head, ITEMS)
    inside = row < by_row(size, ITEMS)
    atom = tl.load(perm + by_row(start, ITEMS) + row, mask=inside, other=0)
    q = load_rows(query, atom, h, query_row, query_head, inside, D, D_BLOCK)
    k = load_rows(key, atom, h, key_row, key_head, inside, D, D_BLOCK)
    v = load_rows(value, atom, h, value_row, value_head, inside, V, V_BLOCK)
    alpha, _, _ = _attention_weights(
        q, k, bias, pair_ptr, token, head, size, scale, HEADS, S, ITEMS
    )
    if POOL:
        atoms = tl.maximum(size, 1).to(tl.float32)
        weight = tl.sum(alpha, axis=-2) / by_row(atoms, ITEMS)
        tl.store(weights + atom * HEADS + h, weight, mask=inside)
        pooled = tl.sum(of_query(weight) * v.to(tl.float32), axis=-2)
        column = tl.arange(0, V_BLOCK)
        mask = column < by_row(tl.where(exists, V, 0), ITEMS)
        at = by_row((token * HEADS + head) * V, ITEMS) + column
        tl.store(out + at, pooled.to(out.dtype.element_ty), mask=mask)
    else:
        o = mix(alpha, v)
        store_rows(out, o, atom, h, HEADS * V, V, inside, V, V_BLOCK)


@triton.jit
def small_backward(
    query,
    key,
    value,
    bias,
    grad_out,
    grad_weights,
    grad_query,
    grad_key,
    grad_value,
    grad_bias,
    perm,
    ptr,
    pair_ptr,
    token_order,
    first,
    count,
    scale,
    query_row,
    query_head,
    key_row,
    key_head,
    value_row,
    value_head,
    grad_query_row,
    grad_key_row,
    grad_value_row,
    POOL: tl.constexpr,
    LOGITS: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    D_BLOCK: tl.constexpr,
    V: tl.constexpr,
    V_BLOCK: tl.constexpr,
    S: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """Gradients of what :func:`small_forward` reads; attention is computed again."""
    token, head, start, size, exists = _find_items(
        ptr, token_order, first, count, HEADS, S, ITEMS
    )
    row, h = tl.arange(0, S), by_row(head, ITEMS)
    inside = row < by_row(size, ITEMS)
    atom = tl.load(perm + by_row(start, ITEMS) + row, mask=inside, other=0)
    q = load_rows(query, atom, h, query_row, query_head, inside, D, D_BLOCK)
    k = load_rows(key, atom, h, key_row, key_head, inside, D, D_BLOCK)
    v = load_rows(value, atom, h, value_row, value_head, inside, V, V_BLOCK)
    alpha, offsets, pairs = _attention_weights(
        q, k, bias, pair_ptr, token, head, size, scale, HEADS, S, ITEMS
    )
    if POOL:
        share = 1.0 / by_row(tl.maximum(size, 1).to(tl.float32), ITEMS)
        grad_token = None
        if grad_out is not None:
            column = tl.arange(0, V_BLOCK)
            mask = column < by_row(tl.where(exists, V, 0), ITEMS)
            at = by_row((token * HEADS + head) * V, ITEMS) + column
            grad_token = tl.load(grad_out + at, mask=mask, other=0.0).to(tl.float32)
        if grad_value is not None:
            weight = tl.sum(alpha, axis=-2) * share
            dv = of_query(weight) * of_key(grad_token)
        if LOGITS:
            dw = share * weight_gradient(
                v, grad_token, grad_weights, atom, h, inside, HEADS
            )
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
