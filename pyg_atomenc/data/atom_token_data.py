"""`AtomTokenData`: a graph of atoms that also knows its tokens."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.storage import GlobalStorage

from pyg_atomenc.attention import TokenLayout, check_token_index
from pyg_atomenc.errors import AtomEncodingError

# Where a batch carries the layout that its loader built.
LAYOUT_KEY = "built_layout"


def is_token_attr(key: str) -> bool:
    """Whether an attribute's name says that it belongs to the tokens."""
    return key == "num_tokens" or key.startswith("token_")


def has_own_rows(key: str) -> bool:
    """Whether an attribute's name says that its rows are neither atoms nor bonds.

    They are tokens, pairs of atoms in tokens, or edges by distance.
    """
    return is_token_attr(key) or key.startswith(("pair_", "radius_"))


class _AtomTokenStorage(GlobalStorage):
    """Tells token attributes from atom and bond attributes by name, not by length."""

    @property
    def can_infer_num_nodes(self) -> bool:
        return "atom_to_token" in self or super().can_infer_num_nodes

    @property
    def num_nodes(self) -> Optional[int]:
        # PyG knows these names; without them it would guess from the edges.
        if any(key in self for key in ("num_nodes", "x", "pos", "batch")):
            return super().num_nodes
        index = self.get("atom_to_token")
        return index.size(0) if isinstance(index, Tensor) else super().num_nodes

    @num_nodes.setter
    def num_nodes(self, num_nodes: Optional[int]) -> None:
        self["num_nodes"] = num_nodes

    def is_node_attr(self, key: str) -> bool:
        return not has_own_rows(key) and super().is_node_attr(key)

    def is_edge_attr(self, key: str) -> bool:
        return not has_own_rows(key) and super().is_edge_attr(key)

    @property
    def num_edges(self) -> int:
        # Without bonds, PyG would count any other edges.
        other = any("edge" in key and has_own_rows(key) for key in self)
        if other and "edge_index" not in self and "adj_t" not in self:
            return 0
        return super().num_edges


