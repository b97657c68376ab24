"""Batched matrix products over tokens of equal size, and sums over edges by target.

Both are taken in chunks of similar size (`plan.py`). The forward pass keeps no logits
but a small batch's: the backward pass computes those of a chunk again.
"""

from typing import ClassVar, Union, cast

from torch import Tensor

from pyg_atomenc.attention.backend import Backend
from pyg_atomenc.attention.context import OperatorContext
from pyg_atomenc.attention.dense.edges import attend_edges, has_sampled_products
from pyg_atomenc.attention.dense.encode import encode
from pyg_atomenc.attention.dense.operators import attend, pool
from pyg_atomenc.attention.dense.windows import attend_windows
from pyg_atomenc.attention.inputs import AttentionInputs, EncodeInputs, Inputs
from pyg_atomenc.attention.layouts.edge import EdgeLayout
from pyg_atomenc.attention.layouts.token import TokenLayout
from pyg_atomenc.attention.layouts.window import WindowLayout
from pyg_atomenc.attention.tracing import is_tracing

# Numbers in the messages of all edges, and edges a target: to pass fewer messages costs
# less than to sort the edges, and on a GPU than to launch more.
LARGE_MESSAGES = {"cpu": (2**19, 2), "cuda": (2**25, 8)}


class DenseBackend(Backend):
    """Batched matrix products over tokens of equal size."""

    name = "dense"
    layouts: ClassVar[tuple[str, ...]] = ("tokens", "windows", "edges")
    takes_samples: ClassVar[tuple[str, ...]] = ("windows",)
    # What :meth:`attention` and :meth:`attention_pool` call for tokens.
    operators = attend, pool

    def not_automatic_reasons(self, inputs: Inputs) -> list[str]:
        """Over edges it is for large messages, of several edges a target."""
        if not isinstance(inputs, AttentionInputs) or inputs.layout.kind != "edges":
            return []
        device = inputs.layout.device
        if not has_sampled_products(device) or is_tracing():
            return ["over edges it is for CPUs and NVIDIA GPUs, outside of traces"]
        heads, width = inputs.query.shape[-2:]
        edges, targets = inputs.layout.num_pairs or 0, inputs.layout.num_targets
        large, degree = LARGE_MESSAGES[device.type]
        # Of narrow heads indices take as much as what they tell the places of.
        large *= 1 if width >= 8 else 16
        few = edges * heads * width < large or edges < degree * targets
        return ["messages over few edges take less time"] if few else []

    def attention(self, inputs: AttentionInputs) -> Tensor:
        """See :meth:`Backend.attention`."""
        if inputs.layout.kind == "windows":
            windows = cast(WindowLayout, inputs.layout)
            return attend_windows(inputs, windows).to(inputs.value.dtype)
        layout = cast(Union[TokenLayout, EdgeLayout], inputs.layout)
        context = OperatorContext.from_layout(layout, inputs.dropout)
        operator = attend_edges if layout.kind == "edges" else self.operators[0]
        (out,) = operator(*inputs.tensors(), context)
        return out

    def attention_pool(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.attention_pool`."""
        context = OperatorContext.from_layout(inputs.tokens(), inputs.dropout)
        tokens, weights = self.operators[1](*inputs.tensors(), context)
        return tokens, weights

    def encode(self, inputs: EncodeInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.encode`."""
        options = inputs.dropout, inputs.return_weights
        context = OperatorContext.from_layout(inputs.layout, *options)
        biases = (None, None, None) if inputs.biases is None else inputs.biases
        tensors = inputs.x, *inputs.weights, *biases, inputs.bias
        tokens, weights = encode(*tensors, context)
        return tokens, weights
