"""Operators over token layouts that are differentiable twice and opaque to tracing.

Loops over chunks depend on the token sizes, which a compiled graph does not know;
inside a `torch.library.custom_op` they may. Such an operator needs a backward formula
of its own. The second derivative is left to autograd, over the plain forward function.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pyg_atomenc.attention.dense.chunks import Chunk, iterate_chunks
from pyg_atomenc.attention.layouts.token import TokenLayout
from pyg_atomenc.errors import AtomEncodingError

Tensors = Sequence[Optional[Tensor]]
# Attention weights → the factors that dropout multiplies them by, or None.
Thinning = Callable[[Tensor], Optional[Tensor]]

_TAIL = (
    "Tensor perm, Tensor ptr, Tensor order, Tensor token_order, Tensor plan, "
    "float dropout, Tensor? seed"
)
_TAIL_LENGTH = 7

# Up to so many atoms, what an operator costs in Python is more than what it saves.
SMALL = 256


@dataclass(frozen=True, eq=False)
class Setting:
    """What an operator gets beside the tensors that it is differentiated by."""

    perm: Tensor
    ptr: Tensor
    order: Tensor
    token_order: Tensor
    plan: Tensor
    dropout: float
    seed: Optional[Tensor]

    @staticmethod
    def from_layout(layout: TokenLayout, dropout: float) -> "Setting":
        """The setting of a layout; draws the seed of this call's dropout.

        The seed comes from torch's CPU generator, so that `torch.manual_seed` and
        activation checkpointing govern it; forward and backward draw from it alike.
        """
        seed = torch.randint(2**62, (1,), device="cpu") if dropout > 0 else None
        plan = layout.plan
        if plan.device.type != "cpu":
            # Whoever moved all tensors of a layout moved this one, too.
            plan = plan.cpu()
        return Setting(
            layout.perm,
            layout.ptr,
            layout.order,
            layout.token_order,
            plan,
            dropout,
            seed,
        )

    def flat(self) -> tuple[Any, ...]:
        """The values in the order of the operator's schema."""
        return (
            self.perm,
            self.ptr,
            self.order,
            self.token_order,
            self.plan,
            self.dropout,
            self.seed,
        )

    @property
    def num_tokens(self) -> int:
        """The number of tokens, empty ones included."""
        return self.token_order.size(0)

    @property
    def num_atoms(self) -> int:
        """The number of atoms."""
        return self.order.size(0)

    def chunks(self) -> Iterator[Chunk]:
        """The chunks of the layout's plan."""
        return iterate_chunks(self.ptr, self.order, self.token_order, self.plan)

    def pair_ptr(self) -> Tensor:
        """The first edge of every token in ``to_edge_index()`` ``[T + 1]``."""
        pairs = self.ptr.diff() ** 2
        return torch.cat([pairs.new_zeros(1), pairs.cumsum(0)])

    def thinning(self) -> Thinning:
        """Makes the factors of dropout, the same in every pass that starts anew."""
        if self.seed is None:
            return lambda alpha: None
        generator = torch.Generator(self.order.device).manual_seed(int(self.seed))
        keep = 1.0 - self.dropout

        def factors(alpha: Tensor) -> Tensor:
            draw = torch.rand(
                alpha.shape,
                generator=generator,
                device=alpha.device,
                dtype=torch.float32,
            )
            return (draw < keep).to(alpha.dtype) / keep

        return factors


@dataclass(frozen=True)
class Formulas:
    """The functions that make an operator.

    Attributes:
        forward: ``(tensors, setting)`` → tuple of outputs.
        backward: ``(tensors, setting, output gradients, needed)`` → one gradient per
            tensor, ``None`` where it is not needed. An output gradient is ``None``
            where nobody used the output.
        shapes: ``(tensors, setting)`` → tuple of empty outputs.
        reference: ``forward`` in torch operators, which are differentiable any number
            of times when gradients are enabled; ``None`` where ``forward`` is that
            itself. (default: ``None``)
    """

    forward: Callable[[Tensors, Setting], tuple[Tensor, ...]]
    backward: Callable[
        [Tensors, Setting, Tensors, Sequence[bool]], list[Optional[Tensor]]
    ]
    shapes: Callable[[Tensors, Setting], tuple[Tensor, ...]]
    reference: Optional[Callable[[Tensors, Setting], tuple[Tensor, ...]]] = None


