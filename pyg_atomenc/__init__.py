"""Attention from atoms to tokens, as PyTorch Geometric layers."""

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.nn import AtomAttentionEncoder, TokenAttentionConv, token_graph

__version__ = "0.2.0"

__all__ = [
    "AtomAttentionEncoder", "AtomTokenData", "TokenAttentionConv", "TokenLayout",
    "token_graph",
]  # fmt: skip
