"""Attention between the atoms of a token, as pure functions."""

from pyg_atomenc.attention.dispatch import backends
from pyg_atomenc.attention.functional import attention, attention_encode, attention_pool
from pyg_atomenc.attention.layouts.token import TokenLayout
from pyg_atomenc.attention.layouts.window import WindowLayout
from pyg_atomenc.attention.layouts.window_bias import WindowBias

__all__ = [
    "TokenLayout",
    "WindowBias",
    "WindowLayout",
    "attention",
    "attention_encode",
    "attention_pool",
    "backends",
]
