"""Which tokens the kernels take, and which the dense formulas, by sizes on the CPU."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.context import OperatorContext, Tensors
from pyg_atomenc.attention.ragged import pointers, ranges, take


@dataclass(frozen=True)
class SizeClass:
    """Tokens that are padded to one size."""

    size: int
    first: int  # the place of the first one in ``token_order``
    count: int


@dataclass(frozen=True, eq=False)
class LargeTokens:
    """The tokens that are larger than the largest size class."""

    tokens: Tensor  # in rising order [L], int64
    atoms: Tensor  # token by token [M], int64
    first_pair: Tensor  # the first edge of each in to_edge_index() [L]
    num_pairs: int
    context: OperatorContext  # they alone, their atoms counted as in `atoms`

    def pairs(self) -> Tensor:
        """Their edges among those of ``to_edge_index()``, in order."""
        return ranges(self.first_pair, self.context.ptr.diff() ** 2, self.num_pairs)

    def inputs(self, tensors: Tensors) -> Tensors:
        """Their query, key, value and bias."""
        *rows, bias = tensors
        found = [None if part is None else take(part, self.atoms) for part in rows]
        return [*found, None if bias is None else take(bias, self.pairs())]

    def outputs(self, pool: bool) -> list[Tensor]:
        """Which rows of every output are theirs."""
        return [self.tokens, self.atoms] if pool else [self.atoms]


@dataclass(frozen=True, eq=False)
class TritonPlan:
    """Which tokens, by size ``[T]``, the kernels pad to which size, and the others."""

    token_order: Tensor
    num_empty: int  # tokens without atoms, the first in that order
    classes: list[SizeClass]
    large: Optional[LargeTokens]


def plan_of(context: OperatorContext, sizes: tuple[int, ...]) -> TritonPlan:
    """A layout's plan for padding to ``sizes``, which rise; made once for each."""
    return context.plan_once(("triton", sizes), lambda: _make_plan(context, sizes))


def _make_plan(context: OperatorContext, sizes: tuple[int, ...]) -> TritonPlan:
    counts, order = context.host_ptr.diff().sort(stable=True)
    limits = torch.tensor([0, *sizes], device="cpu")
    ends = torch.searchsorted(counts, limits, right=True).tolist()
    spans = zip(sizes, pairwise(ends), strict=True)
    classes = [SizeClass(size, a, b - a) for size, (a, b) in spans if b > a]
    large = order[ends[-1] :].sort().values
    tokens = _large_tokens(context, large) if large.numel() else None
    order = order.to(context.perm.device, non_blocking=True)
    return TritonPlan(order, ends[0], classes, tokens)


def _large_tokens(context: OperatorContext, tokens: Tensor) -> LargeTokens:
    device = context.perm.device
    sizes = context.host_ptr.diff()
    first_pair = pointers(sizes**2)[tokens]
    sizes = sizes[tokens]
    num_pairs, host_ptr = int(sizes.square().sum()), pointers(sizes)
    places = ranges(context.host_ptr[tokens], sizes)
    given = tokens, places, first_pair, host_ptr
    tokens, places, first_pair, ptr = (x.to(device, non_blocking=True) for x in given)
    perm = torch.arange(places.numel(), device=device)
    own = OperatorContext(perm, ptr, host_ptr, 0.0, None)
    return LargeTokens(tokens, context.perm[places], first_pair, num_pairs, own)
