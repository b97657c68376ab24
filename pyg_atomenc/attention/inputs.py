"""The arguments of an attention, checked once before any backend sees them."""

from dataclasses import dataclass
from typing import Optional, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.layouts.token import TokenLayout
from pyg_atomenc.attention.layouts.window import WindowLayout
from pyg_atomenc.attention.layouts.window_bias import WindowBias
from pyg_atomenc.errors import AtomEncodingError

Layout = Union[TokenLayout, WindowLayout]
Bias = Union[Tensor, WindowBias]


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """Queries, keys, values and what they attend over.

    Attributes:
        query (Tensor): ``[N, H, d]``, any floating type.
        key (Tensor): ``[N, H, d]``, of the query's type and device.
        value (Tensor): ``[N, H, D]``, or ``[N, 1, D]`` where the heads share it.
        layout (TokenLayout or WindowLayout): Which atoms attend to which.
        bias (Tensor or WindowBias, optional): Added to the logits ``[E, H]``, one row
            an edge of ``layout.to_edge_index()``.
        dropout (float): Probability to drop an attention weight.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    layout: Layout
    bias: Optional[Bias] = None
    dropout: float = 0.0

    def edge_bias(self) -> Optional[Tensor]:
        """The bias with one row an edge."""
        if isinstance(self.bias, WindowBias):
            assert isinstance(self.layout, WindowLayout)  # as `validate` checked
            return self.bias.to_edges(self.layout)
        return self.bias

    def tokens(self) -> TokenLayout:
        """The layout, where only one of tokens will do.

        Raises:
            ValueError: If it is another one.
        """
        return check_tokens(self.layout)

    def validate(self) -> None:
        """Check shapes, types and devices.

        Raises:
            ValueError: If the arguments do not fit each other; the message shows the
                shapes that were found and says what was expected.
        """
        check_layout(self.layout)
        tensors = {"query": self.query, "key": self.key, "value": self.value}
        if isinstance(self.bias, WindowBias):
            tensors["bias"] = self.bias.values
        elif self.bias is not None:
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
        check_bias(self.bias, self.layout, query.size(1))
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
        if isinstance(self.bias, WindowBias):
            found += f", bias {self.bias}"
        elif self.bias is not None:
            found += f", bias {list(self.bias.shape)}"
        return found


@dataclass(frozen=True, eq=False)
class EncodeInputs:
    """Atoms, and the projections that make queries, keys and values of them.

    Attributes:
        x (Tensor): Atoms ``[N, C]``, any floating type.
        weights (tuple): Of query, key and value, each ``[H, d, C]``, of one floating
            type, which is that of the tokens.
        layout (TokenLayout): Which atoms attend to which.
        biases (tuple, optional): Of query, key and value, each ``[H, d]``.
        bias (Tensor, optional): Added to the logits ``[E, H]``.
        dropout (float): Probability to drop an attention weight.
    """

    x: Tensor
    weights: tuple[Tensor, Tensor, Tensor]
    layout: TokenLayout
    biases: Optional[tuple[Tensor, Tensor, Tensor]] = None
    bias: Optional[Tensor] = None
    dropout: float = 0.0

    def validate(self) -> None:
        """Check shapes, types and devices.

        Raises:
            ValueError: If the arguments do not fit each other.
        """
        check_tokens(self.layout)
        check_dropout(self.dropout)
        _check_float("x", self.x)
        self._check_projections("weights", self.weights, 3)
        if self.biases is not None:
            self._check_projections("biases", self.biases, 2)
        if self.x.dim() != 2 or self.x.size(1) != self.weights[0].size(2):
            raise AtomEncodingError(
                f"'x' needs the shape [num_atoms, in_channels] and 'weights' [heads, "
                f"channels, in_channels], found: x {list(self.x.shape)}, weights "
                f"{list(self.weights[0].shape)}."
            )
        if self.x.size(0) != self.layout.num_atoms:
            raise AtomEncodingError(
                f"'x' has {self.x.size(0)} atoms, but 'layout' was built for "
                f"{self.layout.num_atoms}: build the layout from this batch."
            )
        check_device("x", self.x, self.layout)
        check_bias(self.bias, self.layout, self.weights[0].size(0))
        if self.bias is not None:
            check_device("bias", self.bias, self.layout)

    def _check_projections(
        self, name: str, tensors: tuple[Tensor, Tensor, Tensor], dims: int
    ) -> None:
        """Raise a ValueError unless ``tensors`` are three that go with the weights."""
        for tensor in tensors:
            _check_float(name, tensor)
        like = self.weights[0] if len(self.weights) else None
        shapes = [list(t.shape) for t in tensors]
        wanted = ["heads", "channels", "in_channels"][:dims]
        if (
            like is None
            or len(tensors) != 3
            or like.dim() != 3
            or any(t.shape != like.shape[:dims] for t in tensors)
            or 0 in like.shape[:2]
        ):
            raise AtomEncodingError(
                f"'{name}' needs three tensors of one shape [{', '.join(wanted)}], "
                f"with at least one head and one channel, found: {shapes}."
            )
        for tensor in tensors:
            if tensor.dtype != like.dtype:
                raise AtomEncodingError(
                    f"'{name}' has {tensor.dtype}, but the first of 'weights' "
                    f"{like.dtype}: convert them to one type."
                )
            check_device(name, tensor, self.layout)

    def project(self) -> AttentionInputs:
        """LayerNorm and the projections, written out: queries, keys and values."""
        h = F.layer_norm(self.x, self.x.shape[-1:]).to(self.weights[0].dtype)
        biases = (None, None, None) if self.biases is None else self.biases
        query, key, value = (
            F.linear(h, weight.flatten(0, 1), None if b is None else b.flatten()).view(
                -1, *weight.shape[:2]
            )
            for weight, b in zip(self.weights, biases, strict=True)
        )
        return AttentionInputs(query, key, value, self.layout, self.bias, self.dropout)


def check_bias(bias: Optional[Bias], layout: Layout, heads: int) -> None:
    """Raise a ValueError unless the bias has one row an edge, one column a head."""
    if bias is None:
        return
    if isinstance(bias, WindowBias):
        _check_window_bias(bias, layout, heads)
        return
    _check_float("bias", bias)
    pairs = layout.num_pairs
    if (
        bias.dim() != 2
        or bias.size(1) != heads
        or (pairs is not None and bias.size(0) != pairs)
    ):
        expected = "num_edges" if pairs is None else pairs
        raise AtomEncodingError(
            f"'bias' needs the shape [{expected}, {heads}], one row for every edge of "
            f"layout.to_edge_index() and one column for every head, found: "
            f"{list(bias.shape)}."
        )


def _check_window_bias(bias: WindowBias, layout: Layout, heads: int) -> None:
    _check_float("bias", bias.values)
    found = list(bias.values.shape)
    if not isinstance(layout, WindowLayout):
        raise AtomEncodingError(
            f"'bias' is {bias}, but 'layout' a {type(layout).__name__}: pass a tensor "
            f"with one row for every edge of layout.to_edge_index()."
        )
    expected = [layout.num_windows, heads, layout.queries, layout.keys]
    if found != expected:
        raise AtomEncodingError(
            f"'bias' holds {found}, but the layout and the heads need {expected}: make "
            f"it with WindowBias.from_edges(bias, layout) of this batch."
        )


def check_layout(layout: object) -> None:
    """Raise a ValueError unless ``layout`` is a layout."""
    if not isinstance(layout, (TokenLayout, WindowLayout)):
        raise AtomEncodingError(
            f"'layout' is of type {type(layout).__name__}: pass "
            f"TokenLayout.from_index(atom_to_token, num_tokens), or "
            f"WindowLayout.from_batch(batch)."
        )


def check_tokens(layout: object) -> TokenLayout:
    """The layout, or a ValueError unless it is a :class:`TokenLayout`."""
    if not isinstance(layout, TokenLayout):
        raise AtomEncodingError(
            f"'layout' is of type {type(layout).__name__}: pass "
            f"TokenLayout.from_index(atom_to_token, num_tokens), which has tokens to "
            f"pool atoms into."
        )
    return layout


def check_device(name: str, tensor: Tensor, layout: Layout) -> None:
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
