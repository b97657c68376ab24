"""`AtomAttentionEncoder`: from atoms to tokens."""

from typing import Optional, Union

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parameter import UninitializedParameter
from torch_geometric.nn.dense import Linear

from pyg_atomenc.attention import (
    TokenLayout,
    attention_encode,
    attention_pool,
)
from pyg_atomenc.attention.inputs import check_device
from pyg_atomenc.checks import check_sizes
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.nn.projections import (
    check_atoms,
    check_in_channels,
    check_options,
    edge_bias,
    make_linear,
)


class AtomAttentionEncoder(torch.nn.Module):
    r"""Atoms attend to the atoms of their token, and are averaged to tokens.

    .. math::
        h = \mathrm{LayerNorm}(x), \qquad
        \alpha^h_{ab} = \mathrm{softmax}_b\left(
        \frac{(W^h_q h_a) \cdot (W^h_k h_b)}{\sqrt{d}} + W^h_e e_{ab} \right), \qquad
        t = \Vert_h \frac{1}{n} \sum_{a, b} \alpha^h_{ab} W^h_v h_b

    with atoms :math:`a, b` over the :math:`n` atoms of a token. It is the core of the
    atom attention encoder of AlphaFold 3 (`"Accurate structure prediction of
    biomolecular interactions with AlphaFold 3"
    <https://doi.org/10.1038/s41586-024-07487-w>`_, Algorithm 5 of its supplement),
    with tokens in place of sequence-local windows.

    Args:
        in_channels (int): Channels ``C`` of the atoms, ``-1`` to take them from the
            first input.
        head_channels (int): Channels ``d`` of every head. (default: ``32``)
        heads (int): Number of heads ``H``. (default: ``4``)
        bias (bool): Give the projections an additive bias. (default: ``False``)
        edge_dim (int, optional): Number of features of every pair of atoms in a token.
            (default: ``None``)
        dropout (float): Probability to drop an attention weight when training.
            (default: ``0.0``)
        backend (str): ``"auto"``, or the name of a backend:  ``"edges"`` is the
            definition by message passing, ``"dense"`` uses batched matrix products,
            ``"triton"`` fused kernels on an NVIDIA GPU.
            (default: ``"auto"``)

    Shapes:
        - input: atoms ``[N, C]``; tokens ``[N]`` integer or a
          :class:`~pyg_atomenc.attention.TokenLayout`; pair features
          ``[E, edge_dim]`` in the order of ``layout.to_edge_index()``
        - output: tokens ``[T, H * d]``; with ``return_attention_weights`` also how much
          every atom counts in its token ``[N, H]``

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
        head_channels: int = 32,
        heads: int = 4,
        *,
        bias: bool = False,
        edge_dim: Optional[int] = None,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_in_channels(in_channels)
        check_sizes(head_channels=head_channels, heads=heads)
        check_options(edge_dim, dropout, backend)
        self.in_channels = in_channels
        self.head_channels = head_channels
        self.heads = heads
        self.edge_dim = edge_dim
        self.dropout = dropout
        self.backend = backend
        width = heads * head_channels
        self.lin_query = make_linear(in_channels, width, bias)
        self.lin_key = make_linear(in_channels, width, bias)
        self.lin_value = make_linear(in_channels, width, bias)
        self.lin_edge = (
            None if edge_dim is None else make_linear(edge_dim, heads, False)
        )
        self.reset_parameters()

    @property
    def out_channels(self) -> int:
        """Channels of the tokens, ``H * d``."""
        return self.heads * self.head_channels

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for linear in (self.lin_query, self.lin_key, self.lin_value, self.lin_edge):
            if linear is not None:
                linear.reset_parameters()

    def forward(
        self,
        x: Tensor,
        atom_to_token: Union[Tensor, TokenLayout],
        num_tokens: Optional[int] = None,
        edge_attr: Optional[Tensor] = None,
        return_attention_weights: Optional[bool] = None,
        batch: Optional[Tensor] = None,
    ) -> Union[Tensor, tuple[Tensor, Tensor]]:
        """Encode atoms; shapes are those of the class.

        Args:
            x (Tensor): Atom features.
            atom_to_token (Tensor or TokenLayout): The token of every atom, or the
                layout made of it. A tensor is sorted and checked at every call, which
                on a GPU waits for the device; a layout is not.
            num_tokens (int, optional): The number of tokens, empty ones included.
                (default: the largest token id plus one)
            edge_attr (Tensor, optional): Features of the pairs of atoms in tokens.
                (default: ``None``)
            return_attention_weights (bool, optional): Also give the atoms' weights,
                before dropout. They sum to 1 in every token that is not empty.
                (default: ``None``)
            batch (Tensor, optional): The graph of every atom ``[N]``; when given, a
                token with atoms in two graphs is an error. (default: ``None``)

        Returns:
            Tensor or tuple: ``tokens``, or ``(tokens, weights)``. Empty tokens are
            zeros.
        """
        check_atoms("x", x, self.lin_query.in_channels, self.lin_query.weight)
        layout = self._layout(x, atom_to_token, num_tokens, batch)
        bias = edge_bias(self.lin_edge, edge_attr, layout.num_pairs)
        dropout = self.dropout if self.training else 0.0
        weights = self._plain_weights(x)
        if weights is None:
            tokens, counted = self._encode_by_modules(x, layout, bias, dropout)
        else:
            tokens, counted = attention_encode(
                x,
                weights,
                layout,
                bias,
                biases=self._plain_biases(weights[0]),
                dropout=dropout,
                backend=self.backend,
            )
        tokens = tokens.flatten(1)
        return (tokens, counted) if return_attention_weights else tokens

    def _projections(self) -> tuple[Linear, Linear, Linear]:
        return self.lin_query, self.lin_key, self.lin_value

    def _encode_by_modules(
        self, x: Tensor, layout: TokenLayout, bias: Optional[Tensor], dropout: float
    ) -> tuple[Tensor, Tensor]:
        h = F.layer_norm(x, x.shape[-1:])
        query, key, value = (
            linear(h).view(-1, self.heads, self.head_channels)
            for linear in self._projections()
        )
        return attention_pool(
            query,
            key,
            value,
            layout,
            bias,
            dropout=dropout,
            backend=self.backend,
            return_weights=True,
        )

    def _plain_weights(self, x: Tensor) -> Optional[tuple[Tensor, Tensor, Tensor]]:
        """The weights ``[H, d, C]``, if calling the projections does nothing else.

        A projection that the user replaced, or put a hook on, has to be called.
        """
        for linear in self._projections():
            if type(linear) is not Linear:
                return None
            if isinstance(linear.weight, UninitializedParameter):
                linear(x[:0])
            if _has_hooks(linear):
                return None
        shape = (self.heads, self.head_channels, -1)
        dtype = _projection_dtype(x, self.lin_query.weight)
        query, key, value = (
            linear.weight.to(dtype).view(shape) for linear in self._projections()
        )
        return query, key, value

    def _plain_biases(self, like: Tensor) -> Optional[tuple[Tensor, Tensor, Tensor]]:
        if self.lin_query.bias is None:
            return None
        query, key, value = (
            linear.bias.to(like.dtype).view(like.shape[:2])
            for linear in self._projections()
        )
        return query, key, value

    def _layout(
        self,
        x: Tensor,
        atom_to_token: Union[Tensor, TokenLayout],
        num_tokens: Optional[int],
        batch: Optional[Tensor],
    ) -> TokenLayout:
        if isinstance(atom_to_token, TokenLayout):
            layout = atom_to_token
            if num_tokens is not None and num_tokens != layout.num_tokens:
                raise AtomEncodingError(
                    f"'num_tokens' is {num_tokens}, but the layout has "
                    f"{layout.num_tokens} tokens: leave 'num_tokens' out."
                )
            if batch is not None and not torch.compiler.is_compiling():
                layout.check_batch(batch)
        else:
            layout = TokenLayout.from_index(atom_to_token, num_tokens, batch)
        if layout.num_atoms != x.size(0):
            raise AtomEncodingError(
                f"'x' has {x.size(0)} atoms, but 'atom_to_token' {layout.num_atoms}: "
                f"give every atom one row and one token."
            )
        check_device("x", x, layout)
        return layout

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.in_channels}, {self.head_channels}, "
            f"heads={self.heads})"
        )


def _has_hooks(module: torch.nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _projection_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The type that a linear layer computes in, under autocast or not."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return weight.dtype
