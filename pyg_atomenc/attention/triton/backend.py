"""Fused Triton kernels, for NVIDIA GPUs.

A kernel takes a token of up to 64 atoms in whole (32 or 16 in float32 or where heads
are wide); the dense backend's formulas take larger ones within the same operator. No
edge list is made, and no launch waits for the device.
"""

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Optional, cast

import torch
from torch import Tensor

from pyg_atomenc.attention.context import OperatorContext
from pyg_atomenc.attention.dense.backend import DenseBackend
from pyg_atomenc.attention.inputs import EncodeInputs, Inputs
from pyg_atomenc.attention.layouts.token import TokenLayout
from pyg_atomenc.attention.tracing import is_readable
from pyg_atomenc.attention.triton import launch
from pyg_atomenc.attention.triton.launch import is_interpreted
from pyg_atomenc.attention.triton.operators import attend, pool, pool_packed
from pyg_atomenc.errors import how_to_install

DEVICE = "cuda"
HAS_TRITON = find_spec("triton") is not None
CAPABILITY = (8, 0)  # what Triton's compiler and the kernels' products need
# Below, a GPU waits for launches, and kernels and formulas together take more of them.
FEW_ATOMS = 2**15


class TritonBackend(DenseBackend):
    """Fused kernels on NVIDIA GPUs, or anywhere in Triton's interpreter."""

    name = "triton"
    layouts = ("tokens",)
    operators = attend, pool
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

    def not_supported_reasons(self, inputs: Inputs) -> list[str]:
        """It needs Triton, a GPU, a type that it adds up in float32, and no dropout."""
        like, channels = _heads_of(inputs)
        reasons = list(_hindrances(like.device.type, like.device.index))
        if like.dtype not in self.tolerance:
            reasons += [f"the type is {like.dtype}, but it adds up in float32"]
        most = launch.max_channels(like.dtype)
        wide = sorted({w for w in channels if not 0 < w <= most})
        takes = f"but it takes 1 to {most} of {like.dtype}"
        reasons += [f"a head has {width} channels, {takes}" for width in wide]
        if inputs.dropout > 0:
            reasons.append("'dropout' is not 0, and it has none")
        return reasons

    def not_automatic_reasons(self, inputs: Inputs) -> list[str]:
        """It is for GPUs, and for tokens that its kernels take, or many atoms."""
        if inputs.layout.device.type != DEVICE:
            return ["it runs on NVIDIA GPUs"]
        if is_interpreted():
            return ["Triton's interpreter is on"]
        reasons = self.not_supported_reasons(inputs)
        context = OperatorContext.from_layout(cast(TokenLayout, inputs.layout), 0.0)
        if reasons or not is_readable(context.host_ptr):
            return reasons
        like, channels = _heads_of(inputs)
        largest = max(launch.kernel_configs(like.dtype, max(channels)))

        def count() -> int:
            sizes = context.host_ptr.diff()
            return int(sizes[sizes > largest].sum())

        atoms, large = context.num_atoms, context.plan_once(("above", largest), count)
        if large == 0 or (atoms >= FEW_ATOMS and 2 * large <= atoms):
            return []
        return [f"{large} of {atoms} atoms are in tokens of more than {largest}"]

    def encode(self, inputs: EncodeInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.encode`; the projections are one matrix product."""
        context = OperatorContext.from_layout(inputs.layout, 0.0)
        packed = inputs.project_packed(exact=False)
        tokens, weights = pool_packed(packed, inputs.bias, context)
        return tokens, weights


def _heads_of(inputs: Inputs) -> tuple[Tensor, tuple[int, int]]:
    """What has the type and the device of the heads, and their channels."""
    if isinstance(inputs, EncodeInputs):
        weight = inputs.weights[0]
        return weight, (weight.size(1), weight.size(1))
    return inputs.query, (inputs.query.size(-1), inputs.value.size(-1))


# A trace takes the answer as it is, and does not look into how it is found.
@torch.compiler.assume_constant_result
def _hindrances(device: str, index: Optional[int]) -> tuple[str, ...]:
    """Why kernels cannot run on a device."""
    if not HAS_TRITON:
        return (f"Triton is not installed: {how_to_install('triton')}",)
    if is_interpreted():
        return ()
    if device != DEVICE:
        where = "NVIDIA GPUs, or with TRITON_INTERPRET=1 in Triton's interpreter"
        return (f"the tensors are on '{device}', and it runs on {where}",)
    return _hindrances_of_gpu(index)


@lru_cache
def _hindrances_of_gpu(index: Optional[int]) -> tuple[str, ...]:
    """Why kernels cannot run on a GPU; when first asked Triton builds a part of it."""
    if torch.version.hip is not None:
        return ("the GPU is an AMD one, on which its kernels were never compiled",)
    try:
        found = torch.cuda.get_device_capability(index)
        import_module("triton.runtime").driver.active.get_current_device()
    except Exception as error:
        needs = "Triton needs a C compiler (gcc or clang, or CC) and Python's headers"
        return (f"the GPU or Triton does not start ({error}); {needs}",)
    if found < CAPABILITY:
        has, needs = (f"{major}.{minor}" for major, minor in (found, CAPABILITY))
        return (f"the GPU has compute capability {has}, and Triton needs {needs}",)
    return ()
