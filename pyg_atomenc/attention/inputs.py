"""The arguments of an attention, checked once before any backend sees them."""

from dataclasses import dataclass
from typing import NoReturn, Optional, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.exact import layer_norm
from pyg_atomenc.attention.layouts.base import Layout
from pyg_atomenc.attention.layouts.border import check_layout
from pyg_atomenc.attention.layouts.token import TokenLayout
from pyg_atomenc.attention.layouts.window import WindowBias, WindowLayout
from pyg_atomenc.checks import (
    check_device,
    check_dropout,
    check_floating,
    check_shape,
    check_type,
)
from pyg_atomenc.errors import AtomEncodingError

Bias = Union[Tensor, WindowBias]


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """The arguments of :func:`~pyg_atomenc.attention.attention`, as told there."""

    query: Tensor
    key: Tensor
    value: Tensor
    layout: Layout
    bias: Optional[Bias] = None
    dropout: float = 0.0

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Optional[Tensor]]:
        """Query, key, value, and the bias as it is kept, by edges or by windows."""
        bias = self.bias.values if isinstance(self.bias, WindowBias) else self.bias
        return self.query, self.key, self.value, bias

    def tokens(self) -> TokenLayout:
        """The layout; raises a ValueError unless it is one of tokens."""
        return check_layout(self.layout, TokenLayout)

    def validate(self) -> None:
        """Raise a ValueError unless shapes, types and devices fit each other."""
        check_layout(self.layout)
        query, key, value, bias = self.tensors()
        tensors = {"query": query, "key": key, "value": value}
        for name, tensor in tensors.items():
            if check_floating(name, tensor).dim() != 3:
                self._refuse(name, "needs the shape [num_atoms, heads, channels]")
        if key.shape[1:] != query.shape[1:]:
            self._refuse("key", "needs the shape of 'query' (but for the atoms)")
        if value.size(0) != key.size(0) or value.size(1) not in (1, query.size(1)):
            self._refuse(
                "value",
                "needs the shape [num_atoms, heads or 1, channels] with the atoms and "
                "heads of 'key'",
            )
        _check_count("query", query, self.layout.num_targets)
        _check_count("key", key, self.layout.num_sources)
        check_bias(self.bias, self.layout, query.size(1))
        if bias is not None:
            tensors["bias"] = bias
        for name, tensor in tensors.items():
            check_device(name, tensor, "query", query.device)
        for name in ("key", "value"):
            _check_dtype(name, tensors[name], "'query'", query)
        check_layout_device("query", query, self.layout)
        check_dropout(self.dropout)

    def _refuse(self, name: str, wanted: str) -> NoReturn:
        raise AtomEncodingError(
            f"'{name}' {wanted}, found: query {list(self.query.shape)}, key "
            f"{list(self.key.shape)}, value {list(self.value.shape)}."
        )


