"""Attention over a layout, as pure functions: layout → backend → result."""

from pyg_atomenc.attention.autograd import is_autocast_enabled, without_autocast
from pyg_atomenc.attention.dispatch import backends, check_backend
from pyg_atomenc.attention.edges import EdgeAttention
from pyg_atomenc.attention.exact import layer_norm
from pyg_atomenc.attention.functional import attention, attention_encode, attention_pool
from pyg_atomenc.attention.inputs import Bias, accumulate_dtype
from pyg_atomenc.attention.layouts.base import Layout
from pyg_atomenc.attention.layouts.border import as_layout, as_token_layout
from pyg_atomenc.attention.layouts.edge import EdgeLayout
from pyg_atomenc.attention.layouts.token import TokenLayout, check_token_index
from pyg_atomenc.attention.layouts.window import WindowBias, WindowLayout
from pyg_atomenc.attention.ragged import take
from pyg_atomenc.attention.tracing import is_readable, refuse_script, unwrapped

__all__ = [
    "Bias", "EdgeAttention", "EdgeLayout", "Layout", "TokenLayout", "WindowBias",
    "WindowLayout", "accumulate_dtype", "as_layout", "as_token_layout", "attention",
    "attention_encode", "attention_pool", "backends", "check_backend",
    "check_token_index", "is_autocast_enabled", "is_readable", "layer_norm",
    "refuse_script", "take", "unwrapped", "without_autocast",
]  # fmt: skip
