"""`PairBiasAttention`: gated attention with a pair bias, over any layout."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention import WindowBias, attention
from pyg_atomenc.attention.dispatch import check_backend
from pyg_atomenc.attention.edges import attend_edges
from pyg_atomenc.attention.inputs import Bias, Layout
from pyg_atomenc.checks import check_sizes
from pyg_atomenc.errors import AtomEncodingError


@dataclass(frozen=True, eq=False)
class EdgeList:
    """A checked edge list, until :class:`EdgeLayout` takes its place."""

    edge_index: Tensor
    num_atoms: int

    @property
    def num_pairs(self) -> int:
        """The number of edges."""
        return self.edge_index.size(1)


class PairBiasAttention(torch.nn.Module):
    r"""Gated multi-head attention with a bias for every pair of atoms.

    .. math::
        W_o \, \Vert_h \, \sigma(W^h_g x_a) \odot \sum_b \mathrm{softmax}_b\left(
        \frac{(W^h_q x_a + b_q) \cdot (W^h_k x_b)}{\sqrt{d}} + \beta^h_{ab}
        \right) W^h_v x_b

    Algorithm 24 of AlphaFold 3's supplement
    (https://doi.org/10.1038/s41586-024-07487-w), without its norms and residual.

    Args:
        channels (int): Channels ``C`` of the atoms, a multiple of the heads.
        heads (int): Number of heads ``H``. (default: ``4``)
        backend (str): ``"auto"`` or the name of a backend. (default: ``"auto"``)

    Shapes:
        - input: atoms ``[N, C]``, or ``[M, N, C]`` for ``M`` samples that share layout
          and bias; the bias ``[E, H]`` or a
          :class:`~pyg_atomenc.attention.WindowBias`
        - output: as the atoms

    Raises:
        ValueError: If a size is not positive, or the inputs do not fit.
    """

    def __init__(self, channels: int, heads: int = 4, backend: str = "auto") -> None:
        super().__init__()
        check_sizes(channels=channels, heads=heads)
        check_backend(backend)
        if channels % heads:
            raise AtomEncodingError(
                f"'channels' is {channels} for {heads} heads: pass a multiple of the "
                f"heads."
            )
        self.channels = channels
        self.heads = heads
        self.backend = backend
        self.lin_query = torch.nn.Linear(channels, channels)
        self.lin_key = torch.nn.Linear(channels, channels, bias=False)
        self.lin_value = torch.nn.Linear(channels, channels, bias=False)
        self.lin_gate = torch.nn.Linear(channels, channels, bias=False)
        self.lin_out = torch.nn.Linear(channels, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; the output starts at zero."""
        for linear in (self.lin_query, self.lin_key, self.lin_value, self.lin_gate):
            linear.reset_parameters()
        torch.nn.init.zeros_(self.lin_out.weight)

    def forward(self, x: Tensor, layout: Layout, bias: Optional[Bias] = None) -> Tensor:
        """Attend; shapes are those of the class.

        Args:
            x (Tensor): Atoms.
            layout (TokenLayout, WindowLayout or EdgeLayout): Which atoms attend to
                which.
            bias (Tensor or WindowBias, optional): Added to the logits.
                (default: ``None``)
        """
        query, key, value = (
            linear(x).unflatten(-1, (self.heads, -1))
            for linear in (self.lin_query, self.lin_key, self.lin_value)
        )
        if x.dim() == 2:
            out = self._attend(query, key, value, layout, bias)
        elif x.size(0) == 0:
            out = value
        else:
            samples = zip(query, key, value, strict=True)
            out = torch.stack([self._attend(*s, layout, bias) for s in samples])
        return self.lin_out(self.lin_gate(x).sigmoid() * out.flatten(-2))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        bias: Optional[Bias],
    ) -> Tensor:
        # Softmax and sums stay in float32 under autocast.
        with torch.autocast(query.device.type, enabled=False):
            if isinstance(layout, EdgeList):
                assert not isinstance(bias, WindowBias)  # made for windows alone
                return attend_edges(layout.edge_index, query, key, value, bias)
            return attention(query, key, value, layout, bias, backend=self.backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channels}, heads={self.heads})"
