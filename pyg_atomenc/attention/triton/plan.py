"""Which kernels take which tokens; all of it is known without waiting for a device."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pyg_atomenc.attention.autograd import OperatorContext


@dataclass(frozen=True)
class Span:
    """Tokens that are padded to one size.

    Attributes:
        size (int): The size.
        first (int): The place of the first one in ``token_order``.
        count (int): How many they are.
    """

    size: int
    first: int
    count: int


@dataclass(frozen=True, eq=False)
class Tiles:
    """The larger tokens, cut into tiles.

    Attributes:
        token (Tensor): The token of every tile.
        first (Tensor): The first tile of that token.
        size (int): Atoms a tile.
    """

    token: Tensor
    first: Tensor
    size: int

    @property
    def count(self) -> int:
        """The number of tiles."""
        return self.token.size(0)

    @property
    def rows(self) -> int:
        """The number of rows that tiles have."""
        return self.count * self.size


@dataclass(frozen=True, eq=False)
class TritonPlan:
    """Which tokens one program attends in whole, and the tiles of the others.

    Attributes:
        token_order (Tensor): The tokens sorted by size ``[T]``, int64.
        spans (list): Those of up to each size, empty ones among the first.
        tiles (Tiles, optional): Those that are in no span.
    """

    token_order: Tensor
    spans: list[Span]
    tiles: Optional[Tiles]


# The plans of a layout, known by its pointers, for as long as these live.
_PLANS = WeakTensorKeyDictionary()


def plan_of(context: OperatorContext, sizes: tuple[int, ...], tile: int) -> TritonPlan:
    """The plan of a layout, made once for every way to cut it.

    Args:
        context (OperatorContext): The layout's tensors.
        sizes (tuple): The sizes that small tokens are padded to.
        tile (int): Atoms of a larger token's tile.
    """
    plans = _PLANS.setdefault(context.ptr, {})
    if (sizes, tile) not in plans:
        with torch.inference_mode(False):
            plans[sizes, tile] = make_plan(context, sizes, tile)
    return plans[sizes, tile]


def make_plan(
    context: OperatorContext, sizes: tuple[int, ...], tile: int
) -> TritonPlan:
    """See :func:`plan_of`."""
    device = context.perm.device
    counts = context.ptr_cpu.diff()
    order = counts.argsort(stable=True)
    counts = counts[order]
    limits = torch.tensor(sizes, device="cpu")
    ends = torch.searchsorted(counts, limits, right=True).tolist()
    spans = [
        Span(size, first, end - first)
        for size, first, end in zip(sizes, [0, *ends[:-1]], ends, strict=True)
        if end > first
    ]
    token_order = order.to(device, non_blocking=True)
    if ends[-1] == len(order):
        return TritonPlan(token_order, spans, None)
    token, counts = order[ends[-1] :], (counts[ends[-1] :] + tile - 1) // tile
    first = counts.cumsum(0) - counts
    tiles = Tiles(
        token.repeat_interleave(counts).to(device, non_blocking=True),
        first.repeat_interleave(counts).to(device, non_blocking=True),
        tile,
    )
    return TritonPlan(token_order, spans, tiles)
