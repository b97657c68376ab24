"""What the layers share: projections, their checks, and whether they may be fused."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module
from torch.nn.parameter import Parameter, UninitializedParameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch_geometric.nn.dense import Linear
from torch_geometric.nn.inits import reset

import pyg_atomenc.checks as checks
from pyg_atomenc.attention import (
    check_backend,
    is_autocast_enabled,
    is_readable,
    refuse_script,
)
from pyg_atomenc.errors import AtomEncodingError

Projections = tuple[Tensor, Tensor, Tensor]
_HOOKS = "_forward_hooks _forward_pre_hooks _backward_hooks _backward_pre_hooks".split()
_GLOBAL_HOOKS = [getattr(torch_module, f"_global{name}") for name in _HOOKS]
_OF_ATOMS = ("num_atoms", "in_channels")
# What maps by its weight and bias alone; what derives from these may do anything else.
_PLAIN = (Linear, torch.nn.Linear)


def reset_children(module: torch.nn.Module) -> None:
    """Draw all parameters anew; what starts at zero starts at zero."""
    for child in module.children():
        reset(child)


class ZeroLinear(torch.nn.Linear):
    """Starts at zero, or with a bias at -2: a gate nearly shut, as in AlphaFold 3."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, bias)

    def reset_parameters(self) -> None:
        """Set the weight to zero, and shut a gate."""
        torch.nn.init.zeros_(self.weight)
        if self.bias is not None:
            torch.nn.init.constant_(self.bias, -2.0)


