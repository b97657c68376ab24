"""`TokenAttentionConv`: dot-product attention as a PyG convolution."""

from typing import Any, Optional, Union

from torch import Tensor
from torch_geometric.typing import Adj, PairTensor, Size

from pyg_atomenc.attention import TokenLayout, WindowLayout, attention
from pyg_atomenc.attention.edges import EdgeAttention
from pyg_atomenc.attention.inputs import Layout, check_device
from pyg_atomenc.checks import check_sizes
from pyg_atomenc.errors import AtomEncodingError, BackendError
from pyg_atomenc.nn.projections import (
    check_atoms,
    check_in_channels,
    check_options,
    edge_bias,
    make_linear,
)

# Hooks of MessagePassing that only see anything when messages are passed.
_HOOKS = (
    "_propagate_forward_pre_hooks",
    "_propagate_forward_hooks",
    "_message_forward_pre_hooks",
    "_message_forward_hooks",
    "_aggregate_forward_pre_hooks",
    "_aggregate_forward_hooks",
    "_edge_update_forward_pre_hooks",
    "_edge_update_forward_hooks",
)


class TokenAttentionConv(EdgeAttention):
    r"""Multi-head attention over edges, or among the atoms of every token.

    .. math::
        o_i = \Vert_{h} \sum_{j \in \mathcal{N}(i)} \alpha^h_{ij} W^h_v x_j, \qquad
        \alpha^h_{ij} = \mathrm{softmax}_j\left(
        \frac{(W^h_q x_i) \cdot (W^h_k x_j)}{\sqrt{d}} + W^h_e e_{ij} \right)

    This is the scaled dot-product attention of `"Attention Is All You Need"
    <https://arxiv.org/abs/1706.03762>`_ over a graph, with the edge features as an
    additive bias on the logits, as the pair bias of AlphaFold 3 (Algorithm 24 of its
    supplement). Given a :class:`~pyg_atomenc.attention.TokenLayout` or a
    :class:`~pyg_atomenc.attention.WindowLayout` instead of an edge list, it
    computes the same over ``layout.to_edge_index()`` without making that list.

    Args:
        in_channels (int or tuple): Channels of the nodes, ``-1`` to take them from the
            first input; a tuple for source and target nodes of a bipartite graph.
        out_channels (int): Channels ``d`` of every head.
        heads (int): Number of heads ``H``. (default: ``1``)
        concat (bool): Concatenate the heads; else average them. (default: ``True``)
        bias (bool): Give the projections an additive bias. (default: ``False``)
        edge_dim (int, optional): Number of edge features. (default: ``None``)
        dropout (float): Probability to drop an attention weight when training.
            (default: ``0.0``)
        backend (str): How to attend over a layout: ``"auto"`` or a backend's name.
            Edge lists are always attended over as messages. (default: ``"auto"``)
        **kwargs: Of :class:`torch_geometric.nn.conv.MessagePassing`, but for ``aggr``.

    Shapes:
        - input: nodes ``[N, C]`` or ``([N_source, C], [N_target, C])``, edges
          ``[2, E]``, a sparse adjacency or a layout, edge features ``[E, edge_dim]``
        - output: ``[N, H * d]``, ``[N, d]`` without ``concat``; with
          ``return_attention_weights`` also ``(edges, [E, H])``

    Raises:
        ValueError: If a size is not positive, or if inputs do not fit the layer.
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
        pair = (
            in_channels
            if isinstance(in_channels, (tuple, list))
            else (in_channels, in_channels)
        )
        for channels in pair:
            check_in_channels(channels)
        check_sizes(out_channels=out_channels, heads=heads)
        check_options(edge_dim, dropout, backend)
        if kwargs.get("aggr", "add") not in ("add", "sum"):
            raise AtomEncodingError(
                f"'aggr' is {kwargs['aggr']!r}: attention weights sum to 1, so "
                f"messages are always summed; leave 'aggr' out."
            )
        super().__init__(**kwargs)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.edge_dim = edge_dim
        self.dropout = dropout
        self.backend = backend
        width = heads * out_channels
        self.lin_query = make_linear(pair[1], width, bias)
        self.lin_key = make_linear(pair[0], width, bias)
        self.lin_value = make_linear(pair[0], width, bias)
        self.lin_edge = (
            None if edge_dim is None else make_linear(edge_dim, heads, False)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        for linear in (self.lin_query, self.lin_key, self.lin_value, self.lin_edge):
            if linear is not None:
                linear.reset_parameters()

    def forward(
        self,
        x: Union[Tensor, PairTensor],
        edge_index: Union[Adj, Layout],
        edge_attr: Optional[Tensor] = None,
        size: Size = None,
        return_attention_weights: Optional[bool] = None,
    ) -> Any:
        """Attend; shapes are those of the class.

        Args:
            x (Tensor or tuple): Node features.
            edge_index (Tensor, SparseTensor, TokenLayout or WindowLayout): Who attends
                to whom: targets ``edge_index[1]`` to sources ``edge_index[0]``, or all
                atoms of a token to each other, or of a window to those around it.
            edge_attr (Tensor, optional): Edge features, in the order of the edges, or
                of ``layout.to_edge_index()``. (default: ``None``)
            size (tuple, optional): Numbers of source and target nodes.
                (default: ``None``)
            return_attention_weights (bool, optional): Also give the edges and their
                weights. (default: ``None``)

        Returns:
            Tensor or tuple: ``out``, or ``(out, (edge_index, alpha))``.
        """
        layout: Optional[Layout] = None
        edges: Any = edge_index
        if isinstance(edge_index, (TokenLayout, WindowLayout)):
            layout = edge_index
        source, target = x if isinstance(x, (tuple, list)) else (x, x)
        check_atoms("x", source, self.lin_key.in_channels, self.lin_key.weight)
        check_atoms("x", target, self.lin_query.in_channels, self.lin_query.weight)
        query = self._split_heads(self.lin_query(target))
        key = self._split_heads(self.lin_key(source))
        value = self._split_heads(self.lin_value(source))
        bias = edge_bias(self.lin_edge, edge_attr)
        dropout = self.dropout if self.training else 0.0

        if layout is not None:
            if isinstance(x, (tuple, list)):
                raise AtomEncodingError(
                    "'x' is a pair, but a layout joins atoms of one graph: pass one "
                    "tensor, or an edge list."
                )
            if not self._needs_messages(layout, bool(return_attention_weights)):
                out = attention(
                    query,
                    key,
                    value,
                    layout,
                    bias,
                    dropout=dropout,
                    backend=self.backend,
                )
                return self._merge_heads(out)
            check_device("x", source, layout)
            edges = layout.to_edge_index()
        elif self.backend not in ("auto", "edges"):
            raise BackendError(
                f"'backend' is {self.backend!r}, which cannot attend over an edge "
                f"list: pass a layout as 'edge_index', or use backend='auto'."
            )
        out, alpha = self.attend(edges, query, key, value, bias, size, dropout=dropout)
        out = self._merge_heads(out.to(value.dtype))
        return (out, (edges, alpha)) if return_attention_weights else out

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(-1, self.heads, self.out_channels)

    def _merge_heads(self, out: Tensor) -> Tensor:
        return out.flatten(1) if self.concat else out.mean(dim=1)

    def _needs_messages(self, layout: Layout, weights: bool) -> bool:
        """Whether somebody wants to see messages over the layout's edges."""
        if weights or any(len(getattr(self, name, ())) > 0 for name in _HOOKS):
            return True
        # An explainer masks the edges of the model's edge_index. They are this
        # layout's only where they are as many, and the same of them are self loops.
        mask, loop_mask = self._edge_mask, self._loop_mask
        if not self.explain or mask is None or mask.size(0) != layout.num_pairs:
            return False
        source, target = layout.to_edge_index()
        return bool(((source != target) == loop_mask).all())

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}, "
            f"heads={self.heads})"
        )
