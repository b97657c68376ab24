"""Batched matrix products over tokens of equal size; no edge list.

Tokens are taken in chunks of similar size (`plan.py`). The forward pass keeps no
logits: the backward pass computes those of a chunk again.
"""

from typing import ClassVar, cast

from torch import Tensor

from pyg_atomenc.attention.autograd import OperatorContext
from pyg_atomenc.attention.backend import Backend
from pyg_atomenc.attention.dense.encode import encode
from pyg_atomenc.attention.dense.operators import attend, pool
from pyg_atomenc.attention.dense.windows import attend_windows
from pyg_atomenc.attention.inputs import AttentionInputs, EncodeInputs
from pyg_atomenc.attention.layouts.window import WindowLayout


class DenseBackend(Backend):
    """Batched matrix products over tokens of equal size."""

    name = "dense"
    layouts: ClassVar[tuple[str, ...]] = ("tokens", "windows")
    # What :meth:`attention` and :meth:`attention_pool` call for tokens.
    operators = attend, pool

    def attention(self, inputs: AttentionInputs) -> Tensor:
        """See :meth:`Backend.attention`."""
        if inputs.layout.kind == "windows":
            layout = cast(WindowLayout, inputs.layout)
            return attend_windows(inputs, layout).to(inputs.value.dtype)
        context = OperatorContext.from_layout(inputs.tokens(), inputs.dropout)
        (out,) = self.operators[0](*inputs.tensors(), context)
        return out

    def attention_pool(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.attention_pool`."""
        context = OperatorContext.from_layout(inputs.tokens(), inputs.dropout)
        tokens, weights = self.operators[1](*inputs.tensors(), context)
        return tokens, weights

    def encode(self, inputs: EncodeInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.encode`."""
        context = OperatorContext.from_layout(inputs.layout, inputs.dropout)
        biases = (None, None, None) if inputs.biases is None else inputs.biases
        tensors = inputs.x, *inputs.weights, *biases, inputs.bias
        tokens, weights = encode(*tensors, context)
        return tokens, weights
