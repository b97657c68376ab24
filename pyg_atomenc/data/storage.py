"""Which attributes belong to atoms, bonds or tokens, as their names say."""

from typing import Optional

from torch import Tensor
from torch_geometric.data.storage import GlobalStorage


def is_token_attr(key: str) -> bool:
    """Whether an attribute's name says that it belongs to the tokens."""
    return key == "num_tokens" or key.startswith("token_")


def has_own_rows(key: str) -> bool:
    """Whether an attribute's name says that its rows are neither atoms nor bonds.

    They are tokens, pairs of atoms in tokens, or edges by distance.
    """
    return is_token_attr(key) or key.startswith(("pair_", "radius_"))


class AtomTokenStorage(GlobalStorage):
    """Tells token attributes from atom and bond attributes by name, not by length."""

    @property
    def can_infer_num_nodes(self) -> bool:
        """Whether an attribute says how many atoms there are."""
        return "atom_to_token" in self or super().can_infer_num_nodes

    @property
    def num_nodes(self) -> Optional[int]:
        """The number of atoms."""
        # PyG knows these names; without them it would guess from the edges.
        if any(key in self for key in ("num_nodes", "x", "pos", "batch")):
            return super().num_nodes
        index = self.get("atom_to_token")
        return index.size(0) if isinstance(index, Tensor) else super().num_nodes

    @num_nodes.setter
    def num_nodes(self, num_nodes: Optional[int]) -> None:
        self["num_nodes"] = num_nodes

    def is_node_attr(self, key: str) -> bool:
        """Whether an attribute has one row for each atom."""
        return not has_own_rows(key) and super().is_node_attr(key)

    def is_edge_attr(self, key: str) -> bool:
        """Whether an attribute has one row for each bond."""
        return not has_own_rows(key) and super().is_edge_attr(key)

    @property
    def num_edges(self) -> int:
        """The number of bonds, each direction counted."""
        # Without bonds, PyG would count any other edges.
        other = any("edge" in key and has_own_rows(key) for key in self)
        if other and "edge_index" not in self and "adj_t" not in self:
            return 0
        return super().num_edges
