"""How kernels are cut, by the type and the width of a head.

First choices are meant neither to spill registers (more than a few bytes) nor to need
more than 99 KiB of shared memory, for sm_80 and sm_90. The tests see to it for heads of
32 channels with a bias; `examples/benchmarks/compile_kernels.py` shows it for others.
Float32 products are made of three in TF32, and take twice the registers of half types.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class KernelConfig(NamedTuple):
    """One way to cut a kernel.

    Attributes:
        block (int): Items of a program, or atoms of a step.
        num_warps (int): Groups of 32 threads of a program.
        num_stages (int): How many steps' loads are under way at once.
    """

    block: int
    num_warps: int
    num_stages: int = 1


@dataclass(frozen=True)
class Tiling:
    """How tokens are cut.

    Attributes:
        small (dict): The sizes that small tokens are padded to, and choices for each.
            Several items of a program are shared out among its warps; one alone is
            worked on by all.
        tile (int): Atoms of a larger token's tile.
        large (tuple): Choices for those.
    """

    small: dict[int, tuple[KernelConfig, ...]]
    tile: int
    large: tuple[KernelConfig, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that small tokens are padded to."""
        return tuple(self.small)


_NARROW = Tiling(
    {
        16: (KernelConfig(4, 4), KernelConfig(8, 8), KernelConfig(2, 2)),
        32: (KernelConfig(1, 4), KernelConfig(4, 4)),
        64: (KernelConfig(1, 8), KernelConfig(1, 4)),
    },
    64,
    (KernelConfig(32, 4, 2), KernelConfig(32, 8, 2)),
)
# By the channels that a head's rows are padded to, or fewer.
_HALF = {
    64: _NARROW,
    128: Tiling(
        {
            16: (KernelConfig(4, 4), KernelConfig(1, 4)),
            32: (KernelConfig(1, 4), KernelConfig(1, 8)),
            64: (KernelConfig(1, 8),),
        },
        32,
        (KernelConfig(32, 8, 2), KernelConfig(16, 8)),
    ),
    256: Tiling(
        {
            16: (KernelConfig(1, 4), KernelConfig(1, 2)),
            32: (KernelConfig(1, 4), KernelConfig(1, 8)),
        },
        32,
        (KernelConfig(32, 8, 2), KernelConfig(16, 8)),
    ),
}
_SINGLE = {
    32: Tiling(
        {
            16: (KernelConfig(1, 4), KernelConfig(4, 4), KernelConfig(1, 2)),
            32: (KernelConfig(1, 8), KernelConfig(1, 4)),
        },
        64,
        (KernelConfig(32, 8, 2), KernelConfig(16, 4, 2)),
    ),
    64: Tiling(
        {16: (KernelConfig(1, 4), KernelConfig(1, 2)), 32: (KernelConfig(1, 8),)},
        32,
        (KernelConfig(16, 8), KernelConfig(16, 4, 2)),
    ),
    128: Tiling(
        {16: (KernelConfig(1, 8), KernelConfig(1, 4))},
        16,
        (KernelConfig(16, 8), KernelConfig(16, 4, 2)),
    ),
}


def block_width(width: int) -> int:
    """The channels that a row is padded to."""
    return max(16, 1 << (width - 1).bit_length())


def max_channels(dtype: torch.dtype) -> int:
    """The widest head of a type; wider rows would not fit a program's registers."""
    return max(_tilings(dtype))


def find_tiling(dtype: torch.dtype, widest: int) -> Tiling:
    """How to cut tokens of a type and of so many channels a head, padded."""
    tilings = _tilings(dtype)
    return tilings[min(width for width in tilings if width >= widest)]


def _tilings(dtype: torch.dtype) -> dict[int, Tiling]:
    return _SINGLE if dtype == torch.float32 else _HALF