def define_operator(
    name: str, arguments: Sequence[str], num_outputs: int, formulas: Formulas
) -> Callable[..., tuple[Tensor, ...]]:
    """Register an operator and its backward pass, and return how to call it.

    Args:
        name (str): Its name in ``torch.ops.pyg_atomenc``.
        arguments (list[str]): The tensors it is differentiated by, as schema entries:
            ``"Tensor query"``, ``"Tensor? bias"``.
        num_outputs (int): The number of its outputs, all tensors.
        formulas (Formulas): What it computes.

    Returns:
        Callable: ``operator(*tensors, setting)`` → tuple of outputs.
    """
    count = len(arguments)
    reference = formulas.reference or formulas.forward
    inputs = ", ".join(arguments)
    grads = ", ".join(f"Tensor? grad_{i}" for i in range(num_outputs))

    def returns(number: int) -> str:
        return "Tensor" if number == 1 else f"({', '.join(['Tensor'] * number)})"

    # An operator's only output is no tuple, and its schema writes it without brackets.
    def one_or_all(outputs: tuple[Tensor, ...]) -> Any:
        return outputs[0] if num_outputs == 1 else outputs

    def run(*values: Any) -> Any:
        setting = Setting(*values[count:])
        with without_autocast(setting.order.device):
            return one_or_all(formulas.forward(values[:count], setting))

    def run_backward(*values: Any) -> tuple[Tensor, ...]:
        tensors, outputs, setting, needed = _split(values, count, num_outputs)
        with without_autocast(setting.order.device):
            found = formulas.backward(tensors, setting, outputs, needed)
        # An operator returns no None: a missing gradient is an empty tensor.
        return tuple(_none_to_empty(g, setting.order) for g in found)

    def fake(*values: Any) -> Any:
        return one_or_all(formulas.shapes(values[:count], Setting(*values[count:])))

    def fake_backward(*values: Any) -> tuple[Tensor, ...]:
        tensors, _, setting, needed = _split(values, count, num_outputs)
        return tuple(
            torch.empty_like(t, memory_format=torch.contiguous_format)
            if t is not None and need
            else _none_to_empty(None, setting.order)
            for t, need in zip(tensors, needed, strict=True)
        )

    forward_op = torch.library.custom_op(
        f"pyg_atomenc::{name}",
        run,
        mutates_args=(),
        schema=f"({inputs}, {_TAIL}) -> {returns(num_outputs)}",
    )
    backward_op = torch.library.custom_op(
        f"pyg_atomenc::{name}_backward",
        run_backward,
        mutates_args=(),
        schema=f"({inputs}, {grads}, {_TAIL}, bool[] needed) -> {returns(count)}",
    )
    forward_op.register_fake(fake)
    backward_op.register_fake(fake_backward)

    def first_derivative(ctx: Any, *outputs: Optional[Tensor]) -> tuple[Any, ...]:
        if all(grad is None for grad in outputs):
            return (None,) * (count + _TAIL_LENGTH)
        values = _restore(ctx)
        needed = [bool(need) for need in ctx.needs_input_grad[:count]]
        found = backward_op(*values[:count], *outputs, *values[count:], needed)
        found = [g if need else None for g, need in zip(found, needed, strict=True)]
        return (*found, *[None] * _TAIL_LENGTH)

    def second_derivative(ctx: Any, *outputs: Optional[Tensor]) -> tuple[Any, ...]:
        tensors, grad, setting, needed = _split(_restore(ctx), count, num_outputs)
        with without_autocast(setting.order.device):
            found = _second_derivative(
                reference, tensors, grad, setting, needed, outputs
            )
        return (*found, *[None] * (_TAIL_LENGTH + 1))

    forward_op.register_autograd(first_derivative, setup_context=_remember)
    backward_op.register_autograd(second_derivative, setup_context=_remember)
    for op in (forward_op, backward_op):
        op.register_vmap(_refuse_vmap)

    def call(*values: Any) -> tuple[Tensor, ...]:
        tensors, setting = values[:-1], values[-1]
        # A kernel is never replaced because its input is small.
        small = SMALL if formulas.reference is None else 0
        if _runs_plainly(tensors, setting, small):
            with without_autocast(setting.order.device):
                return reference(tensors, setting)
        outputs = forward_op(*tensors, *setting.flat())
        return (outputs,) if num_outputs == 1 else outputs

    return call


