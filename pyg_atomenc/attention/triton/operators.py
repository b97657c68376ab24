"""The triton backend's operators: kernels for small tokens, dense formulas for others.

Both write into the same tensors, made before. Second gradients are those of the dense
backend's forward, which is differentiable any number of times.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_atomenc.attention import autograd
from pyg_atomenc.attention.context import Gradients, Needed, OperatorContext, Tensors
from pyg_atomenc.attention.dense import operators as dense
from pyg_atomenc.attention.flops import attention_flops
from pyg_atomenc.attention.ragged import take
from pyg_atomenc.attention.triton.launch import Launch, block_width, kernel_configs
from pyg_atomenc.attention.triton.plan import plan_of


class KernelCall:
    """One call's inputs as the kernels take them, and the launches for small tokens."""

    def __init__(self, tensors: Tensors, context: OperatorContext, pool: bool) -> None:
        query, key, value, bias = tensors
        # Channels are neighbours in memory.
        query, key, value = (
            x if x.size(-1) == 1 or x.stride(-1) == 1 else x.contiguous()
            for x in (query, key, value)
        )
        self.heads, width = query.shape[1:]
        blocks = block_width(width), block_width(value.size(2))
        self.configs = kernel_configs(query.dtype, max(blocks))
        self.plan = plan_of(context, tuple(self.configs))
        self.arguments: dict[str, Any] = {
            "bias": None if bias is None else bias.contiguous(),
            "perm": context.perm,
            "ptr": context.ptr,
            "pair_ptr": None if bias is None else context.pair_ptr(bias),
            "token_order": self.plan.token_order,
            "scale": width**-0.5,
            "POOL": pool,
            "HEADS": self.heads,
            "D": width,
            "D_BLOCK": blocks[0],
            "V": value.size(2),
            "V_BLOCK": blocks[1],
        }
        for name, part in (("query", query), ("key", key), ("value", value)):
            self.arguments |= {name: part, f"{name}_row": part.stride(0)}
            self.arguments[f"{name}_head"] = part.stride(1)
        if value.size(1) == 1 and self.heads > 1:
            self.arguments["value_head"] = 0

    def forward(self, out: Tensor, weights: Optional[Tensor] = None) -> list[Launch]:
        """Write the outputs of atoms, or of tokens together with the atom weights."""
        return self._launches("attention_forward", {"out": out, "weights": weights})

    def backward(self, outputs: Tensors, found: Tensors) -> list[Launch]:
        """Write gradients of query, key, value and bias, where ``found`` has room.

        Those of the outputs are contiguous; that of the values has a row for every
        head, even where heads share their values.
        """
        query, key, _, bias = found
        arguments = {
            "grad_out": outputs[0],
            "grad_weights": outputs[1] if len(outputs) > 1 else None,
            "grad_bias": bias,
            "LOGITS": query is not None or key is not None or bias is not None,
        }
        for name, part in zip(("query", "key", "value"), found[:3], strict=True):
            arguments[f"grad_{name}"] = part
            arguments[f"grad_{name}_row"] = 0 if part is None else part.stride(0)
        return self._launches("attention_backward", arguments)

    def _launches(self, kernel: str, arguments: dict[str, Any]) -> list[Launch]:
        launches = []
        for part in self.plan.classes:
            items, num_warps = self.configs[part.size]
            # All heads of a token, or as many as a power of 2 divides them into.
            items = math.gcd(items, self.heads)
            sizes = {"first": part.first, "S": part.size, "ITEMS": items}
            given = {**self.arguments, **arguments, **sizes}
            programs = part.count * (self.heads // items)
            launches.append(Launch(kernel, programs, num_warps, given))
        return launches


def _unpack(tensors: Tensors) -> Tensors:
    """Query, key, value, bias; the first may be one ``[N, 3, H, d]``, as projected."""
    if len(tensors) == 4:
        return tensors
    packed, bias = tensors
    parts = (None, None, None) if packed is None else packed.unbind(1)
    return (*parts, bias)


def _formulas(pool: bool) -> autograd.OperatorDefinition:
    return dense.POOL if pool else dense.ATTEND


def _forward(
    tensors: Tensors, context: OperatorContext, pool: bool
) -> tuple[Tensor, ...]:
    tensors = _unpack(tensors)
    outputs = _formulas(pool).shapes(tensors, context)
    if outputs[-1].numel() == 0:
        return tuple(out.zero_() for out in outputs)
    call = KernelCall(tensors, context, pool)
    if pool and call.plan.num_empty > 0:
        outputs[0].zero_()
    for launch in call.forward(*outputs):
        launch.submit(context.perm.device)
    large = call.plan.large
    if large is not None:
        found = _formulas(pool).forward(large.inputs(tensors), large.context)
        for out, part, rows in zip(outputs, found, large.outputs(pool), strict=True):
            out[rows] = part
    return outputs


def _backward(
    tensors: Tensors,
    context: OperatorContext,
    outputs: Tensors,
    needed: Needed,
    pool: bool,
) -> Gradients:
    found = autograd.empty_gradients(tensors, needed)
    query, key, value, bias = _unpack(found)
    outputs = [None if grad is None else grad.contiguous() for grad in outputs]
    if value is not None and outputs[0] is None:
        # Only the atom weights were used, which do not depend on values.
        value.zero_()
        value = None
    wanted = (query, key, value, bias)
    if context.num_atoms == 0 or all(part is None for part in wanted):
        return found
    tensors = _unpack(tensors)
    call = KernelCall(tensors, context, pool)
    by_head = value
    if value is not None and value.size(1) != call.heads:
        shape = (value.size(0), call.heads, value.size(2))
        by_head = value.new_empty(shape, dtype=torch.float32)
    for launch in call.backward(outputs, (query, key, by_head, bias)):
        launch.submit(context.perm.device)
    if by_head is not value:
        value.copy_(by_head.sum(1, keepdim=True))
    large = call.plan.large
    if large is not None:
        rows = zip(outputs, large.outputs(pool), strict=True)
        grads = [None if grad is None else take(grad, places) for grad, places in rows]
        asked = [part is not None for part in wanted]
        given = large.inputs(tensors), large.context, grads, asked
        gradients = _formulas(pool).backward(*given)
        for part, gradient in zip(wanted, gradients, strict=True):
            if part is not None and gradient is not None:
                part[large.pairs() if part is bias else large.atoms] = gradient
    return found


def _flops(
    tensors: Tensors, pairs: int, outputs: Tensors = (), needed: Optional[Needed] = None
) -> int:
    if needed is not None and len(needed) == 2:
        needed = (*[needed[0]] * 3, needed[1])
    return attention_flops(_unpack(tensors), pairs, outputs, needed)


def _define(name: str, arguments: str, pool: bool) -> Callable[..., tuple[Tensor, ...]]:
    """An operator of query, key, value and bias, or of one tensor and bias."""
    definition = autograd.OperatorDefinition(
        partial(_forward, pool=pool),
        partial(_backward, pool=pool),
        lambda tensors, context: _formulas(pool).shapes(_unpack(tensors), context),
        _flops,
        lambda tensors, context: _formulas(pool).forward(_unpack(tensors), context),
    )
    return autograd.define_operator(name, arguments, 2 if pool else 1, definition)


attend = _define("attend_triton", dense.ARGUMENTS, False)
pool = _define("attend_pool_triton", dense.ARGUMENTS, True)
pool_packed = _define("attend_pool_packed_triton", "Tensor packed, Tensor? bias", True)
