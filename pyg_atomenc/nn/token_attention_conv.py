"""`TokenAttentionConv`: dot-product attention as a PyG convolution."""

from typing import Any, Optional, Union

from torch import Tensor
from torch_geometric.typing import Adj, PairTensor, Size, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index

from pyg_atomenc.attention import EdgeAttention, Layout, as_layout, attention
from pyg_atomenc.checks import check_choice
from pyg_atomenc.nn.projections import AttentionProjections

# Hooks of MessagePassing that only see anything when messages are passed.
_STEPS = ("propagate", "message", "aggregate", "edge_update")
_HOOKS = [f"_{step}_forward{when}_hooks" for step in _STEPS for when in ("_pre", "")]


class TokenAttentionConv(AttentionProjections, EdgeAttention):
    r"""Multi-head attention over edges, or among the atoms of every token.

    .. math::
        o_i = \Vert_{h} \sum_{j \in \mathcal{N}(i)} \alpha^h_{ij} W^h_v x_j, \qquad
        \alpha^h_{ij} = \mathrm{softmax}_j\left(
        \frac{(W^h_q x_i) \cdot (W^h_k x_j)}{\sqrt{d}} + W^h_e e_{ij} \right)

    This is the scaled dot-product attention of `"Attention Is All You Need"
    <https://arxiv.org/abs/1706.03762>`_ over a graph, with the edge features as an
    additive bias on the logits, as the pair bias of AlphaFold 3 (Algorithm 24 of its
    supplement). Given a layout, such as a
    :class:`~pyg_atomenc.attention.TokenLayout`, instead of an edge list, it computes
    the same over ``layout.to_edge_index()`` without making that list.

    Args:
        in_channels (int or tuple): Channels of the nodes, ``-1`` to take them from the
            first input; a tuple for source and target nodes of a bipartite graph.
        out_channels (int): Channels ``d`` of every head.
        heads (int): Number of heads ``H``. (default: ``1``)
        concat, bias, edge_dim, dropout: As for
            :class:`~pyg_atomenc.nn.AtomAttentionEncoder`.
        backend (str): As there, but messages are passed where somebody sees them.
        **kwargs: Of :class:`torch_geometric.nn.conv.MessagePassing`, but for ``aggr``.

    Shapes:
        - input: nodes ``[N, C]`` or ``([N_source, C], [N_target, C])``, edges
          ``[2, E]``, a sparse adjacency or a layout, edge features ``[E, edge_dim]``
        - output: ``[N, H * d]``, ``[N, d]`` without ``concat``; with
          ``return_attention_weights`` also ``(edges, [E, H])``

    Raises:
        ValueError: If a size is not positive, or if inputs do not fit the layer.
    """

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
            edge_index (Tensor, SparseTensor or Layout): Who attends to whom: targets
                ``edge_index[1]`` to sources ``edge_index[0]`` (the other way round with
                ``flow="target_to_source"``), or what a layout says: all atoms of a
                token to each other, or of a window to those around it.
            edge_attr (Tensor, optional): Edge features, in the order of the edges, or
                of ``layout.to_edge_index()``. (default: those of a sparse adjacency)
            size (tuple, optional): Numbers of sources and targets.
            return_attention_weights (bool, optional): Give ``out`` and beside it the
                edges and their weights, ``(out, (edge_index, alpha))``.
        """
        # Nodes attended to come first, and those that attend second, but for that flow.
        order = 1 if self.flow == "source_to_target" else -1
        source, target = (x if isinstance(x, (tuple, list)) else (x, x))[::order]
        self.check_features(source, "lin_key", "lin_value")
        self.check_features(target, "lin_query")
        counts = source.size(0), target.size(0)
        for count, told in zip(counts[::order], size or (None, None), strict=True):
            check_choice("size", told, (None, count))
        layout = as_layout(edge_index, *counts, flow=str(self.flow))
        query, key, value = self.project(target, source)
        if edge_attr is None and self.lin_edge is not None:
            edge_attr = _features_in(edge_index)
        bias = self.edge_bias(edge_attr, layout.num_pairs)
        dropout = self.dropout if self.training else 0.0
        if not return_attention_weights and not self._needs_messages(layout):
            options: Any = {"dropout": dropout, "backend": self.backend}
            out = attention(query, key, value, layout, bias, **options)
            return self.merge_heads(out)
        layout.check_device("x", source)
        pairs = layout.to_edge_index()
        edges = pairs if order == 1 else pairs.flip(0)
        out, alpha = self.attend(edges, query, key, value, bias, dropout=dropout)
        out = self.merge_heads(out.to(value.dtype))
        given = edges if layout is edge_index else edge_index
        return (out, (given, alpha)) if return_attention_weights else out

    def _needs_messages(self, layout: Layout) -> bool:
        """Whether somebody wants to see messages over the layout's edges."""
        kind, steps = type(self), ("edge_update", "message", "aggregate", "update")
        own = any(getattr(kind, s) is not getattr(TokenAttentionConv, s) for s in steps)
        if own or any(getattr(self, name, ()) for name in _HOOKS):
            return True
        # An explainer masks the edges of the model's edge_index. They are this
        # layout's only where they are as many, and the same of them are self loops.
        mask: Any = self._edge_mask
        if not self.explain or mask is None or mask.size(0) != layout.num_pairs:
            return False
        source, target = layout.to_edge_index()
        return bool(((source != target) == self._loop_mask).all())


def _features_in(edge_index: Any) -> Any:
    """The edge features that an adjacency holds, where PyG's layers take them, too."""
    if isinstance(edge_index, SparseTensor):
        return edge_index.storage.value()
    if not is_torch_sparse_tensor(edge_index):
        return None
    values = to_edge_index(edge_index)[1]
    # A vector of ones says that there is an edge, and no more.
    return values if values.dim() > 1 else None
