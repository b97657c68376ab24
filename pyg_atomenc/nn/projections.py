"""What the layers share: projections, their checks, and whether they may be fused."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module
from torch.nn.parameter import UninitializedParameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch_geometric.nn.dense import Linear
from torch_geometric.nn.inits import reset

import pyg_atomenc.checks as checks
from pyg_atomenc.attention import check_backend
from pyg_atomenc.errors import AtomEncodingError

Projections = tuple[Tensor, Tensor, Tensor]
_HOOKS = [
    f"_{way}{when}_hooks" for way in ("forward", "backward") for when in ("", "_pre")
]
# What maps by its weight and bias alone; what derives from these may do anything else.
_PLAIN = (Linear, torch.nn.Linear)


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

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for child in self.children():
            reset(child)

    def __prepare_scriptable__(self) -> Any:
        """Refuse ``torch.jit.script``, which asks here for what to compile."""
        raise AtomEncodingError(
            f"'{type(self).__name__}' cannot be scripted, for TorchScript knows no "
            f"layouts: use torch.compile, or torch.export to save a program."
        )

    def check_atoms(self, x: Any, *names: str) -> None:
        """Check that the projections of these names can take the atoms ``[N, C]``.

        Raises:
            ValueError: If ``x`` is no floating matrix, or of other channels, type or
                device than their weights.
        """
        checks.check_tensor("x", x, "pass a tensor [num_atoms, in_channels].")
        checks.check_shape("x", x, "num_atoms", "in_channels")
        checks.check_floating("x", x)
        for name in names:
            channels = _in_channels(getattr(self, name))
            if channels != -1 and x.size(1) != channels:
                raise AtomEncodingError(
                    f"'x' has {x.size(1)} channels, but '{name}' in_channels="
                    f"{channels}: make the layer with in_channels={x.size(1)}, or -1."
                )
            self._check_kind("x", x, name)

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
        if edge_attr is None:
            raise AtomEncodingError(
                f"'edge_attr' is missing: the layer was made with "
                f"edge_dim={self.edge_dim}; pass the features of every edge."
            )
        if isinstance(edge_attr, Tensor) and edge_attr.dim() == 1:
            edge_attr = edge_attr.unsqueeze(-1)
        width = _in_channels(self.lin_edge)
        wanted = "edge_dim" if width == -1 else width
        checks.check_shape("edge_attr", edge_attr, "num_edges", wanted)
        checks.check_floating("edge_attr", edge_attr)
        if num_edges is not None:
            mend = "give it one an edge, of a layout those of layout.to_edge_index()."
            checks.check_rows("edge_attr", edge_attr, num_edges, "edges", mend)
        self._check_kind("edge_attr", edge_attr, "lin_edge")
        return self._project("lin_edge", edge_attr, self.heads)

    def project(self, target: Tensor, source: Tensor) -> Projections:
        """Queries of the targets, keys and values of the sources, each ``[N, H, d]``.

        Raises:
            ValueError: If a projection gives another shape or type.
        """
        width = self.heads * self.out_channels
        query = self._project("lin_query", target, width)
        key = self._project("lin_key", source, width)
        value = self._project("lin_value", source, width)
        if torch.is_autocast_enabled(query.device.type):
            # It leaves alone what is no matrix product, such as an Identity.
            dtype = torch.promote_types(key.dtype, value.dtype)
            dtype = torch.promote_types(query.dtype, dtype)
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        for name, out in (("lin_key", key), ("lin_value", value)):
            if out.dtype != query.dtype:
                raise AtomEncodingError(
                    f"'{name}' gives {out.dtype}, but 'lin_query' {query.dtype}: let "
                    f"them give one type."
                )
        shape = (self.heads, self.out_channels)
        return (
            query.unflatten(1, shape),
            key.unflatten(1, shape),
            value.unflatten(1, shape),
        )

    def _project(self, name: str, x: Tensor, width: int) -> Tensor:
        """What the module of a name, whatever it is, gives: ``[N, width]``."""
        out = getattr(self, name)(x)
        fits = isinstance(out, Tensor) and out.dtype.is_floating_point
        if not fits or out.shape != (x.size(0), width):
            raise AtomEncodingError(
                f"'{name}' gives {checks.found(out)}: let it map {list(x.shape)} to "
                f"floating numbers of shape [{x.size(0)}, {width}]."
            )
        return out

    def _check_kind(self, name: str, x: Tensor, lin: str) -> None:
        """Raise a ValueError unless weights are of the device and type of ``x``.

        Nothing is asked of what converts itself, nor of a weight that a hook makes.
        """
        linear: Any = getattr(self, lin)
        if type(linear) not in _PLAIN or "weight" in linear.__dict__:
            return
        weight: Tensor = linear.weight
        checks.check_device(name, x, lin, weight.device)
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise AtomEncodingError(
                f"'{name}' is of type {x.dtype}, but '{lin}' of {weight.dtype}: "
                f"convert one of them, or run under torch.autocast."
            )

    def merge_heads(self, out: Tensor) -> Tensor:
        """``[N, H, d]`` → ``[N, H * d]``, or ``[N, d]`` without ``concat``."""
        return out.flatten(1) if self.concat else out.mean(dim=1)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, heads={self.heads}"
        return f"{type(self).__name__}({sizes})"


def _in_channels(linear: torch.nn.Module) -> int:
    """How many channels a projection takes, -1 where it takes or may take any."""
    if type(linear) not in _PLAIN:
        return -1
    own = "in_channels" if isinstance(linear, Linear) else "in_features"
    return int(getattr(linear, own))


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
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
    for linear in linears:
        if not isinstance(linear, _PLAIN) or type(linear) not in _PLAIN:
            return f"one is of type {type(linear).__name__}"
        if "forward" in linear.__dict__:
            return "the forward function of one was replaced"
        if isinstance(linear.weight, UninitializedParameter):
            linear(x[:0])
        if any(getattr(linear, name) for name in _HOOKS):
            return "a hook wants to see one"
        weight = linear.weight
        if is_traceable_wrapper_subclass(weight):
            return f"the weight of one is a {type(weight).__name__}"
        weight = weight if dtype is None else weight.to(dtype)
        weights.append(weight.view(heads, -1, weight.size(1)))
        if linear.bias is not None:
            biases.append(linear.bias.to(weight.dtype).view(heads, -1))
    if len({(w.shape, w.dtype, w.device) for w in weights}) > 1:
        return "they differ in shape, type or device"
    if len(biases) not in (0, 3):
        return "some have a bias, and others none"
    query, key, value = weights
    return (query, key, value), (biases[0], biases[1], biases[2]) if biases else None


def folded_weight(linear: Any, name: str) -> Tensor:
    """The weight of a layer that is not called, since it is multiplied with others.

    Args:
        linear (torch.nn.Linear): The layer.
        name (str): What errors call it.

    Raises:
        ValueError: If calling the layer would not use just this weight.
    """
    plain = type(linear).forward is torch.nn.Linear.forward
    # Old weight_norm and pruning make the weight when the layer is called.
    made = "weight" in linear.__dict__ and len(linear._forward_pre_hooks) > 0
    if not plain or made or "forward" in linear.__dict__:
        kind = (
            "has its weight made by a hook" if made else f"is {type(linear).__name__}"
        )
        raise AtomEncodingError(
            f"'{name}' {kind}, but its weight is multiplied with others and the layer "
            f"never called: leave it a torch.nn.Linear, parametrized or not; of LoRA, "
            f"exclude it or merge the weights."
        )
    weight: Tensor = linear.weight
    return weight
