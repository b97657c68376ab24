"""Fused Triton kernels, for NVIDIA GPUs.

A kernel takes a token of up to 64 atoms in whole (32 or 16 in float32 or where heads
are wide); the dense backend's formulas take larger ones within the same operator. No
edge list is made, and no launch waits for the device. The kernels are tested in
Triton's interpreter and compiled ahead of time; those before them passed `tests/gpu` on
an H100, these have not run on a GPU yet.
"""

from importlib.util import find_spec
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.context import OperatorContext
from pyg_atomenc.attention.dense.backend import DenseBackend
from pyg_atomenc.attention.inputs import AttentionInputs, EncodeInputs, Inputs
from pyg_atomenc.attention.triton.launch import is_interpreted, max_channels
from pyg_atomenc.attention.triton.operators import attend, pool, pool_packed
from pyg_atomenc.errors import how_to_install

DEVICE = "cuda"
HAS_TRITON = find_spec("triton") is not None
# What Triton's compiler and the kernels' products need.
CAPABILITY = (8, 0)


class TritonBackend(DenseBackend):
    """Fused kernels on NVIDIA GPUs, or anywhere in Triton's interpreter.

    They were tested there and compiled ahead of time, and have not run on a GPU.
    """

    name = "triton"
    layouts = ("tokens",)
    operators = attend, pool
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

    def not_supported_reasons(self, inputs: Inputs) -> list[str]:
        """It needs Triton, a GPU, a type that it adds up in float32, and no dropout."""
        if isinstance(inputs, AttentionInputs):
            like, device = inputs.query, inputs.query.device
            channels = (inputs.query.size(-1), inputs.value.size(-1))
        else:
            like, device = inputs.weights[0], inputs.x.device
            channels = (like.size(1), like.size(1))
        reasons = list(_hindrances(device.type, device.index))
        if like.dtype not in self.tolerance:
            reasons += [f"the type is {like.dtype}, but it adds up in float32"]
        most = max_channels(like.dtype)
        wide = sorted({w for w in channels if not 0 < w <= most})
        takes = f"but it takes 1 to {most} of {like.dtype}"
        reasons += [f"a head has {width} channels, {takes}" for width in wide]
        if inputs.dropout > 0:
            reasons.append("'dropout' is not 0, and it has none")
        return reasons

    def not_automatic_reasons(self, inputs: Inputs) -> list[str]:
        """It is for GPUs, and waits for figures of one with these kernels."""
        if inputs.layout.device.type != DEVICE:
            return ["it runs on NVIDIA GPUs"]
        return ["its kernels have not run on a GPU yet: pass backend='triton'"]

    def encode(self, inputs: EncodeInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.encode`; the projections are one matrix product."""
        context = OperatorContext.from_layout(inputs.layout, 0.0)
        packed = inputs.project_packed(exact=False)
        tokens, weights = pool_packed(packed, inputs.bias, context)
        return tokens, weights


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
    if torch.version.hip is not None:
        return ("the GPU is an AMD one, on which its kernels were never compiled",)
    found = torch.cuda.get_device_capability(index)
    if found < CAPABILITY:
        has, needs = (f"{major}.{minor}" for major, minor in (found, CAPABILITY))
        return (f"the GPU has compute capability {has}, and Triton needs {needs}",)
    return ()
