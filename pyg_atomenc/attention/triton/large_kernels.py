"""Tokens whose attention is taken block by block, with a running softmax.

A tile is ``TILE`` consecutive atoms of one token; one program works on one head of one
tile and loops over the atoms of the token, ``STEP`` at a time. What a pass keeps of
rows for the next one stands by tile: row ``r`` of tile ``i`` at ``i * TILE + r`` of
``[H, rows]``. Tiles past the last have a size of 0: they loop over nothing and write
what nobody reads.
"""

from pyg_atomenc.attention.triton.kernels import (
    LOG2E,
    add_bias,
    count,
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
def _find_tile(ptr, tile_token, tile_first, HEADS: tl.constexpr):
    """A program's tile and head, its token, and the token's first tile and atoms."""
    program = tl.program_id(0).to(tl.int64)
    tile = program // HEADS
    token = tl.load(tile_token + tile)
    first = tl.load(tile_first + tile)
    exists = token >= 0
    start = tl.load(ptr + token, mask=exists, other=0)
    size = tl.load(ptr + token + 1, mask=exists, other=0) - start
    return tile, program % HEADS, token, first, start, size.to(tl.int32)


@triton.jit
def _first_pair(pair_ptr, token, bias):
    """Where the pairs of a token start in the bias; 0 without one."""
    if bias is None:
        return 0
    else:
        return tl.load(pair_ptr + token, mask=token >= 0, other=0)


@triton.jit
def _load_token(
    x, token, head, HEADS: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr
):
    """One head of one token ``[BLOCK]`` of ``[T, H, V]`` in float32; maybe ``None``."""
    if x is None:
        return None
    else:
        column = tl.arange(0, BLOCK)
        mask = column < tl.where(token >= 0, V, 0)
        at = (token * HEADS + head) * V + column
        return tl.load(x + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def large_rows(
    query,
    key,
    value,
    bias,
    out,
    lse,
    mean,
    grad_out,
    grad_weights,
    perm,
    ptr,
    pair_ptr,
    tile_token,
    tile_first,
    rows,
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
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """What queries sum over keys.

    ``lse [2, H, rows]``: the largest logit, and the logarithm of the softmax'
    denominator after it was subtracted (their sum would lose the latter beside large
    logits); ``mean [H, rows]``: the attention weights' mean gradient; ``out``: the
    outputs of atoms. Each may be ``None``.
    """
    tile, head, token, first, start, size = _find_tile(
        ptr, tile_token, tile_first, HEADS
    )
    first_pair = _first_pair(pair_ptr, token, bias)
    local = ((tile - first) * TILE).to(tl.int32) + tl.arange(0, TILE)
    inside = local < size
    atom = tl.load(perm + start + local, mask=inside, other=0)
    q = load_rows(query, atom, head, query_row, query_head, inside, D, D_BLOCK)
    maximum = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    if out is not None:
        mixed = tl.zeros([TILE, V_BLOCK], tl.float32)
    if mean is not None:
        sums = tl.zeros([TILE], tl.float32)
        if POOL:
            grad = _load_token(grad_out, token, head, HEADS, V, V_BLOCK)
        else:
            grad = load_rows(grad_out, atom, head, HEADS * V, V, inside, V, V_BLOCK)
    for begin in range(0, count(size), STEP):
        other = begin + tl.arange(0, STEP)
        there = other < size
        far = tl.load(perm + start + other, mask=there, other=0)
        k = load_rows(key, far, head, key_row, key_head, there, D, D_BLOCK)
        logits = product(q, swap(k)) * (scale * LOG2E)
        if bias is not None:
            at = pair_offsets(
                first_pair, of_query(local), of_key(other), size, head, HEADS
            )
            logits = add_bias(logits, bias, at, of_query(inside) & of_key(there))
        logits = tl.where(of_key(there), logits, float("-inf"))
        higher = tl.maximum(maximum, tl.max(logits, axis=-1))
        power = tl.exp2(logits - of_query(finite(higher)))
        shrink = tl.exp2(maximum - finite(higher))
        total = total * shrink + tl.sum(power, axis=-1)
        maximum = higher
        if out is not None or mean is not None:
            v = load_rows(value, far, head, value_row, value_head, there, V, V_BLOCK)
        if out is not None:
            mixed = mixed * of_query(shrink) + mix(power, v)
        if mean is not None:
            if POOL:
                da = of_key(
                    weight_gradient(v, grad, grad_weights, far, head, there, HEADS)
                )
            else:
                da = product(grad, swap(v))
            sums = sums * shrink + tl.sum(power * da, axis=-1)
    total = tl.where(inside, total, 1.0)
    if out is not None:
        mixed = mixed / of_query(total)
        store_rows(out, mixed, atom, head, HEADS * V, V, inside, V, V_BLOCK)
    at = head * rows + tile * TILE + tl.arange(0, TILE)
    if lse is not None:
        tl.store(lse + at, tl.where(inside, maximum, 0.0))
        # Attention weights computed from +inf are 0, so that later passes need no mask.
        found = tl.where(inside, tl.log2(total), float("inf"))
        tl.store(lse + HEADS * rows + at, found)
    if mean is not None:
        tl.store(mean + at, tl.where(inside, sums / total, 0.0))


@triton.jit
def large_pool(
    query,
    key,
    value,
    bias,
    weights,
    partial,
    lse,
    perm,
    ptr,
    pair_ptr,
    tile_token,
    tile_first,
    rows,
    scale,
    query_row,
    query_head,
    key_row,
    key_head,
    value_row,
    value_head,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    D_BLOCK: tl.constexpr,
    V: tl.constexpr,
    V_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """The weights of a tile's atoms, and their share of the token ``[rows, H, V]``."""
    tile, head, token, first, start, size = _find_tile(
        ptr, tile_token, tile_first, HEADS
    )
    first_pair = _first_pair(pair_ptr, token, bias)
    local = ((tile - first) * TILE).to(tl.int32) + tl.arange(0, TILE)
    inside = local < size
    atom = tl.load(perm + start + local, mask=inside, other=0)
    k = load_rows(key, atom, head, key_row, key_head, inside, D, D_BLOCK)
    weight = tl.zeros([TILE], tl.float32)
    for begin in range(0, count(size), STEP):
        alpha, _, _, _, _ = _received(
            query, k, bias, lse, perm, start, size, first_pair, first, begin, local,
            inside, head, rows, scale, query_row, query_head,
            HEADS, D, D_BLOCK, TILE, STEP,
        )  # fmt: skip
        weight += tl.sum(alpha, axis=-1)
    weight = tl.where(inside, weight / tl.maximum(size, 1).to(tl.float32), 0.0)
    tl.store(weights + atom * HEADS + head, weight, mask=inside)
    v = load_rows(value, atom, head, value_row, value_head, inside, V, V_BLOCK)
    pooled = tl.sum(of_query(weight) * v.to(tl.float32), axis=0)
    column = tl.arange(0, V_BLOCK)
    tl.store(partial + (tile * HEADS + head) * V + column, pooled, mask=column < V)


@triton.jit
def _received(
    query, k, bias, lse, perm, start, size, first_pair, first, begin, local, inside,
    head, rows, scale, query_row, query_head,
    HEADS: tl.constexpr, D: tl.constexpr, D_BLOCK: tl.constexpr, TILE: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Attention ``[TILE, STEP]`` that keys get of queries; those queries, and where."""
    other = begin + tl.arange(0, STEP)
    there = other < size
    far = tl.load(perm + start + other, mask=there, other=0)
    q = load_rows(query, far, head, query_row, query_head, there, D, D_BLOCK)
    logits = product(k, swap(q)) * (scale * LOG2E)
    pairs = of_query(inside) & of_key(there)
    if bias is not None:
        at = pair_offsets(first_pair, of_key(other), of_query(local), size, head, HEADS)
        logits = add_bias(logits, bias, at, pairs)
    # Queries past the last are 0, but not their products with an infinite key.
    logits = tl.where(pairs, logits, float("-inf"))
    at = head * rows + first * TILE + other
    maximum = tl.load(lse + at, mask=there, other=0.0)
    log_total = tl.load(lse + HEADS * rows + at, mask=there, other=0.0)
    alpha = tl.exp2(logits - of_key(maximum) - of_key(log_total))
    return alpha, q, far, there, at


@triton.jit
def large_sum(
    partial,
    out,
    ptr,
    tile_token,
    tile_first,
    HEADS: tl.constexpr,
    V: tl.constexpr,
    V_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """The tokens: sums over their tiles, by the program of each token's first tile."""
    tile, head, token, first, _, size = _find_tile(ptr, tile_token, tile_first, HEADS)
    mine = (tile == first) & (size > 0)
    tiles = tl.where(mine, (size + TILE - 1) // TILE, 0)
    column = tl.arange(0, V_BLOCK)
    total = tl.zeros([V_BLOCK], tl.float32)
    for begin in range(0, count(tiles), STEP):
        other = begin + tl.arange(0, STEP)
        at = of_query(((tile + other) * HEADS + head) * V) + column
        mask = of_query(other < tiles) & (column < V)
        total += tl.sum(tl.load(partial + at, mask=mask, other=0.0), axis=0)
    at = (token * HEADS + head) * V + column
    tl.store(
        out + at, total.to(out.dtype.element_ty), mask=column < tl.where(mine, V, 0)
    )


@triton.jit
def large_grad_query(
    query,
    key,
    value,
    bias,
    lse,
    mean,
    grad_out,
    grad_weights,
    grad_query,
    grad_bias,
    perm,
    ptr,
    pair_ptr,
    tile_token,
    tile_first,
    rows,
    scale,
    query_row,
    query_head,
    key_row,
    key_head,
    value_row,
    value_head,
    grad_query_row,
    POOL: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    D_BLOCK: tl.constexpr,
    V: tl.constexpr,
    V_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """Gradients of a tile's queries, and of the bias of all their pairs."""
    tile, head, token, first, start, size = _find_tile(
        ptr, tile_token, tile_first, HEADS
    )
    first_pair = _first_pair(pair_ptr, token, bias)
    local = ((tile - first) * TILE).to(tl.int32) + tl.arange(0, TILE)
    inside = local < size
    atom = tl.load(perm + start + local, mask=inside, other=0)
    q = load_rows(query, atom, head, query_row, query_head, inside, D, D_BLOCK)
    at = head * rows + tile * TILE + tl.arange(0, TILE)
    maximum, log_total = tl.load(lse + at), tl.load(lse + HEADS * rows + at)
    average = tl.load(mean + at)
    if POOL:
        grad = _load_token(grad_out, token, head, HEADS, V, V_BLOCK)
    else:
        grad = load_rows(grad_out, atom, head, HEADS * V, V, inside, V, V_BLOCK)
    dq = tl.zeros([TILE, D_BLOCK], tl.float32)
    share = 1.0 / tl.maximum(size, 1).to(tl.float32) if POOL else 1.0
    for begin in range(0, count(size), STEP):
        other = begin + tl.arange(0, STEP)
        there = other < size
        far = tl.load(perm + start + other, mask=there, other=0)
        k = load_rows(key, far, head, key_row, key_head, there, D, D_BLOCK)
        v = load_rows(value, far, head, value_row, value_head, there, V, V_BLOCK)
        logits = product(q, swap(k)) * (scale * LOG2E)
        pairs = of_query(inside) & of_key(there)
        if bias is not None:
            pair = pair_offsets(
                first_pair, of_query(local), of_key(other), size, head, HEADS
            )
            logits = add_bias(logits, bias, pair, pairs)
        logits = tl.where(of_key(there), logits, float("-inf"))
        alpha = tl.exp2(logits - of_query(maximum) - of_query(log_total))
        if POOL:
            da = of_key(weight_gradient(v, grad, grad_weights, far, head, there, HEADS))
        else:
            da = product(grad, swap(v))
        dl = alpha * (da - of_query(average)) * share
        if grad_bias is not None:
            tl.store(grad_bias + pair, dl.to(grad_bias.dtype.element_ty), mask=pairs)
        if grad_query is not None:
            dq += mix(dl, k)
    if grad_query is not None:
        dq *= scale
        store_rows(grad_query, dq, atom, head, grad_query_row, D, inside, D, D_BLOCK)


@triton.jit
def large_grad_key(
    query,
    key,
    value,
    bias,
    lse,
    mean,
    grad_out,
    grad_weights,
    grad_key,
    grad_value,
    perm,
    ptr,
    pair_ptr,
    tile_token,
    tile_first,
    rows,
    scale,
    query_row,
    query_head,
    key_row,
    key_head,
    value_row,
    value_head,
    grad_key_row,
    grad_value_row,
    POOL: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    D_BLOCK: tl.constexpr,
    V: tl.constexpr,
    V_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
):
    """Gradients of a tile's keys and values; each may be ``None``."""
    tile, head, token, first, start, size = _find_tile(
        ptr, tile_token, tile_first, HEADS
    )
    first_pair = _first_pair(pair_ptr, token, bias)
    local = ((tile - first) * TILE).to(tl.int32) + tl.arange(0, TILE)
    inside = local < size
    atom = tl.load(perm + start + local, mask=inside, other=0)
    k = load_rows(key, atom, head, key_row, key_head, inside, D, D_BLOCK)
    share = 1.0 / tl.maximum(size, 1).to(tl.float32) if POOL else 1.0
    if grad_key is not None:
        v = load_rows(value, atom, head, value_row, value_head, inside, V, V_BLOCK)
        dk = tl.zeros([TILE, D_BLOCK], tl.float32)
    if POOL:
        grad = _load_token(grad_out, token, head, HEADS, V, V_BLOCK)
        weight = tl.zeros([TILE], tl.float32)
        if grad_key is not None:
            dw = weight_gradient(v, grad, grad_weights, atom, head, inside, HEADS)
    else:
        dv = tl.zeros([TILE, V_BLOCK], tl.float32)
    for begin in range(0, count(size), STEP):
        alpha, q, far, there, at = _received(
            query, k, bias, lse, perm, start, size, first_pair, first, begin, local,
            inside, head, rows, scale, query_row, query_head,
            HEADS, D, D_BLOCK, TILE, STEP,
        )  # fmt: skip
        if POOL:
            weight += tl.sum(alpha, axis=-1)
        else:
            do = load_rows(grad_out, far, head, HEADS * V, V, there, V, V_BLOCK)
            if grad_value is not None:
                dv += mix(alpha, do)
        if grad_key is not None:
            da = of_query(dw) if POOL else product(v, swap(do))
            average = tl.load(mean + at, mask=there, other=0.0)
            dk += mix(alpha * (da - of_key(average)) * share, q)
    if grad_key is not None:
        dk *= scale
        store_rows(grad_key, dk, atom, head, grad_key_row, D, inside, D, D_BLOCK)
    if grad_value is not None:
        if POOL:
            dv = of_query(weight * share) * of_key(grad)
        store_rows(grad_value, dv, atom, head, grad_value_row, V, inside, V, V_BLOCK)
