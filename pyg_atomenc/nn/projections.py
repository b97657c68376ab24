"""What the layers share: projections, their checks, and whether they may be fused."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Union

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module
from torch.nn.parameter import UninitializedParameter
from torch_geometric.nn.dense import Linear

from pyg_atomenc.attention import check_backend
from pyg_atomenc.checks import (
    check_channels,
    check_dropout,
    check_floating,
    check_shape,
    check_tensor,
    found,
)
from pyg_atomenc.errors import AtomEncodingError


def make_linear(in_channels: int, out_channels: int, bias: bool) -> Linear:
    """A projection in the way of PyG's attention layers: Glorot, lazy for -1."""
    return Linear(in_channels, out_channels, bias=bias, weight_initializer="glorot")


def check_options(edge_dim: Optional[int], dropout: float, backend: str) -> None:
    """Raise a ValueError unless the options that all layers have are valid."""
    if edge_dim is not None:
        check_channels(edge_dim=edge_dim)
    check_dropout(dropout)
    check_backend(backend)


def check_atoms(name: str, x: Any, linear: torch.nn.Module) -> Tensor:
    """The atoms ``[N, C]``, if a projection can take them.

    Raises:
        ValueError: If ``x`` is no floating matrix, or of other channels, type or device
            than the weights of ``linear``.
    """
    if check_tensor(name, x, "pass a tensor [num_atoms, in_channels].").dim() != 2:
        check_shape(name, x, "num_atoms", "in_channels")
    channels = getattr(linear, "in_channels", -1)
    if channels != -1 and x.size(1) != channels:
        raise AtomEncodingError(
            f"'{name}' has {x.size(1)} channels, but the layer was made with "
            f"in_channels={channels}: make it with in_channels={x.size(1)}, or -1."
        )
    check_floating(name, x)
    weight = getattr(linear, "weight", None)
    if not isinstance(weight, Tensor) or not weight.dtype.is_floating_point:
        return x
    if x.device != weight.device:
        raise AtomEncodingError(
            f"'{name}' is on {x.device}, but the layer on {weight.device}: move them "
            f"to one device."
        )
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise AtomEncodingError(
            f"'{name}' is of type {x.dtype}, but the layer of {weight.dtype}: convert "
            f"one of them, or run under torch.autocast."
        )
    return x


def edge_bias(
    lin_edge: Optional[Linear], edge_attr: Any, num_edges: Optional[int]
) -> Optional[Tensor]:
    """The logits' bias ``[E, H]`` from edge features ``[E, edge_dim]``.

    Raises:
        ValueError: If there is not one row an edge, or the layer has no weights for it.
    """
    if lin_edge is None:
        if edge_attr is not None:
            raise AtomEncodingError(
                "'edge_attr' was passed, but the layer has no weights for it: make it "
                "with edge_dim set to the number of edge features."
            )
        return None
    width = getattr(lin_edge, "in_channels", -1)
    if edge_attr is None:
        raise AtomEncodingError(
            f"'edge_attr' is missing: the layer was made with edge_dim={width}; pass "
            f"the features of every edge."
        )
    if isinstance(edge_attr, Tensor) and edge_attr.dim() == 1:
        edge_attr = edge_attr.unsqueeze(-1)
    fits = isinstance(edge_attr, Tensor) and edge_attr.dtype.is_floating_point
    if not fits or edge_attr.dim() != 2 or edge_attr.size(1) != width != -1:
        wanted = "edge_dim" if width == -1 else width
        raise AtomEncodingError(
            f"'edge_attr' needs the shape [num_edges, {wanted}] and a floating type, "
            f"found: {found(edge_attr)}."
        )
    if num_edges is not None and edge_attr.size(0) != num_edges:
        raise AtomEncodingError(
            f"'edge_attr' has {edge_attr.size(0)} rows for {num_edges} edges: give it "
            f"one row for every edge, of a layout those of layout.to_edge_index()."
        )
    return lin_edge(edge_attr)


class FusedWeights(NamedTuple):
    """Projections as :func:`~pyg_atomenc.attention.attention_encode` takes them.

    Attributes:
        weights (tuple): Of query, key and value, each ``[H, d, C]``.
        biases (tuple, optional): Likewise, each ``[H, d]``.
    """

    weights: tuple[Tensor, Tensor, Tensor]
    biases: Optional[tuple[Tensor, Tensor, Tensor]]


def fuse_projections(
    linears: Sequence[torch.nn.Module],
    heads: int,
    x: Tensor,
) -> Union[FusedWeights, str]:
    """The weights of three projections, or the reason why each has to be called.

    The weights are those that calling would use: lazy ones are made, and under autocast
    all are of its type.

    Args:
        linears (tuple): The projections of query, key and value.
        heads (int): The number of heads ``H``.
        x (Tensor): The atoms ``[N, C]`` that are to be projected.
    """
    if (
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    ):
        return "a hook on all modules wants to see them"
    weights, biases = [], []
    dtype = None
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    for linear in linears:
        # Of this very class: what derives from it may do anything else.
        if not isinstance(linear, Linear) or type(linear) is not Linear:
            return f"one is of type {type(linear).__name__}"
        if isinstance(linear.weight, UninitializedParameter):
            linear(x[:0])
        if (
            linear._forward_hooks
            or linear._forward_pre_hooks
            or linear._backward_hooks
            or linear._backward_pre_hooks
        ):
            return "a hook wants to see one"
        weight = linear.weight if dtype is None else linear.weight.to(dtype)
        weights.append(weight.view(heads, -1, weight.size(1)))
        if linear.bias is not None:
            biases.append(linear.bias.to(weight.dtype).view(heads, -1))
    if len({(w.shape, w.dtype, w.device) for w in weights}) > 1:
        return "they differ in shape, type or device"
    if len(biases) not in (0, 3):
        return "some have a bias, and others none"
    query, key, value = weights
    made = (biases[0], biases[1], biases[2]) if biases else None
    return FusedWeights((query, key, value), made)