class AtomTokenData(Data):
    r"""A graph whose nodes are atoms, each of which belongs to one token.

    It batches with PyG's :class:`~torch_geometric.loader.DataLoader` as any
    :class:`~torch_geometric.data.Data` does, and in addition

    * ``atom_to_token`` of each further graph is shifted by the ``num_tokens`` of the
      graphs before it, so that no two graphs share a token, and trailing empty tokens
      are kept;
    * attributes named ``token_*`` are concatenated over the tokens, unshifted, but for
      ``token_edge_index``, which is shifted by tokens, and ``token_batch``, which is
      shifted by graphs;
    * masking transforms and :meth:`subgraph` leave ``token_*`` alone even where there
      are as many tokens as atoms; what names pairs of atoms, ``pair_attr`` and
      ``radius_*``, keeps the pairs of which both are left.

    Args:
        x (Tensor, optional): Atom features ``[N, C]``. (default: ``None``)
        edge_index (Tensor, optional): Bonds ``[2, E]``, int64. (default: ``None``)
        edge_attr (Tensor, optional): Bond features ``[E, D]``. (default: ``None``)
        y (Tensor, optional): Labels. (default: ``None``)
        pos (Tensor, optional): Positions ``[N, 3]`` in ångström. (default: ``None``)
        time (Tensor, optional): As in PyG. (default: ``None``)
        atom_to_token (Tensor, optional): The token of every atom ``[N]``, int64 with
            values in ``[0, num_tokens)``, in any order. (default: ``None``)
        num_tokens (int, optional): The number of tokens ``T``, empty ones included.
            (default: ``atom_to_token.max() + 1``)
        **kwargs: Further attributes.

    Raises:
        ValueError: If ``atom_to_token`` is no vector of integers in
            ``[0, num_tokens)``.
    """

    def __init__(
        self,
        x: Optional[Tensor] = None,
        edge_index: Optional[Tensor] = None,
        edge_attr: Optional[Tensor] = None,
        y: Any = None,
        pos: Optional[Tensor] = None,
        time: Optional[Tensor] = None,
        *,
        atom_to_token: Optional[Tensor] = None,
        num_tokens: Optional[int] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.__dict__["_store"] = _AtomTokenStorage(_parent=self)
        named = dict(
            x=x,
            edge_index=edge_index,
            edge_attr=edge_attr,
            y=y,
            pos=pos,
            time=time,
            **kwargs,
        )
        for key, value in named.items():
            if value is not None:
                setattr(self, key, value)
        if atom_to_token is not None:
            self.num_tokens = check_token_index(atom_to_token, num_tokens)
            self.atom_to_token = atom_to_token
        elif num_tokens is not None:
            self.num_tokens = num_tokens

    @property
    def total_num_tokens(self) -> int:
        """Tokens of this graph, or of all graphs where this is a batch."""
        num_tokens = self._store.get("num_tokens")
        if num_tokens is None:
            raise AtomEncodingError(
                "'num_tokens' is missing from this AtomTokenData: set it to the number "
                "of tokens when you set 'atom_to_token', so that graphs can be batched."
            )
        return int(num_tokens.sum() if isinstance(num_tokens, Tensor) else num_tokens)

    @property
    def token_batch(self) -> Tensor:
        """The graph of every token ``[T]``, int64; zeros where this is no batch."""
        stored = self._store.get("token_batch")
        if stored is not None:
            return stored
        index = self._store.get("atom_to_token")
        device = index.device if isinstance(index, Tensor) else None
        total = self.total_num_tokens
        if hasattr(self, "_slice_dict"):
            sizes = torch.as_tensor(self.num_tokens, device=device).flatten()
            graphs = torch.arange(sizes.numel(), device=device)
            return graphs.repeat_interleave(sizes, output_size=total)
        return torch.zeros(total, dtype=torch.long, device=device)

    @token_batch.setter
    def token_batch(self, value: Tensor) -> None:
        self._store["token_batch"] = value

    def token_layout(self) -> TokenLayout:
        """The layout of this graph's or batch's tokens, for any layer that takes one.

        It is built at every call, so keep it for the batch, best before that moves to a
        GPU: ``layout = batch.token_layout().to(device)``. A batch from a
        :class:`~pyg_atomenc.data.AtomTokenLoader` carries its layout along: then it is
        only handed out.
        """
        stored = self._store.get(LAYOUT_KEY)
        if stored is not None:
            return stored
        self._check_has_tokens()
        return TokenLayout.from_index(
            self.atom_to_token, self.total_num_tokens, batch=self._store.get("batch")
        )

    def validate(self, raise_on_error: bool = True) -> bool:
        """Check bonds, token assignment and the length of every token attribute.

        Args:
            raise_on_error (bool): Raise at the first fault; else return ``False``.
                (default: ``True``)

        Returns:
            bool: Whether everything holds.

        Raises:
            ValueError: If something does not hold and ``raise_on_error``.
        """
        try:
            super().validate(raise_on_error=True)
            self._validate_tokens()
        except ValueError:
            if raise_on_error:
                raise
            return False
        return True

    def subgraph(self, subset: Tensor) -> "AtomTokenData":
        """The graph of some atoms, and of the bonds and pairs between them.

        Args:
            subset (Tensor): The atoms to keep, as a mask ``[N]`` or as indices.

        Returns:
            AtomTokenData: With the same tokens, of which some may be empty.
        """
        self._check_has_tokens()
        out = super().subgraph(subset)
        if subset.dtype == torch.bool:
            subset = subset.nonzero().flatten()
        number = subset.new_full((self.atom_to_token.size(0),), -1)
        number[subset] = torch.arange(subset.numel(), device=subset.device)
        if "radius_edge_index" in self:
            edges = number[self.radius_edge_index]
            kept = (edges >= 0).all(dim=0)
            out.radius_edge_index = edges[:, kept]
            out.radius_distance = self.radius_distance[kept]
        if "pair_attr" in self:
            # The new layout may list the pairs that are left in another order.
            known = number[self.token_layout().to_edge_index()]
            rows = (known >= 0).all(dim=0).nonzero().flatten()
            source, target = known[:, rows]
            order = (source * subset.numel() + target).argsort()
            source, target = out.token_layout().to_edge_index()
            rank = (source * subset.numel() + target).argsort().argsort()
            out.pair_attr = self.pair_attr[rows[order][rank]]
        return out

    def _check_has_tokens(self) -> None:
        if "atom_to_token" not in self:
            raise AtomEncodingError(
                "'atom_to_token' is missing from this AtomTokenData: set it to the "
                "token of every atom, for example torch.arange(num_atoms)."
            )

    def _validate_tokens(self) -> None:
        self._check_has_tokens()
        total = self.total_num_tokens
        check_token_index(self.atom_to_token, total, batch=self._store.get("batch"))
        if self.atom_to_token.size(0) != self.num_nodes:
            raise AtomEncodingError(
                f"'atom_to_token' has {self.atom_to_token.size(0)} entries for "
                f"{self.num_nodes} atoms: give every atom exactly one token."
            )
        for key in ("z", "pos", "x", "formal_charge"):
            value = self._store.get(key)
            if isinstance(value, Tensor) and value.size(0) != self.num_nodes:
                raise AtomEncodingError(
                    f"'{key}' has {value.size(0)} rows for {self.num_nodes} atoms: "
                    f"give it one row per atom."
                )
        for key, value in self._store.items():
            if not key.startswith("token_") or key.startswith("token_edge_"):
                continue
            if isinstance(value, Tensor) and value.dim() > 0 and len(value) != total:
                raise AtomEncodingError(
                    f"'{key}' has {len(value)} rows for {total} tokens: attributes "
                    f"named token_* hold one row per token."
                )

        self._validate_edges()

    def _validate_edges(self) -> None:
        """Check edges other than bonds, and features of pairs."""
        ends = {"token_edge_index": self.total_num_tokens}
        ends["radius_edge_index"] = self.atom_to_token.size(0)
        rows = {}
        for key, count in ends.items():
            edges = self._store.get(key)
            if edges is None:
                continue
            if edges.numel() and not 0 <= edges.min() <= edges.max() < count:
                raise AtomEncodingError(
                    f"'{key}' has values from {edges.min()} to {edges.max()}: they "
                    f"must lie in [0, {count})."
                )
            rows[key.split("_")[0]] = (edges.size(1), f"edges in '{key}'")
        if "pair_attr" in self:
            pairs = self.token_layout().num_pairs
            rows["pair"] = (pairs, "pairs of atoms in tokens")
        for key in ("token_edge_attr", "radius_distance", "pair_attr"):
            value, known = self._store.get(key), rows.get(key.split("_")[0])
            if value is not None and known is not None and len(value) != known[0]:
                raise AtomEncodingError(
                    f"'{key}' has {len(value)} rows for {known[0]} {known[1]}: make "
                    f"it anew from this graph."
                )

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """How much the next graph's values shift when graphs are batched."""
        if key in ("atom_to_token", "token_edge_index"):
            return self.total_num_tokens
        if key == "token_batch":
            return 1
        if is_token_attr(key):
            return 0
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """The dimension along which an attribute is concatenated."""
        if is_token_attr(key):
            return -1 if key == "token_edge_index" else 0
        return super().__cat_dim__(key, value, *args, **kwargs)
