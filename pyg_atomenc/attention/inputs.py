"""The arguments of an attention, checked once before any backend sees them."""

from dataclasses import dataclass, replace
from typing import Any, NoReturn, Optional, Union

import torch
from torch import Tensor
from torch.nn import functional as F

import pyg_atomenc.checks as checks
from pyg_atomenc.attention.exact import layer_norm
from pyg_atomenc.attention.layouts.base import Layout
from pyg_atomenc.attention.layouts.border import check_layout
from pyg_atomenc.attention.layouts.token import TokenLayout
from pyg_atomenc.attention.layouts.window import WindowBias, WindowLayout
from pyg_atomenc.errors import AtomEncodingError

Bias = Union[Tensor, WindowBias]

# What is told where an input has not as many rows as its layout has nodes.
_MEND = "build the layout from this batch."
_ATOMS = "atoms of 'layout'"
_SHAPES = "[num_atoms, heads, channels]", "[samples, num_atoms, heads, channels]"


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

    def samples(self, count: int = 1) -> list["AttentionInputs"]:
        """So many samples at once; one alone has no dimension for them."""
        cut = (x.unbind() if count == 1 else x.split(count) for x in self.tensors()[:3])
        parts = zip(*cut, strict=True)
        return [replace(self, query=q, key=k, value=v) for q, k, v in parts]

    def nothing(self) -> Tensor:
        """Outputs without a number, which gradients reach the inputs through."""
        sums = sum(t.sum() for t in self.tensors() if t is not None)
        return sums + self.key.new_zeros(self.query.shape[:-1] + self.value.shape[-1:])

    def validate(self, dims: tuple[int, ...] = (3,)) -> None:
        """Raise a ValueError unless shapes, types and devices fit each other."""
        check_layout(self.layout)
        query, key, value, bias = self.tensors()
        tensors = {"query": query, "key": key, "value": value}
        for name, tensor in tensors.items():
            if checks.check_floating(name, tensor).dim() not in dims:
                self._refuse(name, " or ".join(_SHAPES[: len(dims)]))
        if key.shape[:-3] + key.shape[-2:] != query.shape[:-3] + query.shape[-2:]:
            self._refuse("key", "of 'query' (but for the atoms)")
        layout, heads = self.layout, query.size(-2)
        if value.shape[:-2] != key.shape[:-2] or value.size(-2) not in (1, heads):
            self._refuse("value", "[num_atoms, heads or 1, channels] as 'key' has them")
        if layout.kind != "windows" and 0 in (*query.shape[-2:], value.size(-1)):
            self._refuse("query", "of at least one head and channel, 'value', too")
        targets, sources = query.movedim(-3, 0), key.movedim(-3, 0)
        checks.check_rows("query", targets, layout.num_targets, _ATOMS, _MEND)
        checks.check_rows("key", sources, layout.num_sources, _ATOMS, _MEND)
        check_bias(self.bias, layout, heads)
        if bias is not None:
            tensors["bias"] = bias
        for name, tensor in tensors.items():
            checks.check_device(name, tensor, "query", query.device)
        for name in ("key", "value"):
            _check_dtype(name, tensors[name], "'query'", query)
        layout.check_device("query", query)
        checks.check_dropout(self.dropout)

    def _refuse(self, name: str, wanted: str) -> NoReturn:
        given = {"query": self.query, "key": self.key, "value": self.value}
        found = ", ".join(f"{which} {list(x.shape)}" for which, x in given.items())
        raise AtomEncodingError(f"'{name}' needs the shape {wanted}, found: {found}.")


@dataclass(frozen=True, eq=False)
class EncodeInputs:
    """The arguments of :func:`~pyg_atomenc.attention.attention_encode`."""

    x: Tensor
    weights: tuple[Tensor, Tensor, Tensor]
    layout: TokenLayout
    biases: Optional[tuple[Tensor, Tensor, Tensor]] = None
    bias: Optional[Tensor] = None
    dropout: float = 0.0
    return_weights: bool = True

    def validate(self) -> None:
        """Raise a ValueError unless shapes, types and devices fit each other."""
        check_layout(self.layout, TokenLayout)
        checks.check_dropout(self.dropout)
        checks.check_floating("x", self.x)
        self._check_projections("weights", self.weights)
        if self.biases is not None:
            self._check_projections("biases", self.biases)
        channels, hint = self.weights[0].size(2), "in_channels is the last of 'weights'"
        checks.check_shape("x", self.x, "num_atoms", channels, hint=hint)
        checks.check_rows("x", self.x, self.layout.num_atoms, _ATOMS, _MEND)
        self.layout.check_device("x", self.x)
        check_bias(self.bias, self.layout, self.weights[0].size(0))
        if self.bias is not None:
            self.layout.check_device("bias", self.bias)

    def _check_projections(self, name: str, tensors: tuple[Tensor, ...]) -> None:
        """Raise a ValueError unless ``tensors`` are three that go with the weights."""
        for tensor in tensors:
            self.layout.check_device(name, checks.check_floating(name, tensor))
        like = self.weights[0] if len(tensors) == 3 == len(self.weights) else None
        rank = 3 if name == "weights" else 2
        dims = ", ".join(("heads", "channels", "in_channels")[:rank])
        shapes = [list(t.shape) for t in tensors]
        if like is None or like.dim() != 3 or shapes != 3 * [[*like.shape[:rank]]]:
            wanted = f"three tensors of one shape [{dims}], found: {shapes}."
            raise AtomEncodingError(f"'{name}' needs {wanted}")
        if 0 in like.shape[:2]:
            wanted = f"at least one head and one channel, found: {shapes}."
            raise AtomEncodingError(f"'{name}' needs {wanted}")
        for tensor in tensors:
            _check_dtype(name, tensor, "the first of 'weights'", like)

    def project_packed(self, exact: bool = True) -> Tensor:
        """LayerNorm and the projections, in one ``[N, 3, H, d]``."""
        h = layer_norm(self.x, exact).to(self.weights[0].dtype)
        weight, biases = torch.cat([w.flatten(0, 1) for w in self.weights]), self.biases
        bias = None if biases is None else torch.cat([b.flatten() for b in biases])
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
    hint = "one row for every edge of layout.to_edge_index(), one column for every head"
    edges = "num_edges" if layout.num_pairs is None else layout.num_pairs
    sizes: tuple[Any, ...] = (edges, heads)
    if isinstance(bias, WindowBias):
        mend = f"'bias' is {bias}, which is of windows; pass a tensor, {hint}."
        windows = checks.check_type("layout", layout, WindowLayout, mend)
        sizes = (windows.num_windows, heads, windows.queries, windows.keys)
        hint = "make it with WindowBias.from_edges(bias, layout) of this batch"
        bias = bias.values
    checks.check_shape("bias", checks.check_floating("bias", bias), *sizes, hint=hint)


def _check_dtype(name: str, tensor: Tensor, other: str, like: Tensor) -> None:
    if tensor.dtype != like.dtype:
        found = f"{tensor.dtype}, but {other} of {like.dtype}: convert them to one."
        raise AtomEncodingError(f"'{name}' is of type {found}")


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that softmax and sums are computed in: float32, or float64 for it."""
    return torch.float64 if dtype == torch.float64 else torch.float32
