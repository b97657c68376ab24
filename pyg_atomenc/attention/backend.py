"""What an attention backend is."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from pyg_atomenc.attention.inputs import (
    AttentionInputs,
    EncodeInputs,
    Inputs,
    accumulate_dtype,
)


class Backend(ABC):
    """One way to compute attention; all ways give the same result.

    Attributes:
        name (str): What users pass as ``backend=``.
        layouts (tuple): The kinds of layouts that it attends over.
        tolerance (dict): Per input type that it takes, the largest difference from the
            definition in float64, relative to the output's largest value, that is no
            fault.
    """

    name: ClassVar[str]
    layouts: ClassVar[tuple[str, ...]]
    takes_samples: ClassVar[tuple[str, ...]] = ()  # layouts whose samples go at once
    tolerance: ClassVar[dict[torch.dtype, float]] = {
        torch.float64: 1e-12,
        torch.float32: 1e-5,
        torch.float16: 2e-3,
        torch.bfloat16: 1.6e-2,
    }

    def not_supported_reasons(self, inputs: Inputs) -> list[str]:
        """Why it cannot run ``inputs``, of one of its layouts; empty where it can."""
        return []

    def not_automatic_reasons(self, inputs: Inputs) -> list[str]:
        """Why ``"auto"`` passes by this backend, which could run ``inputs``."""
        return []

    @abstractmethod
    def attention(self, inputs: AttentionInputs) -> Tensor:
        """The attention output of every target ``[N, H, D]``."""

    @abstractmethod
    def attention_pool(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
        """The mean output of every token ``[T, H, D]``, and atom weights ``[N, H]``.

        The layout is one of tokens; weights are before dropout, of accumulation type.
        """

    def encode(self, inputs: EncodeInputs) -> tuple[Tensor, Tensor]:
        """LayerNorm, projections and :meth:`attention_pool` in one."""
        tokens, weights = self.attention_pool(inputs.project())
        dtype = torch.promote_types(inputs.x.dtype, inputs.weights[0].dtype)
        return tokens, weights.to(accumulate_dtype(dtype))
