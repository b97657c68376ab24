"""How kernels are configured and launched.

Configurations are meant neither to spill registers (more than a few bytes) nor to need
more than 99 KiB of shared memory, for sm_80 and sm_90. The tests see to it for heads of
32 channels with a bias; `examples/benchmarks/compile_kernels.py` shows it for others.
Float32 products are made of three in TF32, and take twice the registers of half types.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import torch

# No kernel has a loop whose loads could be under way ahead of their step.
NUM_STAGES = 1


class KernelConfig(NamedTuple):
    """How a kernel is configured for tokens of up to some size."""

    # Heads of a token that a program works on, at most: each item has one. Several are
    # shared out among its warps; one alone is worked on by all.
    items: int
    num_warps: int  # groups of 32 threads of a program


# By the channels that a head's rows are padded to, or fewer: the sizes that tokens are
# padded to, and the configuration for each.
_HALF = {
    32: {16: KernelConfig(4, 1), 32: KernelConfig(4, 4), 64: KernelConfig(1, 4)},
    64: {16: KernelConfig(4, 2), 32: KernelConfig(4, 4), 64: KernelConfig(1, 8)},
    128: {16: KernelConfig(4, 4), 32: KernelConfig(4, 8), 64: KernelConfig(1, 8)},
    256: {16: KernelConfig(4, 8), 32: KernelConfig(1, 4)},
}
_SINGLE = {
    32: {16: KernelConfig(4, 4), 32: KernelConfig(1, 2)},
    64: {16: KernelConfig(4, 8), 32: KernelConfig(2, 8)},
    128: {16: KernelConfig(4, 8)},
}


def block_width(width: int) -> int:
    """The channels that a row is padded to."""
    return max(16, 1 << (width - 1).bit_length())


def max_channels(dtype: torch.dtype) -> int:
    """The widest head of a type; wider rows would not fit a program's registers."""
    return max(_configs(dtype))


def kernel_configs(dtype: torch.dtype, widest: int) -> dict[int, KernelConfig]:
    """The sizes to pad tokens to, rising, each configured for ``widest`` channels."""
    configs = _configs(dtype)
    return configs[min(width for width in configs if width >= widest)]


def _configs(dtype: torch.dtype) -> dict[int, dict[int, KernelConfig]]:
    return _SINGLE if dtype == torch.float32 else _HALF


# A trace takes the answer as it is, and does not look into how it is found.
@torch.compiler.assume_constant_result
def is_interpreted() -> bool:
    """Whether Triton interprets kernels rather than compile them, as it says itself."""
    if "TRITON_INTERPRET" not in os.environ and "triton" not in sys.modules:
        # Which need not be imported to know that.
        return False
    try:
        return bool(import_module("triton.knobs").runtime.interpret)
    except ModuleNotFoundError:
        # Triton before 3.4 knows this word alone.
        return os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel with what it gets."""

    kernel: str
    programs: int
    num_warps: int  # groups of 32 threads of a program
    # Of which the kernel takes those that it has; capitals are compiled into it.
    arguments: dict[str, Any]

    def function(self) -> Any:
        """The compiled kernel, or its interpreter; imports Triton."""
        module = import_module("pyg_atomenc.attention.triton.kernels")
        return getattr(module, self.kernel)

    def submit(self, device: torch.device) -> None:
        """Queue it on a device."""
        if self.programs == 0:
            return
        function = self.function()
        given = {name: self.arguments[name] for name in function.arg_names}
        options = {"num_warps": self.num_warps, "num_stages": NUM_STAGES}
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            function[(self.programs,)](**given, **options)
