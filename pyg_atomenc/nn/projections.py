"""What the layers share: projections, their checks, and whether they may be fused."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module
from torch.nn.parameter import UninitializedParameter
from torch_geometric.nn.dense import Linear
from torch_geometric.nn.inits import reset

import pyg_atomenc.checks as checks
from pyg_atomenc.attention import check_backend, is_autocast_enabled, refuse_script
from pyg_atomenc.errors import AtomEncodingError

Projections = tuple[Tensor, Tensor, Tensor]
_HOOKS = [
    f"_{way}{when}_hooks" for way in ("forward", "backward") for when in ("", "_pre")
]


class AttentionProjections(torch.nn.Module):
    """What the encoder and the convolution share: options and projections.

    Weights are drawn in the way of PyG's attention layers: Glorot; lazy for -1. The
    arguments are those of the layers, ``**kwargs`` those of a message passing one.
    """

    def __init__(
        self,
        in_channels: Union[int, tuple[int, int]],
        out_channels: int,
        heads: int,
        concat: bool,
        bias: bool,
        edge_dim: Optional[int],
        dropout: float,
        backend: str,
        **kwargs: Any,
    ) -> None:
        both = isinstance(in_channels, (tuple, list))
        pair: Any = in_channels if both else (in_channels, in_channels)
        for channels in pair:
            checks.check_channels(in_channels=channels)
        # Of two kinds of nodes those attended to, and those that attend.
        source, target = pair
        if kwargs.get("flow") == "target_to_source":
            source, target = target, source
        checks.check_sizes(out_channels=out_channels, heads=heads)
        checks.check_dropout(dropout)
        check_backend(backend)
        super().__init__(**kwargs)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.edge_dim = edge_dim
        self.dropout = dropout
        self.backend = backend
        width, options = heads * out_channels, {"weight_initializer": "glorot"}
        self.lin_query = Linear(target, width, bias, **options)
        self.lin_key = Linear(source, width, bias, **options)
        self.lin_value = Linear(source, width, bias, **options)
        self.lin_edge = None
        if edge_dim is not None:
            checks.check_channels(edge_dim=edge_dim)
            self.lin_edge = Linear(edge_dim, heads, False, **options)
        self.reset_parameters()

    __prepare_scriptable__ = refuse_script

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for child in self.children():
            reset(child)

    def check_atoms(self, x: Any, linear: torch.nn.Module) -> None:
        """Check that a projection can take the atoms ``[N, C]``.

        Raises:
            ValueError: If ``x`` is no floating matrix, or of other channels, type or
                device than the weights of ``linear``.
        """
        checks.check_tensor("x", x, "pass a tensor [num_atoms, in_channels].")
        checks.check_shape("x", x, "num_atoms", "in_channels")
        channels = getattr(linear, "in_channels", -1)
        if channels != -1 and x.size(1) != channels:
            raise AtomEncodingError(
                f"'x' has {x.size(1)} channels, but the layer was made with "
                f"in_channels={channels}: make it with in_channels={x.size(1)}, or -1."
            )
        checks.check_floating("x", x)
        _check_kind("x", x, linear)

    def edge_bias(self, edge_attr: Any, num_edges: Optional[int]) -> Optional[Tensor]:
        """The logits' bias ``[E, H]`` from edge features ``[E, edge_dim]``.

        Raises:
            ValueError: If there is not one row an edge, or no weights for it.
        """
        if self.lin_edge is None:
            if edge_attr is not None:
                raise AtomEncodingError(
                    "'edge_attr' was passed, but the layer has no weights for it: make "
                    "it with edge_dim set to the number of edge features."
                )
            return None
        width = getattr(self.lin_edge, "in_channels", -1)
        if edge_attr is None:
            raise AtomEncodingError(
                f"'edge_attr' is missing: the layer was made with edge_dim={width}; "
                f"pass the features of every edge."
            )
        if isinstance(edge_attr, Tensor) and edge_attr.dim() == 1:
            edge_attr = edge_attr.unsqueeze(-1)
        wanted = "edge_dim" if width == -1 else width
        checks.check_shape("edge_attr", edge_attr, "num_edges", wanted)
        checks.check_floating("edge_attr", edge_attr)
        if num_edges is not None:
            mend = "give it one an edge, of a layout those of layout.to_edge_index()."
            checks.check_rows("edge_attr", edge_attr, num_edges, "edges", mend)
        _check_kind("edge_attr", edge_attr, self.lin_edge)
        return self.lin_edge(edge_attr)

    def split_heads(self, x: Tensor) -> Tensor:
        """``[N, H * d]`` → ``[N, H, d]``."""
        return x.view(-1, self.heads, self.out_channels)

    def merge_heads(self, out: Tensor) -> Tensor:
        """``[N, H, d]`` → ``[N, H * d]``, or ``[N, d]`` without ``concat``."""
        return out.flatten(1) if self.concat else out.mean(dim=1)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, heads={self.heads}"
        return f"{type(self).__name__}({sizes})"


def _check_kind(name: str, x: Tensor, linear: torch.nn.Module) -> None:
    """Raise a ValueError unless a layer's weights are of the device and type of ``x``.

    Of a module without floating weights, nothing is asked.
    """
    weight = getattr(linear, "weight", None)
    if not isinstance(weight, Tensor) or not weight.dtype.is_floating_point:
        return
    checks.check_device(name, x, "layer", weight.device)
    if x.dtype != weight.dtype and not is_autocast_enabled(x.device):
        raise AtomEncodingError(
            f"'{name}' is of type {x.dtype}, but the layer of {weight.dtype}: convert "
            f"one of them, or run under torch.autocast."
        )


def fuse_projections(
    linears: Sequence[torch.nn.Module], heads: int, x: Tensor
) -> Union[tuple[Projections, Optional[Projections]], str]:
    """Weights and biases for one function, or the reason why each has to be called.

    They are those that calling would use: lazy ones made, under autocast of its type.

    Args:
        linears (tuple): The projections of query, key and value.
        heads (int): The number of heads ``H``.
        x (Tensor): The atoms ``[N, C]`` that are to be projected.

    Returns:
        tuple or str: The weights, each ``[H, d, C]``, and the biases, each ``[H, d]``,
        or ``None``; or the reason.
    """
    if any(getattr(torch_module, f"_global{name}") for name in _HOOKS):
        return "a hook on all modules wants to see them"
    weights, biases = [], []
    dtype = None
    if is_autocast_enabled(x.device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    for linear in linears:
        # Of this very class: what derives from it may do anything else.
        if not isinstance(linear, Linear) or type(linear) is not Linear:
            return f"one is of type {type(linear).__name__}"
        if "forward" in linear.__dict__:
            return "the forward function of one was replaced"
        if isinstance(linear.weight, UninitializedParameter):
            linear(x[:0])
        if any(getattr(linear, name) for name in _HOOKS):
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
    return (query, key, value), (biases[0], biases[1], biases[2]) if biases else None
