"""The triton backend's operators: which kernels run, on what.

A formula is a list of launches that write into tensors made before. Second gradients
are those of the dense backend's forward, which is differentiable any number of times.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import (
    OperatorContext,
    OperatorDefinition,
    Tensors,
    check_pairs,
    define_operator,
)
from pyg_atomenc.attention.dense import operators as dense
from pyg_atomenc.attention.triton.configurations import (
    KernelConfig,
    block_width,
    find_tiling,
)
from pyg_atomenc.attention.triton.launch import Launch, submit
from pyg_atomenc.attention.triton.plan import Tiles, plan_of

# Tiles a step of the kernel that adds them up.
_SUM_STEP = 16


class Call:
    """One call's inputs, and the launches over its small and large tokens.

    Args:
        tensors (sequence): Query, key, value, and bias or ``None``.
        context (OperatorContext): The operator's context.
        pool (bool): Whether outputs are those of tokens.
    """

    def __init__(self, tensors: Tensors, context: OperatorContext, pool: bool) -> None:
        query, key, value, bias = tensors
        assert query is not None and key is not None and value is not None
        self.query, self.key, self.value = map(_with_plain_rows, (query, key, value))
        self.bias = None if bias is None else bias.contiguous()
        self.context = context
        self.heads, self.width = query.shape[1:]
        self.value_width = value.size(2)
        blocks = block_width(self.width), block_width(self.value_width)
        self.tiling = find_tiling(query.dtype, max(blocks))
        self.plan = plan_of(context, self.tiling.sizes, self.tiling.tile)
        shared = value.size(1) == 1 and self.heads > 1
        self.arguments: dict[str, Any] = {
            "query": self.query,
            "key": self.key,
            "value": self.value,
            "bias": self.bias,
            "perm": context.perm,
            "ptr": context.ptr,
            "pair_ptr": self._pair_ptr(),
            "scale": self.width**-0.5,
            "query_row": self.query.stride(0),
            "query_head": self.query.stride(1),
            "key_row": self.key.stride(0),
            "key_head": self.key.stride(1),
            "value_row": self.value.stride(0),
            "value_head": 0 if shared else self.value.stride(1),
            "POOL": pool,
            "HEADS": self.heads,
            "D": self.width,
            "D_BLOCK": blocks[0],
            "V": self.value_width,
            "V_BLOCK": blocks[1],
        }

    def _pair_ptr(self) -> Optional[Tensor]:
        if self.bias is None:
            return None
        check_pairs(self.bias, self.context)
        return self.context.pair_ptr

    def small(self, kernel: str, **arguments: Any) -> Iterator[Launch]:
        """A kernel for the tokens that one program attends in whole."""
        for span in self.plan.spans:
            items = span.count * self.heads
            yield Launch(
                kernel,
                "ITEMS",
                lambda block, items=items: -(-items // block),  # type: ignore[misc]
                self.tiling.small[span.size],
                {
                    **self.arguments,
                    **arguments,
                    "token_order": self.plan.token_order,
                    "first": span.first,
                    "count": span.count,
                    "S": span.size,
                },
            )

    def large(self, kernel: str, tiles: Tiles, **arguments: Any) -> Launch:
        """A kernel for those."""
        count = tiles.count * self.heads
        return Launch(
            kernel,
            "STEP",
            lambda block: count,
            self.tiling.large,
            {
                **self.arguments,
                **arguments,
                "tile_token": tiles.token,
                "tile_first": tiles.first,
                "rows": tiles.rows,
                "TILE": tiles.size,
            },
        )

    def per_row(self, tiles: Tiles, numbers: int) -> Tensor:
        """Room for some numbers for every head and row of a tile."""
        shape = (numbers, self.heads, tiles.rows)
        return self.query.new_empty(shape, dtype=torch.float32)

    def run(self, launches: Iterator[Launch]) -> None:
        """Queue all launches."""
        for launch in launches:
            submit(launch, self.query.device)


def _with_plain_rows(x: Tensor) -> Tensor:
    """A tensor whose channels are neighbours in memory."""
    return x if x.size(-1) == 1 or x.stride(-1) == 1 else x.contiguous()


# Launches


def attend_launches(call: Call, out: Tensor) -> Iterator[Launch]:
    """The outputs of atoms."""
    yield from call.small("small_forward", out=out, weights=None)
    tiles = call.plan.tiles
    if tiles is not None:
        yield call.large(
            "large_rows", tiles, **_NO_GRADIENTS, out=out, lse=None, mean=None
        )


def pool_launches(call: Call, out: Tensor, weights: Tensor) -> Iterator[Launch]:
    """Tokens and atom weights."""
    yield from call.small("small_forward", out=out, weights=weights)
    tiles = call.plan.tiles
    if tiles is None:
        return
    lse = call.per_row(tiles, 2)
    yield call.large("large_rows", tiles, **_NO_GRADIENTS, out=None, lse=lse, mean=None)
    shape = (tiles.count, call.heads, call.value_width)
    partial = lse.new_empty(shape)
    yield call.large("large_pool", tiles, lse=lse, weights=weights, partial=partial)
    yield Launch(
        "large_sum",
        "STEP",
        lambda block: tiles.count * call.heads,
        (KernelConfig(_SUM_STEP, 1),),
        {
            **call.arguments,
            "partial": partial,
            "out": out,
            "tile_token": tiles.token,
            "tile_first": tiles.first,
            "TILE": tiles.size,
        },
    )


_NO_GRADIENTS = {"grad_out": None, "grad_weights": None}


def backward_launches(
    call: Call,
    grad_out: Optional[Tensor],
    grad_weights: Optional[Tensor],
    found: Sequence[Optional[Tensor]],
) -> Iterator[Launch]:
    """Gradients of query, key, value and bias, written to ``found``."""
    query, key, value, bias = found
    logits = query is not None or key is not None or bias is not None
    if not logits and value is None:
        return
    arguments = {
        "grad_out": grad_out,
        "grad_weights": grad_weights,
        "grad_query": query,
        "grad_key": key,
        "grad_value": value,
        "grad_bias": bias,
        **{
            f"grad_{name}_row": 0 if grad is None else grad.stride(0)
            for name, grad in (("query", query), ("key", key), ("value", value))
        },
    }
    yield from call.small("small_backward", **arguments, LOGITS=logits)
    tiles = call.plan.tiles
    if tiles is None:
        return
    arguments["lse"] = call.per_row(tiles, 2)
    arguments["mean"] = call.per_row(tiles, 1) if logits else None
    yield call.large("large_rows", tiles, **arguments, out=None)
    if query is not None or bias is not None:
        yield call.large("large_grad_query", tiles, **arguments)
    if key is not None or value is not None:
        yield call.large("large_grad_key", tiles, **arguments)


# OperatorDefinition


def _attend(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    (out,) = dense.ATTEND.shapes(tensors, context)
    call = Call(tensors, context, pool=False)
    if out.numel():
        call.run(attend_launches(call, out))
    return (out,)


def _pool(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, ...]:
    out, weights = dense.POOL.shapes(tensors, context)
    if context.num_atoms == 0:
        return out.zero_(), weights
    call = Call(tensors, context, pool=True)
    call.run(pool_launches(call, out, weights))
    return out, weights


def _backward(
    tensors: Tensors,
    context: OperatorContext,
    outputs: Tensors,
    found: Sequence[Optional[Tensor]],
    pool: bool,
) -> list[Optional[Tensor]]:
    """Fill ``found``, which has room for every needed gradient."""
    call = Call(tensors, context, pool)
    query, key, value, bias = found
    grad_out, grad_weights = (
        None if grad is None else grad.contiguous()
        for grad in (*outputs, *[None] * (2 - len(outputs)))
    )
    if value is not None and grad_out is None:
        # Only the atom weights were used, which do not depend on values.
        value.zero_()
        value = None
    by_head = value
    if value is not None and value.size(1) != call.heads:
        shape = (value.size(0), call.heads, value.size(2))
        by_head = value.new_empty(shape, dtype=torch.float32)
    if context.num_atoms > 0:
        into = (query, key, by_head, bias)
        call.run(backward_launches(call, grad_out, grad_weights, into))
    if value is not None and by_head is not None and by_head is not value:
        value.copy_(by_head.sum(1, keepdim=True))
    return list(found)


def _separate(pool: bool) -> Callable[..., list[Optional[Tensor]]]:
    def backward(
        tensors: Tensors,
        context: OperatorContext,
        outputs: Tensors,
        needed: Sequence[bool],
    ) -> list[Optional[Tensor]]:
        found = [
            torch.empty_like(t, memory_format=torch.contiguous_format)
            if t is not None and need
            else None
            for t, need in zip(tensors, needed, strict=True)
        ]
        return _backward(tensors, context, outputs, found, pool)

    return backward


# Query, key and value in one tensor [N, 3, H, d], as one projection gives them


def _unpack(tensors: Tensors) -> Tensors:
    packed, bias = tensors
    assert packed is not None
    return (*packed.unbind(1), bias)


def _packed_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Sequence[bool]
) -> list[Optional[Tensor]]:
    found = [
        torch.empty_like(t, memory_format=torch.contiguous_format)
        if t is not None and need
        else None
        for t, need in zip(tensors, needed, strict=True)
    ]
    packed, bias = found
    parts = (None, None, None) if packed is None else packed.unbind(1)
    _backward(_unpack(tensors), context, outputs, (*parts, bias), True)
    return found


attend = define_operator(
    "attend_triton",
    dense.ARGUMENTS,
    1,
    OperatorDefinition(
        _attend, _separate(False), dense.ATTEND.shapes, dense.ATTEND.forward
    ),
)
pool = define_operator(
    "attend_pool_triton",
    dense.ARGUMENTS,
    2,
    OperatorDefinition(_pool, _separate(True), dense.POOL.shapes, dense.POOL.forward),
)
pool_packed = define_operator(
    "attend_pool_packed_triton",
    ("Tensor packed", "Tensor? bias"),
    2,
    OperatorDefinition(
        lambda tensors, context: _pool(_unpack(tensors), context),
        _packed_backward,
        lambda tensors, context: dense.POOL.shapes(_unpack(tensors), context),
        lambda tensors, context: dense.POOL.forward(_unpack(tensors), context),
    ),
)
