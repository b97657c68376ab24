"""Which atoms attend to which: three layouts, one protocol."""

from pyg_atomenc.attention.layouts.base import Layout
from pyg_atomenc.attention.layouts.border import (
    as_layout,
    as_token_layout,
    check_layout,
)
from pyg_atomenc.attention.layouts.edge import EdgeLayout
from pyg_atomenc.attention.layouts.token import TokenLayout, check_token_index
from pyg_atomenc.attention.layouts.window import (
    WindowBias,
    WindowLayout,
    check_window_sizes,
)

__all__ = [
    "EdgeLayout",
    "Layout",
    "TokenLayout",
    "WindowBias",
    "WindowLayout",
    "as_layout",
    "as_token_layout",
    "check_layout",
    "check_token_index",
    "check_window_sizes",
]
