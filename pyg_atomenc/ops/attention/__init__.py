"""Attention between the atoms of a token, as pure functions."""

from pyg_atomenc.ops.attention.api import attention, attention_encode, attention_pool
from pyg_atomenc.ops.attention.dispatch import backends
from pyg_atomenc.ops.attention.layout import TokenLayout
from pyg_atomenc.ops.attention.window_bias import WindowBias
from pyg_atomenc.ops.attention.window_layout import WindowLayout

__all__ = [
    "TokenLayout",
    "WindowBias",
    "WindowLayout",
    "attention",
    "attention_encode",
    "attention_pool",
    "backends",
]
