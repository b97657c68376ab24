"""What operators get beside tensors: an order of atoms, its plans, and dropout."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Optional, TypeVar, Union

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pyg_atomenc.attention import tracing
from pyg_atomenc.attention.layouts.edge import EdgeLayout
from pyg_atomenc.attention.layouts.token import TokenLayout
from pyg_atomenc.attention.ragged import pointers
from pyg_atomenc.checks import check_rows

T = TypeVar("T")
# By a schema: each a tensor, or None where that may be left out.
Tensors = Sequence[Any]
Needed = Sequence[bool]
Gradients = list[Optional[Tensor]]


class _Planned(NamedTuple):
    host_ptr: Tensor
    versions: tuple[int, ...]
    plans: dict[Any, Any]


# The plans of a layout, known by the order of its atoms, for as long as that lives.
_PLANNED = WeakTensorKeyDictionary()


class OperatorContext(NamedTuple):
    """What an operator gets beside the tensors that it is differentiated by."""

    perm: Tensor  # the atoms sorted by token [N], or edges by target
    ptr: Tensor  # where each token's atoms start in `perm` [T + 1]
    host_ptr: Tensor  # the same, on the CPU
    dropout: float
    seed: Optional[Tensor]  # of the dropout [1], on the CPU
    source: Optional[Tensor] = None  # of every edge, for which there are no tokens
    weights: bool = True  # whether those of the atoms are asked for

    @staticmethod
    def from_layout(
        layout: Union[TokenLayout, EdgeLayout], dropout: float, weights: bool = True
    ) -> "OperatorContext":
        """The context of a layout; draws the seed of this call's dropout.

        The seed comes from torch's CPU generator, so that `torch.manual_seed` and
        activation checkpointing govern it; forward and backward draw from it alike.
        """
        seed = None
        if dropout > 0:
            seed = tracing.draw(lambda: torch.randint(2**62, (1,), device="cpu"))
        if isinstance(layout, EdgeLayout):
            perm, ptr, host = layout.by_target()
            source = layout.edge_index[0]
        else:
            perm, ptr, host, source = layout.perm, layout.ptr, layout.host_ptr, None
        # Whoever moved all tensors of a layout moved this one, too.
        host = host if host.device.type in ("cpu", "meta") else host.cpu()
        if torch._C._are_functorch_transforms_active():
            index = perm, ptr, host
            perm, ptr, host = (tracing.unwrapped("layout", t) for t in index)
            source = None if source is None else tracing.unwrapped("layout", source)
        return OperatorContext(perm, ptr, host, dropout, seed, source, weights)

    @property
    def num_tokens(self) -> int:
        """Empty ones included."""
        return self.ptr.size(0) - 1

    @property
    def num_atoms(self) -> int:
        """Or of edges."""
        return self.perm.size(0)

    @property
    def num_pairs(self) -> int:
        """The pairs inside tokens; as if all had one size, where sizes are unknown."""
        if self.source is not None:
            return self.perm.size(0)
        if tracing.is_readable(self.host_ptr):
            return int(self.host_ptr.diff().square().sum())
        return self.num_atoms**2 // max(self.num_tokens, 1)

    def pair_ptr(self, bias: Tensor) -> Tensor:
        """The first edge of every token in ``to_edge_index()`` ``[T + 1]``.

        Raises a ValueError unless the bias has one row for every edge.
        """
        pairs = int(self.host_ptr.diff().square().sum())
        mend = "give it one row for every edge of layout.to_edge_index()."
        check_rows("bias", bias, pairs, "pairs of atoms", mend)
        return pointers(self.ptr.diff() ** 2)

    def dropout_mask(self) -> Callable[[Tensor], Optional[Tensor]]:
        """What makes of attention weights the factors of dropout, 0 or 1 / (1 - p).

        They are the same in every pass that starts anew.
        """
        if self.seed is None:
            return lambda alpha: None
        keep = 1.0 - self.dropout
        generator = None
        # A `vmap` with randomness="different" draws a seed, and more, for every entry.
        if not tracing.is_batched(self.seed):
            generator = torch.Generator(self.perm.device).manual_seed(int(self.seed))

        def factors(alpha: Tensor) -> Tensor:
            like: Any = {"device": alpha.device, "dtype": torch.float32}
            with tracing.outside_of_transforms() if generator else nullcontext():
                drawn = torch.rand(alpha.shape, generator=generator, **like)
            return (drawn < keep).to(alpha.dtype) / keep

        return factors

    def plan_once(self, key: Any, make: Callable[[], T]) -> T:
        """The plan ``key`` that ``make`` gives, once for a layout that nobody edits."""
        perm, host = self.perm, self.host_ptr
        versions = tuple(0 if t.is_inference() else t._version for t in (perm, host))
        found = _PLANNED.get(perm)
        if found is None or found.host_ptr is not host or found.versions != versions:
            found = _PLANNED[perm] = _Planned(host, versions, {})
        if key not in found.plans:
            # What inference mode or a transform makes could not be used after it.
            transformed = torch._C._are_functorch_transforms_active()
            apart = tracing.outside_of_transforms() if transformed else nullcontext()
            with apart, torch.inference_mode(False):
                found.plans[key] = make()
        return found.plans[key]
