"""A bias on the logits of windows, laid out as the logits themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_atomenc.attention.layouts.base import Layout, register_pytree
from pyg_atomenc.attention.layouts.window import WindowLayout
from pyg_atomenc.attention.ragged import take
from pyg_atomenc.checks import check_type
from pyg_atomenc.errors import AtomEncodingError


@dataclass(frozen=True, eq=False, repr=False)
class WindowBias:
    """What :func:`~pyg_atomenc.attention.attention` adds to the logits of windows.

    A bias with one row an edge serves as well, but is sorted into windows at every
    call. Where one bias serves many calls, as the steps of a diffusion sampler do, make
    this of it once.

    Attributes:
        values (Tensor): ``[K, H, W, keys]`` of a layout with ``K`` windows of ``W``
            queries: at ``[k, h, i, j]`` the bias of head ``h`` for the ``i``-th query
            and the ``j``-th key of window ``k``; ``-inf`` where the window has fewer
            than ``j`` keys, any finite number where it has fewer than ``i`` queries.
    """

    values: Tensor

    @staticmethod
    def from_edges(bias: Tensor, layout: WindowLayout) -> "WindowBias":
        """Sort a bias into windows.

        Args:
            bias (Tensor): ``[E, H]``, one row an edge of ``layout.to_edge_index()``.
            layout (WindowLayout): The windows.

        Raises:
            ValueError: If there is not one row an edge.
        """
        is_tensor = isinstance(bias, Tensor)
        if not is_tensor or bias.dim() != 2 or bias.size(0) != layout.num_pairs:
            found = list(bias.shape) if is_tensor else type(bias).__name__
            raise AtomEncodingError(
                f"'bias' needs the shape [{layout.num_pairs}, heads], one row for "
                f"every edge of layout.to_edge_index(), found: {found}."
            )
        if layout.num_windows == 0:
            return WindowBias(
                bias.new_zeros(0, bias.size(1), layout.queries, layout.keys)
            )
        edge, _ = layout.pair_index()
        return WindowBias.from_windows(take(bias, edge).movedim(-1, 1), layout)

    @staticmethod
    def from_windows(values: Tensor, layout: WindowLayout) -> "WindowBias":
        """Close the places that are no keys.

        Args:
            values (Tensor): ``[K, H, W, keys]``, finite.
            layout (WindowLayout): The windows.
        """
        _, is_key = layout.key_index()
        return WindowBias(values.masked_fill(~is_key[:, None, None], -torch.inf))

    def to_edges(self, layout: WindowLayout) -> Tensor:
        """The bias with one row an edge of ``layout.to_edge_index()``, ``[E, H]``."""
        _, is_edge = layout.pair_index()
        return self.values.movedim(1, -1)[is_edge]

    def shape_for(self, layout: Layout, heads: int) -> list[int]:
        """The shape that a layout and a number of heads need.

        Raises:
            ValueError: If the layout is not one of windows.
        """
        mend = (
            f"'bias' is {self}, which is of windows; pass a tensor with one row for "
            f"every edge of layout.to_edge_index()."
        )
        windows = check_type("layout", layout, WindowLayout, mend)
        return [windows.num_windows, heads, windows.queries, windows.keys]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.values.shape)})"


register_pytree(WindowBias, ("values",))
