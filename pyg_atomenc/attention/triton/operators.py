"""The triton backend's operators: kernels for small tokens, dense formulas for others.

Tokens of up to the largest size class go to the kernels, which write into tensors made
before. The atoms of larger tokens are gathered, and the dense backend's formulas write
theirs into the same tensors. Second gradients are those of the dense backend's forward,
which is differentiable any number of times.
"""

from collections.abc import Callable, Sequence
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
from pyg_atomenc.attention.ragged import take
from pyg_atomenc.attention.triton.launch import Launch, block_width, kernel_configs
from pyg_atomenc.attention.triton.plan import LargeTokens, plan_of


class KernelCall:
    """One call's inputs as the kernels take them, and the launches over small tokens.

    Args:
        tensors (sequence): Query, key, value, and bias or ``None``.
        context (OperatorContext): The operator's context.
        pool (bool): Whether outputs are those of tokens.
    """

    def __init__(self, tensors: Tensors, context: OperatorContext, pool: bool) -> None:
        query, key, value, bias = tensors
        assert query is not None and key is not None and value is not None
        query, key, value = map(_with_plain_rows, (query, key, value))
        self.heads, width = query.shape[1:]
        blocks = block_width(width), block_width(value.size(2))
        self.configs = kernel_configs(query.dtype, max(blocks))
        self.plan = plan_of(context, tuple(self.configs))
        if bias is not None:
            check_pairs(bias, context)
        shared = value.size(1) == 1 and self.heads > 1
        self.arguments: dict[str, Any] = {
            "query": query,
            "key": key,
            "value": value,
            "bias": None if bias is None else bias.contiguous(),
            "perm": context.perm,
            "ptr": context.ptr,
            "pair_ptr": None if bias is None else context.pair_ptr,
            "token_order": self.plan.token_order,
            "scale": width**-0.5,
            "query_row": query.stride(0),
            "query_head": query.stride(1),
            "key_row": key.stride(0),
            "key_head": key.stride(1),
            "value_row": value.stride(0),
            "value_head": 0 if shared else value.stride(1),
            "POOL": pool,
            "HEADS": self.heads,
            "D": width,
            "D_BLOCK": blocks[0],
            "V": value.size(2),
            "V_BLOCK": blocks[1],
        }

    def forward(self, out: Tensor, weights: Optional[Tensor] = None) -> list[Launch]:
        """Write the outputs of atoms, or of tokens together with the atom weights."""
        return self._launches("attention_forward", {"out": out, "weights": weights})

    def backward(self, outputs: Tensors, found: Tensors) -> list[Launch]:
        """Write the gradients of query, key, value and bias to ``found``.

        Args:
            outputs (sequence): The outputs' gradients, contiguous.
            found (sequence): A tensor for every gradient that is needed; that of the
                values has a row for every head, even where heads share their values.
        """
        query, key, value, bias = found
        arguments = {
            "grad_out": outputs[0],
            "grad_weights": outputs[1] if len(outputs) > 1 else None,
            "grad_query": query,
            "grad_key": key,
            "grad_value": value,
            "grad_bias": bias,
            "grad_query_row": 0 if query is None else query.stride(0),
            "grad_key_row": 0 if key is None else key.stride(0),
            "grad_value_row": 0 if value is None else value.stride(0),
            "LOGITS": query is not None or key is not None or bias is not None,
        }
        return self._launches("attention_backward", arguments)

    def _launches(self, kernel: str, arguments: dict[str, Any]) -> list[Launch]:
        launches = []
        for part in self.plan.classes:
            items, num_warps = self.configs[part.size]
            sizes = {"first": part.first, "count": part.count, "S": part.size}
            launches.append(
                Launch(
                    kernel,
                    -(-part.count * self.heads // items),
                    num_warps,
                    {**self.arguments, **arguments, **sizes, "ITEMS": items},
                )
            )
        return launches


def _with_plain_rows(x: Tensor) -> Tensor:
    """A tensor whose channels are neighbours in memory."""
    return x if x.size(-1) == 1 or x.stride(-1) == 1 else x.contiguous()


def _submit(launches: list[Launch], device: torch.device) -> None:
    for launch in launches:
        launch.submit(device)


def _of_large_tokens(tensors: Tensors, large: LargeTokens) -> Tensors:
    """Query, key, value and bias of the large tokens alone."""
    *rows, bias = tensors
    return [
        *(None if part is None else take(part, large.atoms) for part in rows),
        None if bias is None else take(bias, large.pairs()),
    ]


# Forward


def _attend(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    (out,) = dense.ATTEND.shapes(tensors, context)
    if out.numel() == 0:
        return (out,)
    call = KernelCall(tensors, context, pool=False)
    _submit(call.forward(out), out.device)
    large = call.plan.large
    if large is not None:
        inputs = _of_large_tokens(tensors, large)
        (out[large.atoms],) = dense.ATTEND.forward(inputs, large.context)
    return (out,)


def _pool(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, ...]:
    out, weights = dense.POOL.shapes(tensors, context)
    if weights.numel() == 0:
        return out.zero_(), weights
    call = KernelCall(tensors, context, pool=True)
    _submit(call.forward(out, weights), out.device)
    large = call.plan.large
    if large is not None:
        inputs = _of_large_tokens(tensors, large)
        found = dense.POOL.forward(inputs, large.context)
        out[large.tokens], weights[large.atoms] = found
    return out, weights


# Backward


def _backward(
    tensors: Tensors,
    context: OperatorContext,
    outputs: Tensors,
    found: Sequence[Optional[Tensor]],
    pool: bool,
) -> list[Optional[Tensor]]:
    """Fill ``found``, which has room for every needed gradient."""
    query, key, value, bias = found
    outputs = [None if grad is None else grad.contiguous() for grad in outputs]
    if value is not None and outputs[0] is None:
        # Only the atom weights were used, which do not depend on values.
        value.zero_()
        value = None
    wanted = (query, key, value, bias)
    if context.num_atoms == 0 or all(part is None for part in wanted):
        return list(found)
    call = KernelCall(tensors, context, pool)
    by_head = value
    if value is not None and value.size(1) != call.heads:
        shape = (value.size(0), call.heads, value.size(2))
        by_head = value.new_empty(shape, dtype=torch.float32)
    _submit(call.backward(outputs, (query, key, by_head, bias)), context.perm.device)
    if value is not None and by_head is not None and by_head is not value:
        value.copy_(by_head.sum(1, keepdim=True))
    if call.plan.large is not None:
        _large_backward(tensors, call.plan.large, outputs, wanted, pool)
    return list(found)


def _large_backward(
    tensors: Tensors, large: LargeTokens, outputs: Tensors, wanted: Tensors, pool: bool
) -> None:
    """Write the gradients of the large tokens into those of all."""
    formulas = dense.POOL if pool else dense.ATTEND
    index = [large.tokens, large.atoms] if pool else [large.atoms]
    gradients = formulas.backward(
        _of_large_tokens(tensors, large),
        large.context,
        [
            None if grad is None else take(grad, rows)
            for grad, rows in zip(outputs, index, strict=True)
        ],
        [part is not None for part in wanted],
    )
    places = [large.atoms] * 3 + [large.atoms if wanted[3] is None else large.pairs()]
    for part, gradient, rows in zip(wanted, gradients, places, strict=True):
        if part is not None and gradient is not None:
            part[rows] = gradient


def _empty_like(tensors: Tensors, needed: Sequence[bool]) -> Sequence[Optional[Tensor]]:
    return [
        torch.empty_like(t, memory_format=torch.contiguous_format)
        if t is not None and need
        else None
        for t, need in zip(tensors, needed, strict=True)
    ]


def _definition(
    forward: Callable[[Tensors, OperatorContext], tuple[Tensor, ...]],
    formulas: OperatorDefinition,
    pool: bool,
) -> OperatorDefinition:
    def backward(
        tensors: Tensors,
        context: OperatorContext,
        outputs: Tensors,
        needed: Sequence[bool],
    ) -> list[Optional[Tensor]]:
        found = _empty_like(tensors, needed)
        return _backward(tensors, context, outputs, found, pool)

    return OperatorDefinition(forward, backward, formulas.shapes, formulas.forward)


# Query, key and value in one tensor [N, 3, H, d], as one projection gives them


def _unpack(tensors: Tensors) -> Tensors:
    packed, bias = tensors
    assert packed is not None
    return (*packed.unbind(1), bias)


def _packed_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Sequence[bool]
) -> list[Optional[Tensor]]:
    found = _empty_like(tensors, needed)
    packed, bias = found
    parts = (None, None, None) if packed is None else packed.unbind(1)
    _backward(_unpack(tensors), context, outputs, (*parts, bias), True)
    return list(found)


attend = define_operator(
    "attend_triton",
    dense.ARGUMENTS,
    1,
    _definition(_attend, dense.ATTEND, pool=False),
)
pool = define_operator(
    "attend_pool_triton",
    dense.ARGUMENTS,
    2,
    _definition(_pool, dense.POOL, pool=True),
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