@dataclass(frozen=True, eq=False)
class EncodeInputs:
    """The arguments of :func:`~pyg_atomenc.attention.attention_encode`."""

    x: Tensor
    weights: tuple[Tensor, Tensor, Tensor]
    layout: TokenLayout
    biases: Optional[tuple[Tensor, Tensor, Tensor]] = None
    bias: Optional[Tensor] = None
    dropout: float = 0.0

    def validate(self) -> None:
        """Raise a ValueError unless shapes, types and devices fit each other."""
        check_layout(self.layout, TokenLayout)
        check_dropout(self.dropout)
        check_floating("x", self.x)
        self._check_projections("weights", self.weights, 3)
        if self.biases is not None:
            self._check_projections("biases", self.biases, 2)
        if self.x.dim() != 2 or self.x.size(1) != self.weights[0].size(2):
            raise AtomEncodingError(
                f"'x' needs the shape [num_atoms, in_channels] and 'weights' [heads, "
                f"channels, in_channels], found: x {list(self.x.shape)}, weights "
                f"{list(self.weights[0].shape)}."
            )
        _check_count("x", self.x, self.layout.num_atoms)
        check_layout_device("x", self.x, self.layout)
        check_bias(self.bias, self.layout, self.weights[0].size(0))
        if self.bias is not None:
            check_layout_device("bias", self.bias, self.layout)

    def _check_projections(
        self, name: str, tensors: tuple[Tensor, ...], rank: int
    ) -> None:
        """Raise a ValueError unless ``tensors`` are three that go with the weights."""
        for tensor in tensors:
            check_floating(name, tensor)
            check_layout_device(name, tensor, self.layout)
        like = self.weights[0] if len(tensors) == 3 == len(self.weights) else None
        dims = ("heads", "channels", "in_channels")[:rank]
        shapes = [list(t.shape) for t in tensors]
        if like is None or like.dim() != 3 or shapes != 3 * [[*like.shape[:rank]]]:
            raise AtomEncodingError(
                f"'{name}' needs three tensors of one shape [{', '.join(dims)}], "
                f"found: {shapes}."
            )
        if 0 in like.shape[:2]:
            raise AtomEncodingError(
                f"'{name}' needs at least one head and one channel, found: {shapes}."
            )
        for tensor in tensors:
            _check_dtype(name, tensor, "the first of 'weights'", like)

    def project_packed(self, exact: bool = True) -> Tensor:
        """LayerNorm and the projections, in one ``[N, 3, H, d]``."""
        h = layer_norm(self.x, exact).to(self.weights[0].dtype)
        weight, bias = torch.cat([w.flatten(0, 1) for w in self.weights]), None
        if self.biases is not None:
            bias = torch.cat([b.flatten() for b in self.biases])
        return F.linear(h, weight, bias).view(-1, 3, *self.weights[0].shape[:2])

    def project(self) -> AttentionInputs:
        """The same as queries, keys and values, which are then attended over."""
        query, key, value = self.project_packed().unbind(1)
        return AttentionInputs(query, key, value, self.layout, self.bias, self.dropout)


Inputs = Union[AttentionInputs, EncodeInputs]


def check_bias(bias: Optional[Bias], layout: Layout, heads: int) -> None:
    """Raise a ValueError unless the bias has one row an edge, one column a head."""
    if bias is None:
        return
    if isinstance(bias, WindowBias):
        mend = (
            f"'bias' is {bias}, which is of windows; pass a tensor with one row for "
            f"every edge of layout.to_edge_index()."
        )
        windows = check_type("layout", layout, WindowLayout, mend)
        sizes = (windows.num_windows, heads, windows.queries, windows.keys)
        hint = "make it with WindowBias.from_edges(bias, layout) of this batch"
        check_shape("bias", check_floating("bias", bias.values), *sizes, hint=hint)
        return
    edges = "num_edges" if layout.num_pairs is None else layout.num_pairs
    hint = "one row for every edge of layout.to_edge_index(), one column for every head"
    check_shape("bias", check_floating("bias", bias), edges, heads, hint=hint)


def check_layout_device(name: str, tensor: Tensor, layout: Layout) -> None:
    """Raise a ValueError unless ``tensor`` lies where ``layout`` does."""
    if tensor.device != layout.device:
        raise AtomEncodingError(
            f"'{name}' is on {tensor.device}, but 'layout' on {layout.device}: move it "
            f"with layout.to('{tensor.device}')."
        )


def _check_dtype(name: str, tensor: Tensor, other: str, like: Tensor) -> None:
    if tensor.dtype != like.dtype:
        raise AtomEncodingError(
            f"'{name}' is of type {tensor.dtype}, but {other} of {like.dtype}: convert "
            f"them to one type."
        )


def _check_count(name: str, tensor: Tensor, count: int) -> None:
    if tensor.size(0) != count:
        raise AtomEncodingError(
            f"'{name}' has {tensor.size(0)} atoms, but 'layout' was built for {count}: "
            f"build the layout from this batch."
        )


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that softmax and sums are computed in: float32, or float64 for it."""
    return torch.float64 if dtype == torch.float64 else torch.float32