def _runs_plainly(tensors: Tensors, setting: Setting, small: int) -> bool:
    """Whether to let autograd follow the forward formula, rather than call an operator.

    That is cheaper for up to ``small`` atoms, and the only way under torch.func's
    transforms, which know no operator's gradient. Tracing always sees the operator, and
    vmap, so that it can say what to do instead. Nor do operators carry tangents along.
    """
    if torch.compiler.is_compiling() or type(setting.plan) is not Tensor:
        return False
    if torch._C._are_functorch_transforms_active():
        batched = torch._C._functorch.is_batchedtensor
        return not any(t is not None and batched(t) for t in tensors)
    if any(t is not None and _has_tangent(t) for t in tensors):
        return True
    # Looked at last: a trace would take the size for a promise.
    return 0 < setting.num_atoms <= small


def _has_tangent(tensor: Tensor) -> bool:
    """Whether a tensor carries a gradient of forward-mode differentiation."""
    # Outside of a level, which is nearly always, unpacking would cost more than this.
    if forward_ad._current_level < 0:
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """What runs inside chooses its types itself."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _split(
    values: Sequence[Any], count: int, num_outputs: int
) -> tuple[Tensors, Tensors, Setting, Sequence[bool]]:
    end = count + num_outputs
    return values[:count], values[count:end], Setting(*values[end:-1]), values[-1]


def _none_to_empty(value: Optional[Tensor], like: Tensor) -> Tensor:
    return like.new_empty(0, dtype=torch.float32) if value is None else value


def _remember(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    # An output that nobody used gets no gradient, rather than zeros.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*[v for v in inputs if isinstance(v, Tensor)])
    ctx.others = [None if isinstance(v, Tensor) else (v,) for v in inputs]


def _restore(ctx: Any) -> list[Any]:
    saved = iter(ctx.saved_tensors)
    return [next(saved) if other is None else other[0] for other in ctx.others]


def _second_derivative(
    forward: Callable[[Tensors, Setting], tuple[Tensor, ...]],
    tensors: Tensors,
    grad: Tensors,
    setting: Setting,
    needed: Sequence[bool],
    outputs: Tensors,
) -> list[Optional[Tensor]]:
    """Autograd through the gradient of ``forward``, which it computes again."""
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Fresh views cut the graph here, and stay connected for third derivatives.
        inputs = [t if t is None else _with_grad(t) for t in tensors]
        grad = [g if g is None else _with_grad(g) for g in grad]
        leaves = [t for t in (*inputs, *grad) if t is not None]
        # With no atoms, or the frozen weights of an output, there is nothing to follow.
        first = [
            (out, g)
            for out, g in zip(forward(inputs, setting), grad, strict=True)
            if g is not None and out.requires_grad
        ]
        used = [i for i, t in enumerate(inputs) if needed[i] and t is not None]
        found = _gradients(first, [inputs[i] for i in used], True)
        second = [
            (g, out)
            for g, out in zip(found, [outputs[i] for i in used], strict=True)
            if g is not None and g.requires_grad and out is not None
        ]
        values = iter(_gradients(second, leaves, keep_graph))
    return [None if t is None else next(values) for t in (*inputs, *grad)]


def _gradients(
    pairs: Sequence[tuple[Tensor, Tensor]],
    inputs: Tensors,
    create_graph: bool,
) -> Sequence[Optional[Tensor]]:
    if not pairs:
        return [None] * len(inputs)
    return torch.autograd.grad(
        [out for out, _ in pairs],
        [t for t in inputs if t is not None],
        [g for _, g in pairs],
        create_graph=create_graph,
        allow_unused=True,
    )


def _with_grad(tensor: Tensor) -> Tensor:
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.requires_grad_()


def _refuse_vmap(*_: Any) -> Any:
    raise AtomEncodingError(
        "torch.vmap over token attention is not supported: put the copies into one "
        "batch instead, as further atoms with token ids of their own."
    )