class AttentionProjections(torch.nn.Module):
    """What the encoder and the convolution share: options and projections.

    Weights are drawn in the way of PyG's attention layers: Glorot; lazy for -1. The
    arguments are those of the layers, ``**kwargs`` those of a message passing one.
    """

    def __init__(
        self,
        in_channels: Union[int, tuple[int, int]],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        *,
        bias: bool = False,
        edge_dim: Optional[int] = None,
        dropout: float = 0.0,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        # Messages are summed, as weights sum to 1, and nodes stand first in features.
        checks.check_choice("aggr", kwargs.get("aggr", "add"), ("add", "sum"))
        checks.check_choice("node_dim", kwargs.pop("node_dim", 0), (0, -2))
        both = isinstance(in_channels, (tuple, list))
        pair: Any = in_channels if both else (in_channels, in_channels)
        for channels in pair:
            checks.check_channels("in_channels", channels)
        # Of two kinds of nodes those attended to, and those that attend.
        backwards = kwargs.get("flow") == "target_to_source"
        source, target = pair[::-1] if backwards else pair
        checks.check_sizes(out_channels=out_channels, heads=heads)
        checks.check_dropout(dropout)
        check_backend(backend)
        super().__init__(**kwargs)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.concat, self.edge_dim = heads, concat, edge_dim
        self.dropout, self.backend = dropout, backend
        width, options = heads * out_channels, {"weight_initializer": "glorot"}
        self.lin_query = Linear(target, width, bias, **options)
        self.lin_key = Linear(source, width, bias, **options)
        self.lin_value = Linear(source, width, bias, **options)
        self.lin_edge = None
        if edge_dim is not None:
            checks.check_channels("edge_dim", edge_dim)
            self.lin_edge = Linear(edge_dim, heads, False, **options)
        self.reset_parameters()

    __prepare_scriptable__ = refuse_script
    reset_parameters = reset_children

    def edge_bias(self, edge_attr: Any, num_edges: Optional[int]) -> Optional[Tensor]:
        """The logits' bias ``[E, H]`` from edge features ``[E, edge_dim]``."""
        wanted = self.lin_edge is not None
        checks.check_wanted("edge_attr", edge_attr, wanted, "edge_dim")
        if edge_attr is None:
            return None
        if isinstance(edge_attr, Tensor) and edge_attr.dim() == 1:
            edge_attr = edge_attr.unsqueeze(-1)
        what: Any = {"name": "edge_attr", "shape": ("num_edges", "edge_dim")}
        self.check_features(edge_attr, "lin_edge", **what)
        if num_edges is not None:
            mend = "give it one an edge, of a layout those of layout.to_edge_index()."
            checks.check_rows("edge_attr", edge_attr, num_edges, "edges", mend)
        few = edge_attr.device.type == "cpu" and edge_attr.size(1) <= 16
        if few and is_readable(edge_attr):
            # Head by head in memory, as logits take it, and in less time.
            linear: Any = self.lin_edge
            called = has_to_be_called(linear, edge_attr) or linear.bias is not None
            if not called and linear.weight.size(0) == self.heads:
                return linear.weight.mm(edge_attr.mT).mT
        return self._project("lin_edge", edge_attr, self.heads)

    def project(self, target: Tensor, source: Tensor) -> Projections:
        """Queries of targets, keys and values of sources, each ``[N, H, d]``."""
        inputs = {"lin_query": target, "lin_key": source, "lin_value": source}
        shape = (self.heads, self.out_channels)
        out = [self._project(lin, x, shape[0] * shape[1]) for lin, x in inputs.items()]
        kinds = [x.dtype for x in out]
        # Autocast leaves alone what is no matrix product, such as an Identity.
        widest = reduce(torch.promote_types, kinds)
        if len(set(kinds)) > 1 and not is_autocast_enabled(target.device):
            found = f"{', '.join(map(repr, inputs))} give {kinds}"
            raise AtomEncodingError(f"{found}: let them give one type.")
        query, key, value = (x.to(widest).unflatten(1, shape) for x in out)
        return query, key, value

    def _project(self, name: str, x: Tensor, width: int) -> Tensor:
        """What the module of a name, whatever it is, gives: ``[N, width]``."""
        out = getattr(self, name)(x)
        fits = isinstance(out, Tensor) and out.dtype.is_floating_point
        if not fits or out.shape != (x.size(0), width):
            mend = f"floating numbers of shape [{x.size(0)}, {width}]."
            found = f"{checks.found(out)}: let it map {list(x.shape)} to {mend}"
            raise AtomEncodingError(f"'{name}' gives {found}")
        return out

    def check_features(
        self, x: Any, *lins: str, name: str = "x", shape: tuple[str, str] = _OF_ATOMS
    ) -> None:
        """Check what goes into projections, by their weights where those are known.

        Nothing is asked of modules that may convert, or make their weight in a hook.
        """
        checks.check_floating(name, checks.check_shape(name, x, *shape))
        for lin in lins:
            linear: Any = getattr(self, lin)
            if type(linear) not in _PLAIN or "weight" in linear.__dict__:
                continue
            weight: Tensor = linear.weight
            checks.check_device(name, x, lin, weight.device)
            made = type(weight) is not UninitializedParameter
            if made and x.size(1) != weight.size(1):
                hint = f"or make '{lin}' with {shape[1]}={x.size(1)}, or -1"
                checks.check_shape(name, x, shape[0], weight.size(1), hint=hint)
            if x.dtype != weight.dtype and not is_autocast_enabled(x.device):
                found = f"'{name}' is of type {x.dtype}, but '{lin}' of {weight.dtype}"
                mend = "convert one of them, or run under torch.autocast."
                raise AtomEncodingError(f"{found}: {mend}")

    def merge_heads(self, out: Tensor) -> Tensor:
        """``[N, H, d]`` → ``[N, H * d]``, or ``[N, d]`` without ``concat``."""
        return out.flatten(1) if self.concat else out.mean(dim=1)

    def __repr__(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, heads={self.heads}"
        return f"{type(self).__name__}({sizes})"


def fuse_projections(
    linears: Sequence[Any], shape: tuple[int, int], x: Tensor
) -> Optional[tuple[Projections, Optional[Projections]]]:
    """Weights and biases for one function, or ``None`` where each has to be called.

    Those of query, key and value, each ``[H, d, C]`` and ``[H, d]`` with (H, d) the
    ``shape``, which calling them for atoms ``[N, C]`` would use: lazy ones made, under
    autocast of its type. Without biases ``None``.
    """
    if any(has_to_be_called(linear, x) for linear in linears):
        return None
    weights = [linear.weight for linear in linears]
    if is_autocast_enabled(x.device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        weights = [weight.to(dtype) for weight in weights]
    biases = [linear.bias for linear in linears if linear.bias is not None]
    kinds = {(w.size(0), w.size(1), w.dtype, w.device) for w in weights}
    width, channels = weights[0].shape
    if len(kinds) > 1 or width != shape[0] * shape[1] or len(biases) not in (0, 3):
        return None
    packed: Any = tuple([weight.view(*shape, channels) for weight in weights])
    shifts: Any = tuple([bias.to(weights[0].dtype).view(shape) for bias in biases])
    return packed, shifts or None


def has_to_be_called(linear: Any, x: Tensor) -> bool:
    """Whether weight and bias do not say all of what a projection does with ``x``."""
    own = linear.__dict__
    if type(linear) not in _PLAIN or "forward" in own or any(_GLOBAL_HOOKS):
        return True
    weight = linear.weight
    if type(weight) is UninitializedParameter:
        linear(x[:0])
    wrapped = type(weight) is not Parameter and is_traceable_wrapper_subclass(weight)
    return wrapped or any([own[name] for name in _HOOKS])


def folded_weight(linear: Any, name: str) -> Tensor:
    """The weight of a layer that is multiplied with others, and never called."""
    # Calling has to use just this weight: old weight_norm and pruning make it then.
    made = "weight" in linear.__dict__ and len(linear._forward_pre_hooks) > 0
    own = "forward" in linear.__dict__
    if own or made or type(linear).forward is not torch.nn.Linear.forward:
        kind = "a hook that makes its weight" if made else "a forward of its own"
        found = f"'{name}' ({type(linear).__name__}) has {kind}, but is never called"
        mend = "leave it a torch.nn.Linear, parametrized or not, without an adapter."
        raise AtomEncodingError(f"{found}: {mend}")
    return linear.weight
