"""Which kernels take which tokens; all of it is known without waiting for a device."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.autograd import Setting


@dataclass(frozen=True)
class Span:
    """Tokens that are padded to one size.

    Attributes:
        size (int): The size.
        first (int): The place of the first one in ``token_order``.
        count (int): How many they are.
        least (int): Those of fewer atoms are left to other spans.
    """

    size: int
    first: int
    count: int
    least: int


@dataclass(frozen=True, eq=False)
class Tiles:
    """The larger tokens, cut into tiles.

    Attributes:
        token (Tensor): The token of every tile, -1 past the last.
        first (Tensor): The first tile of that token.
        size (int): Atoms a tile.
    """

    token: Tensor
    first: Tensor
    size: int

    @property
    def count(self) -> int:
        """The number of tiles, or more."""
        return self.token.size(0)

    @property
    def rows(self) -> int:
        """The number of rows that tiles have."""
        return self.count * self.size


def make_spans(setting: Setting, sizes: tuple[int, ...]) -> list[Span]:
    """The tokens that are padded to one of ``sizes``, empty ones among the first.

    A layout that was built inside a compiled graph has no plan. Then every span has all
    tokens, and its kernel finds out which are its own.
    """
    if setting.plan.size(0) == 0:
        leasts = (0, *[size + 1 for size in sizes[:-1]])
        return [
            Span(size, 0, setting.num_tokens, least)
            for size, least in zip(sizes, leasts, strict=True)
        ]
    spans, first = [], 0
    for size, chunks in zip(sizes, _chunks_up_to(setting.plan, sizes), strict=True):
        end = _first_token(setting, chunks)
        if end > first:
            spans.append(Span(size, first, end - first, 0))
        first = end
    return spans


def make_tiles(setting: Setting, sizes: tuple[int, ...], tile: int) -> Optional[Tiles]:
    """The tokens that are in no span, ``None`` where there are none."""
    atoms, first, least = setting.num_atoms, 0, sizes[-1] + 1
    tokens = atoms // least
    if setting.plan.size(0) > 0:
        chunks = _chunks_up_to(setting.plan, sizes)[-1]
        # A chunk may hold smaller tokens, too.
        first, least = _first_token(setting, chunks), 1
        tokens = setting.num_tokens - first
        if tokens:
            atoms -= int(setting.plan[chunks, 0])
    if tokens == 0:
        return None
    # Every token has at most one tile that is not full.
    return _cut(setting, first, least, tile, atoms // tile + tokens)


def _chunks_up_to(plan: Tensor, sizes: tuple[int, ...]) -> list[int]:
    """How many chunks of the plan have tokens of up to each of ``sizes``."""
    # Chunks come by size.
    largest = plan[:, 4].contiguous()
    limits = torch.tensor(sizes, device="cpu")
    return torch.searchsorted(largest, limits, right=True).tolist()


def _first_token(setting: Setting, chunk: int) -> int:
    """The place in ``token_order`` where a chunk of the plan starts."""
    plan = setting.plan
    return setting.num_tokens if chunk == plan.size(0) else int(plan[chunk, 2])


def _cut(setting: Setting, first: int, least: int, tile: int, count: int) -> Tiles:
    """``count`` tiles for the tokens from place ``first`` on of ``least`` atoms."""
    tokens = setting.token_order[first:]
    sizes = setting.ptr.index_select(0, tokens + 1)
    sizes = sizes - setting.ptr.index_select(0, tokens)
    sizes = sizes.where(sizes >= least, 0)
    ends = sizes.add(tile - 1).div(tile, rounding_mode="floor").cumsum(0)
    index = torch.arange(count, device=tokens.device)
    index = torch.searchsorted(ends, index, right=True)
    return Tiles(
        F.pad(tokens, (0, 1), value=-1).index_select(0, index),
        F.pad(ends, (1, 0)).index_select(0, index),
        tile,
    )
