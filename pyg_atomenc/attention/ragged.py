"""Index helpers for runs of different lengths, told by pointers."""

from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor


def pointers(counts: Tensor) -> Tensor:
    """Where every run starts, and the last ends ``[R + 1]``, from counts ``[R]``."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def ranges(start: Tensor, count: Tensor, total: Optional[int] = None) -> Tensor:
    """``start[i], start[i] + 1, …``, ``count[i]`` numbers, of all runs in order.

    ``start`` and ``count`` are ``[R]``, int64; without their ``total`` a GPU waits.
    """
    shift = (start - count.cumsum(0) + count).repeat_interleave(
        count, output_size=total
    )
    return shift + torch.arange(shift.numel(), device=shift.device)


def stable_order(ids: Any, count: int) -> Any:
    """What sorts NumPy's ``[N]`` integers in ``[0, count)``; equal ones stay."""
    if (ids[1:] >= ids[:-1]).all():
        return np.arange(len(ids), dtype=np.int64)
    # NumPy counts to sort 16 bits, but compares to sort 64, which takes far longer.
    order = ids.astype(np.uint16).argsort(kind="stable")
    for digits in range(16, (count - 1).bit_length(), 16):
        order = order[(ids >> digits).astype(np.uint16)[order].argsort(kind="stable")]
    return order


def take(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` for rows, without the cost of general indexing on the CPU."""
    flat = index.reshape(-1)
    # Where columns lie one after the other, as they lie.
    turned = x.dim() == 2 and x.stride(0) == 1
    rows = x.mT.index_select(1, flat).mT if turned else x.index_select(0, flat)
    return rows.view(*index.shape, *x.shape[1:])
