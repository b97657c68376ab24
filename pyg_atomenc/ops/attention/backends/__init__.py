"""The ways to compute token attention; `edges` is the definition of them all."""

from pyg_atomenc.ops.attention.backends.base import Backend
from pyg_atomenc.ops.attention.backends.dense import DenseBackend
from pyg_atomenc.ops.attention.backends.edges import (
    EdgeAttention,
    EdgesBackend,
    attend_edges,
)
from pyg_atomenc.ops.attention.backends.triton import TritonBackend

__all__ = [
    "Backend",
    "DenseBackend",
    "EdgeAttention",
    "EdgesBackend",
    "TritonBackend",
    "attend_edges",
]
