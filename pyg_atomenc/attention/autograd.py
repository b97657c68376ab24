"""Operators over token layouts that are differentiable twice and opaque to tracing.

Loops over chunks depend on the token sizes, which a compiled graph does not know;
inside a `torch.library.custom_op` they may. Such an operator needs a backward formula
of its own. Where that is not enough (second derivatives, vmap, torch.func, tangents),
autograd follows the forward formula, written in torch operations.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from pyg_atomenc.attention.context import Gradients, Needed, OperatorContext, Tensors
from pyg_atomenc.attention.layouts.token import NOT_RECORDED
from pyg_atomenc.attention.tracing import vmap_depth

_INDICES = "Tensor perm, Tensor ptr, Tensor host_ptr"
# Which torch 2.6 has not: there nothing is kept.
_TOP_HOOKS = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
_CONTEXT = f"{_INDICES}, float dropout, Tensor? seed, Tensor? source, bool weights"
_TENSORS = (Tensor, torch.nn.Parameter)

Forward = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class OperatorDefinition:
    """The functions that make an operator, each of ``(tensors, context, …)``."""

    forward: Forward  # gives a tuple of outputs
    # Also gets the output gradients, None where nobody used the output, and `needed`;
    # gives one gradient per tensor, None where it is not needed.
    backward: Callable[..., Gradients]
    shapes: Forward  # gives a tuple of empty outputs
    # Gets the pairs inside tokens for the context; see `flops.py`.
    flops: Callable[..., int]
    # `forward` in torch operators, with any number of derivatives, if it is not that.
    reference: Optional[Forward] = None
    # Whether both passes also take a list, where the one puts what the other may find.
    keeps: bool = False


def empty_gradients(tensors: Tensors, needed: Needed) -> Gradients:
    """Room for the gradients of ``tensors`` that are needed."""
    return [
        torch.empty_like(t, memory_format=torch.contiguous_format)
        if t is not None and need
        else None
        for t, need in zip(tensors, needed, strict=True)
    ]


def define_operator(
    name: str, arguments: str, num_outputs: int, definition: OperatorDefinition
) -> Callable[..., tuple[Tensor, ...]]:
    """Register an operator and its backward pass, and return how to call it.

    By its name in ``torch.ops.pyg_atomenc``, the tensors it is differentiated by, as in
    a schema (``"Tensor query, Tensor? bias"``), and the number of its outputs, all
    tensors. It is called by ``operator(*tensors, context)``, and gives a tuple.
    """
    count = arguments.count(",") + 1
    end = count + num_outputs
    reference = definition.reference or definition.forward
    grads = ", ".join(f"Tensor? grad_{i}" for i in range(num_outputs))

    # What `definition` takes, from an operator's arguments as they come.
    def split(values: Sequence[Any]) -> tuple[Any, ...]:
        if len(values) == count + len(OperatorContext._fields):
            return values[:count], OperatorContext(*values[count:])
        context = OperatorContext(*values[end:-1])
        return values[:count], context, values[count:end], values[-1]

    # An operator's only output is no tuple, and its schema writes it without brackets.
    # It returns no None: a missing gradient is an empty tensor. All lie row by row.
    def one_or_all(found: Sequence[Any], context: OperatorContext) -> Any:
        empty = context.perm.new_empty
        found = [empty(0, dtype=torch.float32) if g is None else g for g in found]
        found = [grad.contiguous() for grad in found]
        return found[0] if len(found) == 1 else tuple(found)

    def register(
        name: str, schema: str, run: Any, shapes: Any, derivative: Callable[..., Any]
    ) -> Any:
        def compute(*values: Any) -> Any:
            given = split(values)
            with without_autocast(given[1].perm.device):
                return one_or_all(run(*given), given[1])

        def fake(*values: Any) -> Any:
            given = split(values)
            return one_or_all(shapes(*given), given[1])

        def count_flops(*values: Any, out_val: Any = None) -> int:
            tensors, context, *backward = split(values)
            return definition.flops(tensors, context.num_pairs, *backward)

        options: Any = {"schema": schema, "mutates_args": (), **NOT_RECORDED}
        op = torch.library.custom_op(f"pyg_atomenc::{name}", compute, **options)
        op.register_fake(fake)
        op.register_autograd(derivative, setup_context=_remember)
        packet = getattr(torch.ops.pyg_atomenc, name)
        register_flop_formula(packet, get_raw=True)(count_flops)
        return op

    def first_derivative(ctx: Any, *outputs: Optional[Tensor]) -> tuple[Any, ...]:
        tensors, context = split(_restore(ctx))
        needed = [bool(need) for need in ctx.needs_input_grad[:count]]
        found: Sequence[Any] = [None] * count
        if needs_reference(outputs):
            found = _pull_back(reference, tensors, outputs, context, needed)
        elif any(grad is not None for grad in outputs):
            if torch.is_grad_enabled() or not is_plain((*tensors, *outputs)):
                found = backward_op(*tensors, *outputs, *context, needed)
            else:
                more = (ctx.kept,) if definition.keeps else ()
                given = tensors, context, outputs, needed, *more
                found = run_named(f"{name}_backward", definition.backward, *given)
            found = [g if need else None for g, need in zip(found, needed, strict=True)]
        return (*found, *[None] * len(context))

    def second_derivative(ctx: Any, *outputs: Optional[Tensor]) -> tuple[Any, ...]:
        tensors, context, grads, needed = split(_restore(ctx))

        def gradients(values: Tensors, context: OperatorContext) -> Gradients:
            pulled = values[:count], values[count:]
            return _pull_back(reference, *pulled, context, needed)

        wanted, values = ctx.needs_input_grad[:end], (*tensors, *grads)
        found = _pull_back(gradients, values, outputs, context, wanted)
        return (*found, *[None] * len(context), None)

    one, many = (", ".join(["Tensor"] * number) for number in (num_outputs, count))
    forward_op = register(
        name,
        f"({arguments}, {_CONTEXT}) -> " + (one if num_outputs == 1 else f"({one})"),
        definition.forward,
        definition.shapes,
        first_derivative,
    )
    backward_op = register(
        f"{name}_backward",
        f"({arguments}, {grads}, {_CONTEXT}, bool[] needed) -> ({many})",
        definition.backward,
        lambda tensors, _, grads, needed: empty_gradients(tensors, needed),
        second_derivative,
    )

    def vectorize(info: Any, in_dims: Sequence[Any], *values: Any) -> Any:
        tensors, context = split(values)
        mapped = torch.vmap(
            lambda *tensors: one_or_all(reference(tensors, context), context),
            tuple(in_dims[:count]),
            randomness=info.randomness,
        )
        return mapped(*tensors), 0 if num_outputs == 1 else (0,) * num_outputs

    forward_op.register_vmap(vectorize)

    class Direct(torch.autograd.Function):
        """The operator without a dispatcher around it, which takes its time."""

        @staticmethod
        def forward(ctx: Any, *values: Any) -> tuple[Tensor, ...]:
            _remember(ctx, values, None)
            tensors, context = split(values)
            # Hooks on what is saved, as of checkpoints, would not see what is kept.
            hooks = _TOP_HOOKS is None or _TOP_HOOKS(False)
            keeps = definition.keeps and any(ctx.needs_input_grad) and not hooks
            kept = [ctx.kept] if keeps else []
            outputs = run_named(name, definition.forward, tensors, context, *kept)
            # Views among several outputs could not be edited.
            return tuple(out.clone() if out._is_view() else out for out in outputs)

        backward = staticmethod(first_derivative)

    def call(*values: Any) -> tuple[Tensor, ...]:
        tensors, context = values[:-1], values[-1]
        if needs_reference(tensors):
            with without_autocast(context.perm.device):
                return reference(tensors, context)
        if is_plain((*tensors, context.perm)):
            if torch.is_grad_enabled():
                return Direct.apply(*tensors, *context)
            return run_named(name, definition.forward, tensors, context)
        outputs = forward_op(*tensors, *context)
        return (outputs,) if num_outputs == 1 else outputs

    return call


def needs_reference(tensors: Tensors) -> bool:
    """Whether autograd has to follow the forward formula, rather than an operator's.

    So it is under torch.func's transforms, which know no operator's gradient, and where
    tangents are carried along; never while tracing, and never because of a size.
    """
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return False
    # Outside of a level, which is nearly always, unpacking would cost more than this.
    if forward_ad._current_level < 0:
        return False
    return any(
        t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors
    )


def is_plain(tensors: Tensors) -> bool:
    """Whether nobody but autograd looks on: no trace, mode, or kind of its own."""
    watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    if watched or vmap_depth() > 0:
        return False
    return all([t is None or (type(t) in _TENSORS and not t.is_meta) for t in tensors])


def run_named(name: str, run: Any, tensors: Any, context: Any, *more: Any) -> Any:
    """What an operator computes: types as it chooses, and a name for a profiler."""
    device, profiled = context.perm.device, torch.autograd.profiler._is_profiler_enabled
    if not profiled and not is_autocast_enabled(device):
        return run(tensors, context, *more)
    recorded = torch.profiler.record_function(f"pyg_atomenc::{name}")
    with without_autocast(device), recorded:
        return run(tensors, context, *more)


def is_autocast_enabled(device: torch.device) -> bool:
    """Whether autocast chooses types, which the meta device knows nothing of."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """What runs inside chooses its types itself."""
    if is_autocast_enabled(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _remember(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    # An output that nobody used gets no gradient, rather than zeros.
    ctx.set_materialize_grads(False)
    ctx.kept = []
    ctx.save_for_backward(*[v if isinstance(v, Tensor) else None for v in inputs])
    ctx.others = [None if isinstance(v, Tensor) else v for v in inputs]


def _restore(ctx: Any) -> list[Any]:
    saved = zip(ctx.saved_tensors, ctx.others, strict=True)
    return [other if tensor is None else tensor for tensor, other in saved]


def _pull_back(
    forward: Callable[[Tensors, OperatorContext], Sequence[Any]],
    inputs: Tensors,
    grads: Tensors,
    context: OperatorContext,
    needed: Needed,
) -> Gradients:
    """The gradients of ``forward``, followed once more as far as gradients are on."""
    places = [i for i, need in enumerate(needed) if need and inputs[i] is not None]
    used = [i for i, grad in enumerate(grads) if grad is not None]

    def run(*values: Tensor) -> tuple[Any, ...]:
        given = list(inputs)
        for place, value in zip(places, values, strict=True):
            given[place] = value
        outputs = forward(given, context)
        return tuple(outputs[i] for i in used)

    found: Gradients = [None] * len(inputs)
    if not places or not used:
        return found
    values, given = [inputs[i] for i in places], tuple(grads[i] for i in used)
    with without_autocast(context.perm.device):
        if needs_reference(given):
            pulled = torch.func.vjp(run, *values)[1](given)
        else:
            pulled = _gradients(run, values, given)
    for place, grad in zip(places, pulled, strict=True):
        found[place] = grad
    return found


def _gradients(run: Callable[..., Tensors], values: Tensors, grads: Tensors) -> Tensors:
    """By autograd, which outside of transforms takes less time than torch.func."""
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views that cut the graph here, and stay connected for further derivatives.
        values = [
            t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in values
        ]
        # With no atoms, or the frozen weights of an output, there is nothing to follow.
        pairs = [
            (out, grad)
            for out, grad in zip(run(*values), grads, strict=True)
            if out is not None and out.requires_grad
        ]
        if not pairs:
            return [None] * len(values)
        outputs, given = zip(*pairs, strict=True)
        options: Any = {"create_graph": keep_graph, "allow_unused": True}
        return torch.autograd.grad(outputs, values, given, **options)
