"""A bias on the logits of windows, laid out as the logits themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_atomenc.attention.layouts.base import register_pytree
from pyg_atomenc.attention.layouts.window import WindowLayout
from pyg_atomenc.attention.ragged import take
from pyg_atomenc.checks import check_shape


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
        hint = "one row for every edge of layout.to_edge_index()"
        check_shape("bias", bias, layout.num_pairs, "heads", hint=hint)
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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.values.shape)})"


register_pytree(WindowBias, ("values",))
