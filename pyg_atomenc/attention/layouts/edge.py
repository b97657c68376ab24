"""Which nodes attend to which: any list of edges, checked once."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.layouts.base import Layout, register_pytree
from pyg_atomenc.attention.layouts.token import sort_atoms, sort_atoms_op
from pyg_atomenc.attention.tracing import is_readable, is_tracing, unwrapped
from pyg_atomenc.checks import check_integer, check_range, found
from pyg_atomenc.errors import AtomEncodingError


@dataclass(frozen=True, eq=False, repr=False)
class EdgeLayout(Layout):
    """The edges of a graph, over which targets attend to their sources.

    Build one with :meth:`from_edge_index`.

    Attributes:
        edge_index (Tensor): Rows (source, target) = (key, query), ``[2, E]``, int64.
        num_sources, num_targets (int): How many nodes are attended to, and attend.
    """

    edge_index: Tensor
    num_sources: int = 0
    num_targets: int = 0

    kind = "edges"
    tensors = ("edge_index",)

    @staticmethod
    def from_edge_index(
        edge_index: Tensor,
        num_sources: int,
        num_targets: Optional[int] = None,
        *,
        name: str = "edge_index",
    ) -> "EdgeLayout":
        """Check edges once; on a GPU, which would wait for it, not their values.

        Args:
            edge_index (Tensor): Rows (source, target), ``[2, E]``, int64 or int32; of
                int64 no copy is made, so do not edit it while the layout is used.
            num_sources (int): The number of source nodes.
            num_targets (int, optional): Of target nodes. (default: ``num_sources``)
            name (str): What errors call the edges. (default: ``"edge_index"``)

        Raises:
            ValueError: If the edges are no such list, or leave the nodes.
        """
        num_targets = num_sources if num_targets is None else num_targets
        is_edges = isinstance(edge_index, Tensor) and edge_index.shape[:-1] == (2,)
        if not is_edges or edge_index.dtype not in (torch.int64, torch.int32):
            mend = "pass a layout, or edges [2, num_edges] of int64 or int32."
            raise AtomEncodingError(f"'{name}' is {found(edge_index)}: {mend}")
        edge_index = unwrapped(name, edge_index)
        readable = is_readable(edge_index)
        if not is_tracing():
            num_sources = check_integer("num_sources", num_sources, 0)
            num_targets = check_integer("num_targets", num_targets, 0)
        if edge_index.is_cpu and readable:
            check_range(f"{name}[0]", edge_index[0], num_sources, "source nodes")
            check_range(f"{name}[1]", edge_index[1], num_targets, "target nodes")
        if readable:
            # Autograd could not use what inference mode makes.
            with torch.inference_mode(False):
                copied = edge_index.clone() if edge_index.is_inference() else edge_index
                edge_index = copied.long()
        return EdgeLayout(edge_index.long(), num_sources, num_targets)

    def by_target(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edges by target ``[E]``; their pointers ``[num_targets + 1]``, and on CPU."""
        target = self.edge_index[1]
        if not is_readable(target):
            return sort_atoms_op(target, self.num_targets)
        version = 0 if target.is_inference() else target._version
        known, found = self.__dict__.get("_by_target", (-1, None))
        if known != version:
            with torch.inference_mode(False):
                found = sort_atoms(target, self.num_targets)
            self.__dict__["_by_target"] = version, found
        return found

    @property
    def num_pairs(self) -> int:  # type: ignore[override]
        """The number of edges ``E``."""
        return self.edge_index.size(1)

    def to_edge_index(self) -> Tensor:
        """The edges as they were given, ``[2, E]``, int64."""
        return self.edge_index


register_pytree(EdgeLayout, EdgeLayout.tensors, ("num_sources", "num_targets"))
