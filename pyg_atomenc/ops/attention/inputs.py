"""The arguments of an attention, checked once before any backend sees them."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.ops.attention.layout import TokenLayout


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """Queries, keys, values and what they attend over.

    Attributes:
        query (Tensor): ``[N, H, d]``, any floating type.
        key (Tensor): ``[N, H, d]``, of the query's type and device.
        value (Tensor): ``[N, H, D]``, or ``[N, 1, D]`` where the heads share it.
        layout (TokenLayout): Which atoms attend to which.
        bias (Tensor, optional): Added to the logits ``[E, H]``, one row an edge of
            ``layout.to_edge_index()``.
        dropout (float): Probability to drop an attention weight.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    layout: TokenLayout
    bias: Optional[Tensor] = None
    dropout: float = 0.0

    def validate(self) -> None:
        """Check shapes, types and devices.

        Raises:
            ValueError: If the arguments do not fit each other; the message shows the
                shapes that were found and says what was expected.
        """
        check_layout(self.layout)
        tensors = {"query": self.query, "key": self.key, "value": self.value}
        if self.bias is not None:
            tensors["bias"] = self.bias
        for name, tensor in tensors.items():
            _check_float(name, tensor)
        query, key, value = self.query, self.key, self.value
        for name in ("query", "key", "value"):
            if tensors[name].dim() != 3:
                raise AtomEncodingError(
                    f"'{name}' needs the shape [num_atoms, heads, channels], found: "
                    f"{self._shapes()}."
                )
        if key.shape != query.shape:
            raise AtomEncodingError(
                f"'key' needs the shape of 'query', found: {self._shapes()}."
            )
        if value.size(0) != query.size(0) or value.size(1) not in (1, query.size(1)):
            raise AtomEncodingError(
                f"'value' needs the shape [num_atoms, heads or 1, channels] with the "
                f"atoms and heads of 'query', found: {self._shapes()}."
            )
        if query.size(0) != self.layout.num_atoms:
            raise AtomEncodingError(
                f"'query' has {query.size(0)} atoms, but 'layout' was built for "
                f"{self.layout.num_atoms}: build the layout from this batch."
            )
        self._check_bias()
        for name, tensor in tensors.items():
            if tensor.device != query.device:
                raise AtomEncodingError(
                    f"'{name}' is on {tensor.device}, but 'query' on {query.device}: "
                    f"move them to one device."
                )
            if name != "bias" and tensor.dtype != query.dtype:
                raise AtomEncodingError(
                    f"'{name}' is of type {tensor.dtype}, but 'query' of "
                    f"{query.dtype}: convert them to one type."
                )
        check_device("query", query, self.layout)
        check_dropout(self.dropout)

    def _shapes(self) -> str:
        found = f"query {list(self.query.shape)}, key {list(self.key.shape)}, "
        found += f"value {list(self.value.shape)}"
        if self.bias is not None:
            found += f", bias {list(self.bias.shape)}"
        return found

    def _check_bias(self) -> None:
        if self.bias is None:
            return
        pairs = self.layout.num_pairs
        if (
            self.bias.dim() != 2
            or self.bias.size(1) != self.query.size(1)
            or (pairs is not None and self.bias.size(0) != pairs)
        ):
            expected = "num_edges" if pairs is None else pairs
            raise AtomEncodingError(
                f"'bias' needs the shape [{expected}, heads], one row for every edge "
                f"of layout.to_edge_index(), found: {self._shapes()}."
            )


def check_layout(layout: object) -> None:
    """Raise a ValueError unless ``layout`` is a :class:`TokenLayout`."""
    if not isinstance(layout, TokenLayout):
        raise AtomEncodingError(
            f"'layout' is of type {type(layout).__name__}: pass "
            f"TokenLayout.from_index(atom_to_token, num_tokens)."
        )


def check_device(name: str, tensor: Tensor, layout: TokenLayout) -> None:
    """Raise a ValueError unless ``tensor`` lies where ``layout`` does."""
    if tensor.device != layout.device:
        raise AtomEncodingError(
            f"'{name}' is on {tensor.device}, but 'layout' on {layout.device}: move it "
            f"with layout.to('{tensor.device}')."
        )


def check_dropout(dropout: float) -> None:
    """Raise a ValueError unless ``dropout`` is a probability below 1."""
    if not 0.0 <= dropout < 1.0:
        raise AtomEncodingError(
            f"'dropout' is {dropout}: pass a probability, at least 0 and below 1."
        )


def _check_float(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise AtomEncodingError(
            f"'{name}' is of type {type(tensor).__name__}: pass a floating tensor."
        )
    if not tensor.dtype.is_floating_point:
        raise AtomEncodingError(
            f"'{name}' is of type {tensor.dtype}: attention needs floating numbers; "
            f"convert with .float()."
        )


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that softmax and sums are computed in: float32, or float64 for it."""
    return torch.float64 if dtype == torch.float64 else torch.float32
