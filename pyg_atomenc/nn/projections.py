"""What the layers share: their projections, and the checks of their arguments."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric.nn.dense import Linear

from pyg_atomenc.attention.dispatch import check_backend
from pyg_atomenc.attention.inputs import check_dropout
from pyg_atomenc.checks import check_sizes
from pyg_atomenc.errors import AtomEncodingError


def check_in_channels(in_channels: Any) -> None:
    """Raise a ValueError unless ``in_channels`` is a positive int or -1."""
    if in_channels != -1:
        check_sizes(in_channels=in_channels)


def check_options(edge_dim: Optional[int], dropout: float, backend: str) -> None:
    """Raise a ValueError unless the options that all layers have are valid."""
    if edge_dim is not None and edge_dim != -1:
        check_sizes(edge_dim=edge_dim)
    check_dropout(dropout)
    check_backend(backend)


def check_atoms(name: str, x: Any, in_channels: int, weight: Tensor) -> None:
    """Raise a ValueError unless ``x`` is a float matrix that the layer can project."""
    if not isinstance(x, Tensor):
        raise AtomEncodingError(
            f"'{name}' is of type {type(x).__name__}: pass a tensor [num_atoms, "
            f"in_channels]."
        )
    if x.dim() != 2:
        raise AtomEncodingError(
            f"'{name}' has shape {list(x.shape)}: pass a matrix [num_atoms, "
            f"in_channels]."
        )
    if in_channels != -1 and x.size(1) != in_channels:
        raise AtomEncodingError(
            f"'{name}' has {x.size(1)} channels, but the layer was made with "
            f"in_channels={in_channels}: make it with in_channels={x.size(1)}, or -1."
        )
    if not x.dtype.is_floating_point:
        raise AtomEncodingError(
            f"'{name}' is of type {x.dtype}: pass floating features; embed integer "
            f"ones first, for example with torch.nn.Embedding."
        )
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


def edge_bias(
    lin_edge: Optional[Linear], edge_attr: Any, num_edges: Optional[int] = None
) -> Optional[Tensor]:
    """The logits' bias ``[E, H]`` from edge features ``[E, edge_dim]``."""
    if lin_edge is None:
        if edge_attr is not None:
            raise AtomEncodingError(
                "'edge_attr' was passed, but the layer has no weights for it: make it "
                "with edge_dim set to the number of edge features."
            )
        return None
    if edge_attr is None:
        raise AtomEncodingError(
            f"'edge_attr' is missing: the layer was made with "
            f"edge_dim={lin_edge.in_channels}; pass the features of every edge."
        )
    if isinstance(edge_attr, Tensor) and edge_attr.dim() == 1:
        edge_attr = edge_attr.unsqueeze(-1)
    wanted = "edge_dim" if lin_edge.in_channels == -1 else lin_edge.in_channels
    if (
        not isinstance(edge_attr, Tensor)
        or edge_attr.dim() != 2
        or edge_attr.size(1) != lin_edge.in_channels != -1
        or not edge_attr.dtype.is_floating_point
    ):
        found = (
            f"{list(edge_attr.shape)} of {edge_attr.dtype}"
            if isinstance(edge_attr, Tensor)
            else type(edge_attr).__name__
        )
        raise AtomEncodingError(
            f"'edge_attr' needs the shape [num_edges, {wanted}] and a floating type, "
            f"found: {found}."
        )
    if num_edges is not None and edge_attr.size(0) != num_edges:
        raise AtomEncodingError(
            f"'edge_attr' has {edge_attr.size(0)} rows for {num_edges} pairs of atoms: "
            f"give it one row for every edge of layout.to_edge_index()."
        )
    return lin_edge(edge_attr)


def make_linear(in_channels: int, out_channels: int, bias: bool) -> Linear:
    """A projection in the way of PyG's attention layers: Glorot, lazy for -1."""
    return Linear(in_channels, out_channels, bias=bias, weight_initializer="glorot")
