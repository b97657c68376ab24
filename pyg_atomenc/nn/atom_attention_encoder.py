"""`AtomAttentionEncoder`: from atoms to tokens."""

from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch_geometric.nn.aggr import Aggregation

import pyg_atomenc.attention as attention
from pyg_atomenc.attention import TokenLayout, attention_encode, attention_pool
from pyg_atomenc.checks import check_choice
from pyg_atomenc.nn.projections import AttentionProjections, fuse_projections


class AtomAttentionEncoder(AttentionProjections, Aggregation):
    r"""Atoms attend to the atoms of their token, and are averaged to tokens.

    .. math::
        h = \mathrm{LayerNorm}(x), \qquad
        \alpha^h_{ab} = \mathrm{softmax}_b\left(
        \frac{(W^h_q h_a) \cdot (W^h_k h_b)}{\sqrt{d}} + W^h_e e_{ab} \right), \qquad
        t = \Vert_h \frac{1}{n} \sum_{a, b} \alpha^h_{ab} W^h_v h_b

    with atoms :math:`a, b` over the :math:`n` atoms of a token. With ``reduce="sum"``
    the :math:`1/n` is left out. The mean does not know how many atoms a token has; the
    sum suits properties that add up over atoms, such as energies, volumes or logP.

    As an :class:`~torch_geometric.nn.aggr.Aggregation` it also pools graphs,
    ``encoder(x, batch)``, and is the ``aggr`` of message passing layers, whose messages
    to a node then attend to each other; what merely scales a message, such as an edge
    weight, is lost in the LayerNorm. It is the core of the atom attention encoder of
    `AlphaFold 3 <https://doi.org/10.1038/s41586-024-07487-w>`_, Algorithm 5 of its
    supplement, with tokens in place of sequence-local windows.

    Args:
        in_channels (int): Channels ``C`` of the atoms, ``-1`` for the first input's.
        out_channels (int): Channels ``d`` of every head. (default: ``32``)
        heads (int): Number of heads ``H``. (default: ``4``)
        concat (bool): Concatenate the heads; else average them. (default: ``True``)
        bias (bool): Give the projections an additive bias. (default: ``False``)
        edge_dim (int, optional): Number of a pair's features. (default: ``None``)
        dropout (float): Probability to drop a weight in training. (default: ``0.0``)
        reduce (str): ``"mean"`` or ``"sum"`` of a token's atoms. (default: ``"mean"``)
        backend (str): ``"auto"``, or the name of a backend: ``"edges"`` is the
            definition by message passing, ``"dense"`` uses batched matrix products,
            ``"triton"`` fused kernels on an NVIDIA GPU. (default: ``"auto"``)

    Shapes:
        - input: atoms ``[N, C]``; the token of every atom ``[N]``, integers in any
          order, or a :class:`~pyg_atomenc.attention.TokenLayout`; pair features
          ``[E, edge_dim]`` in the order of ``layout.to_edge_index()``
        - output: tokens ``[T, H * d]``, ``[T, d]`` without ``concat``; with
          ``return_attention_weights`` also each atom's weight ``[N, H]``

    Raises:
        ValueError: If a size is not positive, an option unknown, or inputs do not fit.

    Example:
        >>> encoder = AtomAttentionEncoder(64)
        >>> tokens = encoder(torch.randn(5, 64), torch.tensor([0, 0, 1, 1, 1]))
        >>> tokens.shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 32,
        heads: int = 4,
        concat: bool = True,
        *,
        bias: bool = False,
        edge_dim: Optional[int] = None,
        dropout: float = 0.0,
        reduce: str = "mean",
        backend: str = "auto",
    ) -> None:
        check_choice("reduce", reduce, ("mean", "sum"))
        options: Any = {"edge_dim": edge_dim, "dropout": dropout, "backend": backend}
        super().__init__(in_channels, out_channels, heads, concat, bias=bias, **options)
        # In place of a helper of Aggregation, which no method here needs.
        self.reduce: Any = reduce

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call :meth:`forward`, with hooks."""
        # Not by Aggregation, which reads the largest token from the device, takes no
        # layout, and has a message of its own for what fails inside.
        return torch.nn.Module.__call__(self, *args, **kwargs)

    def forward(
        self,
        x: Tensor,
        index: Union[Tensor, TokenLayout, None] = None,
        ptr: Optional[Tensor] = None,
        dim_size: Optional[int] = None,
        dim: int = -2,
        *,
        edge_attr: Optional[Tensor] = None,
        return_attention_weights: Optional[bool] = None,
        batch: Optional[Tensor] = None,
    ) -> Union[Tensor, tuple[Tensor, Tensor]]:
        """Encode atoms; shapes are those of the class.

        The arguments in front are those of PyG's aggregations. Without ``index`` and
        ``ptr`` all atoms are one token.

        Args:
            x (Tensor): Atom features.
            index (Tensor or TokenLayout, optional): The token of every atom, or the
                layout made of it. A tensor is sorted and checked at every call, which
                on a GPU waits for the device; a layout is not.
            ptr (Tensor, optional): In place of ``index``, or beside it: the atoms of
                token ``t`` are ``ptr[t]`` to ``ptr[t + 1] - 1``; ``[T + 1]``.
            dim_size (int, optional): The number of tokens, empty ones included.
                (default: the largest token id plus one)
            dim (int): That of the atoms, the first of two. (default: ``-2``)
            edge_attr (Tensor, optional): Features of the pairs of atoms in tokens.
            return_attention_weights (bool, optional): Also give the atoms' weights in
                the mean, before dropout; they sum to 1 in a non-empty token.
            batch (Tensor, optional): The graph of every atom ``[N]``; when given, a
                token with atoms in two graphs is an error.

        Returns:
            Tensor or tuple: ``tokens``, empty ones zeros, or ``(tokens, weights)``.
        """
        self.check_features(x, "lin_query", "lin_key", "lin_value")
        check_choice("dim", dim, (-2, 0))
        if index is None and ptr is None:
            index = torch.zeros(x.size(0), dtype=torch.long, device=x.device)
            dim_size = min(x.size(0), 1) if dim_size is None else dim_size
        layout = attention.as_token_layout(index, x.size(0), dim_size, batch, ptr=ptr)
        layout.check_device("x", x)
        bias = self.edge_bias(edge_attr, layout.num_pairs)
        linears = (self.lin_query, self.lin_key, self.lin_value)
        fused = fuse_projections(linears, (self.heads, self.out_channels), x)
        dropout = self.dropout if self.training else 0.0
        options: Any = {"dropout": dropout, "backend": self.backend}
        if fused is None:
            h = attention.layer_norm(x, exact=True)
            projected = self.project(h, h)
            tokens, weights = attention_pool(*projected, layout, bias, **options)
        else:
            options |= {"biases": fused[1], "return_weights": return_attention_weights}
            tokens, weights = attention_encode(x, fused[0], layout, bias, **options)
        tokens = self.merge_heads(tokens)
        if self.reduce == "sum":
            # Half types hold few sizes exactly, and the largest of them not at all.
            dtype = attention.accumulate_dtype(tokens.dtype)
            sizes = layout.sizes.to(dtype).unsqueeze(1)
            tokens = (tokens.to(dtype) * sizes).to(tokens.dtype)
        return (tokens, weights) if return_attention_weights else tokens
