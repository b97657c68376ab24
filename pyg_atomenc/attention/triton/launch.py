"""Launching a kernel, in the fastest of a few ways to cut it."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from pyg_atomenc.attention.triton.configurations import KernelConfig
from pyg_atomenc.errors import AtomEncodingError

_KERNELS = {
    "small": "pyg_atomenc.attention.triton.small_kernels",
    "large": "pyg_atomenc.attention.triton.large_kernels",
}


# Of the first dimension of a grid.
MAX_PROGRAMS = 2**31 - 1
# A launch of fewer programs for each multiprocessor says nothing about larger ones.
FEW_PROGRAMS = 8


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
    """A kernel with what it gets.

    Attributes:
        kernel (str): The kernel's name.
        block (str): Its argument that a config's ``block`` goes to.
        programs: From that number to the number of programs.
        configs (tuple): Ways to cut it; the first is taken where none may be timed.
        arguments (dict): Other arguments by name, of which the kernel takes those
            that it has; those in capitals are compiled into it.
    """

    kernel: str
    block: str
    programs: Callable[[int], int]
    configs: tuple[KernelConfig, ...]
    arguments: dict[str, Any]

    def function(self) -> Any:
        """The compiled kernel, or its interpreter; imports Triton."""
        module = import_module(_KERNELS[self.kernel.split("_")[0]])
        return getattr(module, self.kernel)

    def run(self, config: KernelConfig) -> None:
        """Run it, cut as told.

        Raises:
            ValueError: If it needs more programs than a GPU takes.
        """
        programs = self.programs(config.block)
        if programs > MAX_PROGRAMS:
            raise AtomEncodingError(
                f"'layout' has so many tokens that {self.kernel} would need "
                f"{programs:,} programs, and a GPU takes {MAX_PROGRAMS:,} at once: "
                f"split the batch."
            )
        function = self.function()
        arguments = {**self.arguments, self.block: config.block}
        function[(programs,)](
            **{name: arguments[name] for name in function.arg_names},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )

    def key(self) -> tuple[Any, ...]:
        """What a kernel's compiled form and its best config depend on."""
        values = []
        for name, value in self.arguments.items():
            if isinstance(value, Tensor):
                values.append((name, value.dtype))
            elif name.isupper() or value is None:
                values.append((name, value))
        return (self.kernel, *values)


def submit(launch: Launch, device: torch.device) -> None:
    """Queue a kernel on a device."""
    if launch.programs(launch.configs[0].block) == 0:
        return
    if device.type != "cuda":
        launch.run(launch.configs[0])
        return
    with torch.cuda.device(device):
        launch.run(_choose(launch, device))


# The best config by device and kernel.
_CHOSEN: dict[tuple[Any, ...], KernelConfig] = {}


def _choose(launch: Launch, device: torch.device) -> KernelConfig:
    """The fastest config, timed when a kernel is first used with such arguments.

    Sums over the same numbers may differ in their last bits between configs, so that
    none is timed where torch was told to be deterministic; nor while a CUDA graph is
    captured, which nothing may wait for. A launch that does not fill the device always
    takes the first, whatever larger ones found.
    """
    first = launch.configs[0]
    if len(launch.configs) == 1 or torch.are_deterministic_algorithms_enabled():
        return first
    if launch.programs(first.block) < FEW_PROGRAMS * _processors(device):
        return first
    key = (device.index, *launch.key())
    if key not in _CHOSEN:
        if torch.cuda.is_current_stream_capturing():
            return first
        # A kernel writes the same whenever it runs, so its own outputs will do.
        _CHOSEN[key] = min(launch.configs, key=lambda config: _time(launch, config))
    return _CHOSEN[key]


def _time(launch: Launch, config: KernelConfig, rounds: int = 5) -> float:
    """Milliseconds of a run; infinite where the device has too little memory for it."""
    try:
        launch.run(config)
    except _out_of_resources():
        return float("inf")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(rounds):
        launch.run(config)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / rounds


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _out_of_resources() -> Any:
    return import_module("triton.runtime.errors").OutOfResources
